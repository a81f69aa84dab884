"""One record from its source to the integers of the store, or the reason why not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.manifest import SPLITS
from latentcast.data.statistics import LeadSums
from latentcast.errors import LatentcastError
from latentcast.signals.counts import choose_valid, quantise
from latentcast.signals.quality import Finding
from latentcast.signals.readers.source import Annotation, RecordRef, Source
from latentcast.signals.recording import INVALID, BadRecord, Recording
from latentcast.signals.resample import resample


@dataclass(frozen=True)
class Target:
    """What every record of the store looks like.

    ``resample`` says whether another rate is converted; without it such a record is refused, as is
    one that lasts less than ``shortest`` seconds.
    """

    leads: tuple[str, ...]
    sampling_rate: float
    scale: float
    mask_missing: bool
    resample: bool
    shortest: float


@dataclass(frozen=True)
class Converted:
    """A record ready to be appended.

    Attributes:
        counts: int16 ``(samples, leads)``, :data:`INVALID` where nothing was measured.
        runs: ``(lead, start, stop)`` of measured stretches that are not valid.
        digest: hash of the counts, equal for equal waveforms.
        sums: for the statistics, of a training record; None otherwise.
    """

    ref: RecordRef
    counts: npt.NDArray[np.int16]
    runs: list[tuple[int, int, int]]
    digest: str
    patient_id: str
    fold: int
    labels: dict[str, float]
    metadata: dict[str, Any]
    sums: LeadSums | None


@dataclass(frozen=True)
class Rejected:
    """A record that stays out, with the reason for ``quarantine.csv``."""

    record_id: str
    file: str
    reason: str


def stable_fold(name: str) -> int:
    """A fold from 1 to 10 that depends on the name alone, on every machine and for ever."""
    return 1 + int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % 10


def convert_all(
    source: Source, refs: Sequence[RecordRef], target: Target
) -> list[Converted | Rejected]:
    """Convert a batch of records, in order. Nothing one record does stops the others.

    Raises:
        LatentcastError: what no other record can do without either, such as an optional package
            that is not installed.
    """
    done: list[Converted | Rejected] = []
    for ref in refs:
        try:
            done.append(_convert(source, ref, target))
        except BadRecord as error:
            done.append(Rejected(ref.record_id, ref.file, str(error)))
        except Exception as error:
            if is_ours(error):
                raise
            # Foreign files fail in foreign ways; the type of the error is part of the reason.
            reason = f"{type(error).__name__}: {error}"
            done.append(Rejected(ref.record_id, ref.file, reason))
    return done


def is_ours(error: Exception) -> bool:
    """Whether the machine or its set-up is at fault, and not the record that was being read."""
    return isinstance(error, LatentcastError | MemoryError) and not isinstance(error, BadRecord)


def _convert(source: Source, ref: RecordRef, target: Target) -> Converted:
    if ref.problem is not None:
        raise BadRecord(ref.problem)
    recording, annotation = source.read(ref)
    if recording.seconds < target.shortest:
        raise BadRecord(
            f"lasts {recording.seconds:.4g} s, shorter than {target.shortest:g} s; ingest with a "
            "smaller --shortest to keep it"
        )
    recording, findings = choose_valid(recording, target.leads, mask_missing=target.mask_missing)
    if recording.sampling_rate != target.sampling_rate:
        if not target.resample:
            raise BadRecord(
                f"sampling rate is {recording.sampling_rate:g} Hz, the store has "
                f"{target.sampling_rate:g}; ingest with --fs {target.sampling_rate:g} to resample"
            )
        metadata = recording.metadata | {"source_sampling_rate": recording.sampling_rate}
        recording = resample(replace(recording, metadata=metadata), target.sampling_rate)
        if not recording.valid.any():
            raise BadRecord("is too short to resample: no valid sample remains")
    counts = quantise(recording, target.scale)
    return _converted(ref, recording, counts, annotation, findings)


def _converted(
    ref: RecordRef,
    recording: Recording,
    counts: npt.NDArray[np.int16],
    annotation: Annotation,
    findings: tuple[Finding, ...],
) -> Converted:
    patient = annotation.patient_id or recording.patient_id or ""
    fold = annotation.fold
    if fold is None:
        fold = stable_fold(patient or ref.record_id)
    elif not 1 <= fold <= 10:
        raise BadRecord(f"fold is {fold}, must be 1 to 10")
    metadata = recording.metadata | annotation.metadata
    if findings:
        metadata["quality_findings"] = [
            {"kind": f.kind, "leads": list(f.leads), "message": f.message} for f in findings
        ]
    runs: list[tuple[int, int, int]] = []
    masked = ~recording.valid & (counts != INVALID)
    for lead in np.flatnonzero(masked.any(axis=1)).tolist():
        edges = np.diff(masked[lead].astype(np.int8), prepend=0, append=0)
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        runs += [
            (lead, start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
    time_major = np.ascontiguousarray(counts.T)
    return Converted(
        ref=ref,
        counts=time_major,
        runs=runs,
        digest=hashlib.blake2b(time_major.tobytes(), digest_size=16).hexdigest(),
        patient_id=patient,
        fold=fold,
        labels=annotation.labels,
        metadata=metadata,
        sums=LeadSums.of(counts, recording.valid) if fold in SPLITS["train"] else None,
    )
