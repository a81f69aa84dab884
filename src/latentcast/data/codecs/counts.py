"""Recordings as int16 counts, time-major ``(samples, leads)``; a crop costs microseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from latentcast.data.codecs.base import (
    Array,
    Ints,
    Payload,
    Runs,
    Stored,
    Target,
    Written,
    buffer,
    is_ours,
)
from latentcast.data.labels import Labels
from latentcast.data.manifest import SPLITS, StoreModel
from latentcast.data.statistics import LeadStatistics, LeadSums
from latentcast.errors import LatentcastError
from latentcast.signals.channels import MILLIVOLTS, Channels, Signal
from latentcast.signals.counts import choose_valid, quantise
from latentcast.signals.leads import CANONICAL_LEADS, canonical_names, in_canonical_order
from latentcast.signals.leads import DERIVED_FROM_I_AND_II as DERIVED
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.recording import INVALID, BadRecord, Recording
from latentcast.signals.resample import resample
from latentcast.source import RecordRef

_BLOCK = 1 << 20  # samples read at a time where a whole shard is looked through
Counts = npt.NDArray[np.int16]


class EcgShard(StoreModel):
    """One file of samples; ``samples`` counts time steps over all its records."""

    file: str
    samples: int
    sha256: str


class EcgManifest(StoreModel):
    """``manifest.json`` of a store of recordings.

    Attributes:
        scale: millivolts per count, or that of another ``unit``.
        signal: ``other`` where the channels are no ECG leads.
    """

    format_version: Literal[1]
    modality: Literal["ecg"]
    sampling_rate: float
    leads: tuple[str, ...]
    scale: float
    records: int
    shards: tuple[EcgShard, ...]
    index_sha256: str
    metadata_sha256: str
    splits: dict[str, tuple[int, ...]]
    statistics: LeadStatistics
    provenance: dict[str, Any]
    signal: Signal = "ecg"
    unit: str = MILLIVOLTS

    def shapes(self) -> list[tuple[int, ...]]:
        """Of the array of each shard."""
        return [(shard.samples, len(self.leads)) for shard in self.shards]


@dataclass(frozen=True)
class CountsOptions:
    """Arguments of ``ingest`` that are about recordings."""

    fs: float | None = None
    leads: Sequence[str] | None = None
    unit: str | None = None
    layout: str | None = None
    metadata: str | Path | None = None
    missing_leads: Literal["quarantine", "mask"] = "quarantine"
    scale: float = 0.001
    shortest: float = 1.0
    verify_checksums: bool = True
    signal: Signal = "ecg"

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise LatentcastError(f"--scale {self.scale:g}: must be positive, units per count")
        if not self.shortest >= 0:
            raise LatentcastError(f"--shortest {self.shortest:g}: must not be negative, in seconds")
        if self.fs is not None and not self.fs > 0:
            raise LatentcastError(f"--fs {self.fs}: is no sampling rate")
        if self.signal == "ecg" and self.leads is not None:
            _check_leads(self.leads)

    def provenance(self) -> dict[str, Any]:
        """As the manifest records them; ``signal`` where it is not the usual one."""
        options = asdict(self) | {
            "leads": None if self.leads is None else list(self.leads),
            "shortest": float(self.shortest),
        }
        del options["metadata"]  # is in the fingerprint
        if self.signal == "ecg":
            del options["signal"]
        return options

    def target(
        self,
        source: RecordingSource,
        refs: Sequence[RecordRef],
        finished: EcgManifest | None = None,
    ) -> CountsTarget:
        """What the records are brought to; the first readable one decides a rate not given."""
        leads, unit = self._leads(source)
        return CountsTarget(
            leads=leads,
            sampling_rate=self._rate(source, refs),
            scale=self.scale,
            mask_missing=self.missing_leads == "mask",
            resample=self.fs is not None,
            shortest=float(self.shortest),
            signal=self.signal,
            unit=unit,
        )

    def _leads(self, source: RecordingSource) -> tuple[tuple[str, ...], str]:
        """The leads of the store, and their unit."""
        if self.signal == "other":
            channels = Channels.of(self.leads or source.leads, self.unit)
            return channels.names, channels.unit
        named = source.leads or canonical_names(tuple(self.leads or CANONICAL_LEADS))
        derivable = set(named) | (set(DERIVED) if {"I", "II"} <= set(named) else set())
        if source.leads is not None and set(CANONICAL_LEADS) <= derivable:
            return CANONICAL_LEADS, MILLIVOLTS
        return in_canonical_order(named), MILLIVOLTS

    def _rate(self, source: RecordingSource, refs: Sequence[RecordRef]) -> float:
        if self.fs is not None:
            return float(self.fs)
        if source.sampling_rate is not None:
            return source.sampling_rate
        for ref in refs:
            if ref.problem is None:
                try:
                    return source.read(ref)[0].sampling_rate
                except Exception as error:
                    if is_ours(error):
                        raise
                    continue  # it gets its quarantine row when its turn comes
        # Nothing can be read: any rate does, the run ends with the reasons.
        return 1.0


def _check_leads(leads: Sequence[str]) -> None:
    if not leads:
        raise LatentcastError("--leads: names no lead; give names, for example --leads I,II,V1")
    try:
        canonical_names(tuple(leads))
    except LatentcastError as error:
        raise LatentcastError(
            f"--leads {','.join(leads)}: {error} (channels that are no ECG leads: --signal other)"
        ) from None


@dataclass(frozen=True)
class CountsTarget(Target[Recording, LeadSums]):
    """What every recording of the store is brought to.

    ``resample`` decides whether another rate is converted; without it such a record is refused, as
    is one that lasts less than ``shortest`` seconds.
    """

    leads: tuple[str, ...]
    sampling_rate: float
    scale: float
    mask_missing: bool
    resample: bool
    shortest: float
    signal: Signal = "ecg"
    unit: str = MILLIVOLTS

    pool: ClassVar[Literal["processes", "threads"]] = "processes"
    compared: ClassVar[str] = "samples"

    def plan(self) -> dict[str, Any]:
        plan = asdict(self) | {"leads": list(self.leads)}
        if self.signal == "ecg":
            del plan["signal"], plan["unit"]
        return plan

    def convert(self, sample: Recording, *, training: bool) -> Payload[LeadSums]:
        if sample.seconds < self.shortest:
            raise BadRecord(
                f"lasts {sample.seconds:.4g} s, shorter than {self.shortest:g} s; ingest with a "
                "smaller --shortest to keep it"
            )
        recording, findings = choose_valid(
            sample, self.leads, mask_missing=self.mask_missing, signal=self.signal
        )
        if recording.sampling_rate != self.sampling_rate:
            recording = self._resampled(recording)
        counts = quantise(recording, self.scale, self.unit)
        metadata = dict(recording.metadata)
        if findings:
            metadata["quality_findings"] = [
                {"kind": f.kind, "leads": list(f.leads), "message": f.message} for f in findings
            ]
        data = np.ascontiguousarray(counts.T).tobytes()
        return Payload(
            data=data,
            extent=recording.samples,
            length=recording.samples,
            digest=hashlib.blake2b(data, digest_size=16).hexdigest(),
            sums=LeadSums.of(counts, recording.valid) if training else None,
            runs=_invalid_runs(~recording.valid & (counts != INVALID)),
            metadata=metadata,
        )

    def _resampled(self, recording: Recording) -> Recording:
        if not self.resample:
            raise BadRecord(
                f"sampling rate is {recording.sampling_rate:g} Hz, the store has "
                f"{self.sampling_rate:g}; ingest with --fs {self.sampling_rate:g} to resample"
            )
        metadata = recording.metadata | {"source_sampling_rate": recording.sampling_rate}
        recording = resample(replace(recording, metadata=metadata), self.sampling_rate)
        if not recording.valid.any():
            raise BadRecord("is too short to resample: no valid sample remains")
        return recording

    def array(self, extent: int) -> tuple[str, tuple[int, ...]]:
        return "<i2", (extent, len(self.leads))

    def sums(self, stored: dict[str, Any] | None = None) -> LeadSums:
        if stored is None:
            return LeadSums.zero(len(self.leads))
        parts = (tuple(stored[name]) for name in ("samples", "total", "squares"))
        return LeadSums(stored["records"], *parts)

    def index(self, written: Written[LeadSums]) -> dict[str, Array]:
        labels = Labels.of_records(written.labels, written.classes)
        return {
            **written.places(),
            "record_id": np.array(written.record_id, dtype=np.str_),
            "patient_id": np.array(written.patient_id, dtype=np.str_),
            "fold": np.array(written.fold, dtype=np.int16),
            "invalid": np.array(written.runs, dtype=np.int64).reshape(-1, 4),
            "metadata_offset": np.array(written.metadata_offset, dtype=np.int64),
            "label_codes": np.array(labels.codes, dtype=np.str_),
            "label_indptr": labels.indptr,
            "label_indices": labels.indices,
            "label_values": labels.values,
        }

    def manifest(
        self, written: Written[LeadSums], index_sha256: str, provenance: dict[str, Any]
    ) -> EcgManifest:
        return EcgManifest(
            format_version=1,
            modality="ecg",
            sampling_rate=self.sampling_rate,
            leads=self.leads,
            scale=self.scale,
            records=len(written),
            shards=tuple(
                EcgShard(file=shard.file, samples=shard.extent, sha256=shard.sha256)
                for shard in written.shards
            ),
            index_sha256=index_sha256,
            metadata_sha256=written.metadata_sha256,
            splits=SPLITS,
            statistics=written.sums.statistics(self.scale),
            provenance=provenance,
            signal=self.signal,
            unit=self.unit,
        )


def _invalid_runs(masked: npt.NDArray[np.bool_]) -> Runs:
    """``(lead, start, stop)`` of every stretch of True in ``(leads, samples)``."""
    runs: Runs = []
    for lead in np.flatnonzero(masked.any(axis=1)).tolist():
        edges = np.diff(masked[lead].astype(np.int8), prepend=0, append=0)
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        runs += [
            (lead, start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
    return runs


class StoredCounts(Stored):
    """The recordings of a store.

    Attributes:
        lengths: samples of each record, int64 ``(N,)``.
    """

    columns: ClassVar[tuple[str, ...]] = ("shard", "offset", "length", "invalid")
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int16)

    def __init__(
        self, manifest: EcgManifest, columns: dict[str, Array], shards: Sequence[Array]
    ) -> None:
        self.manifest, self._shards = manifest, shards
        self.lengths: Ints = columns["length"]
        self._shard: Ints = columns["shard"].astype(np.int64)
        self._offset: Ints = columns["offset"]
        self._invalid: Ints = columns["invalid"]
        # Runs of record r are rows _first_run[r] to _first_run[r + 1] of _invalid.
        rows = np.arange(len(self.lengths) + 1)
        self._first_run = np.searchsorted(self._invalid[:, 0], rows)
        self._has_runs = np.diff(self._first_run) > 0

    def take(
        self, rows: Ints, starts: npt.ArrayLike | None, length: int | None, out: Array | None
    ) -> Array:
        """Crops int16 ``(len(rows), length, leads)``; see :meth:`Store.take`."""
        begins = np.zeros_like(rows) if starts is None else np.asarray(starts, dtype=np.int64)
        if begins.shape != rows.shape:
            raise ValueError(f"starts has shape {begins.shape}, rows has {rows.shape}")
        lengths = self.lengths[rows]
        if length is None:
            length = int(lengths.max()) if rows.size else 0
        crops = buffer(out, (len(rows), length, len(self.manifest.leads)), self.dtype)
        # One vectorised pass decides where each crop lies; the loop only copies.
        lows = np.clip(begins, 0, lengths)
        highs = np.clip(begins + length, 0, lengths)
        inside = (lows == begins) & (highs == begins + length)
        bases = self._offset[rows]
        shards = self._shards
        plan = zip(
            self._shard[rows].tolist(),
            (bases + lows).tolist(),
            (bases + highs).tolist(),
            strict=True,
        )
        for i, (shard, low, high) in enumerate(plan):
            if inside[i]:
                crops[i] = shards[shard][low:high]
            else:
                before = int(lows[i] - begins[i]) if low < high else 0
                crop = crops[i]
                crop[:before] = INVALID
                crop[before : before + high - low] = shards[shard][low:high]
                crop[before + high - low :] = INVALID
        for i in np.flatnonzero(self._has_runs[rows]).tolist():
            begin = int(begins[i])
            for lead, start, stop in self.runs(int(rows[i])):
                crops[i, max(start - begin, 0) : max(stop - begin, 0), lead] = INVALID
        return crops

    def runs(self, row: int) -> Runs:
        """``(lead, start, stop)`` of measured stretches of a record that are not valid."""
        runs: Runs = self._invalid[self._first_run[row] : self._first_run[row + 1], 1:].tolist()
        return runs

    def signal(self, row: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """A record in its physical unit ``(leads, samples)``, and which samples are valid."""
        offset = int(self._offset[row])
        counts = self._shards[int(self._shard[row])][offset : offset + int(self.lengths[row])].T
        signal = (counts * np.float64(self.manifest.scale)).astype(np.float32)
        valid = np.asarray(counts != INVALID)
        signal[~valid] = np.nan
        for lead, start, stop in self.runs(row):
            valid[lead, start:stop] = False
        return signal, valid

    def invalid_share(self) -> npt.NDArray[np.float64]:
        """Share of samples per lead that is not valid, ``(leads,)``; reads every sample."""
        invalid = np.zeros(len(self.manifest.leads), dtype=np.int64)
        for shard in self._shards:
            for start in range(0, len(shard), _BLOCK):
                invalid += (shard[start : start + _BLOCK] == INVALID).sum(axis=0)
        np.add.at(invalid, self._invalid[:, 1], self._invalid[:, 3] - self._invalid[:, 2])
        return invalid / max(int(self.lengths.sum()), 1)
