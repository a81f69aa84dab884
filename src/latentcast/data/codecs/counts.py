"""Recordings as int16 counts, time-major ``(samples, leads)``; a crop costs microseconds."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from latentcast.data.codecs.base import (
    Array,
    Ints,
    Payload,
    Runs,
    buffer,
    one_by_one,
    readable,
)
from latentcast.data.manifest import Manifest, Shard
from latentcast.data.patients import recorded as recorded_patients
from latentcast.data.statistics import ChannelSums
from latentcast.errors import LatentcastError
from latentcast.signals.channels import MILLIVOLTS, Channels, Signal
from latentcast.signals.counts import (
    FEWEST_COUNTS,
    LARGEST,
    choose_valid,
    quantise,
    rounded,
    stored_counts,
)
from latentcast.signals.leads import (
    CANONICAL_LEADS,
    canonical_names,
    check_names,
    in_canonical_order,
)
from latentcast.signals.leads import DERIVED_FROM_I_AND_II as DERIVED
from latentcast.signals.ordinary import ordinary
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.recording import (
    HIGHEST_RATE,
    INVALID,
    LOWEST_RATE,
    Recording,
    check_rate,
    hertz,
    stretches,
)
from latentcast.signals.resample import polyphase
from latentcast.source import BadRecord, Modality, RecordRef

_BLOCK = 1 << 20  # samples read at a time where a whole shard is looked through
LONGEST_TOGETHER = 2**16
"""Samples of a lead up to which recordings are looked at together: float32 adds up so many."""
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class CountsTarget:
    """What every recording of a new store is brought to.

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

    modality: ClassVar[Modality] = "ecg"
    pool: ClassVar[Literal["processes", "threads"]] = "processes"
    compared: ClassVar[str] = "samples"
    """What two recordings have in common that count as duplicates."""
    arguments: ClassVar[dict[str, Any]] = {
        "fs": None, "sampling_rate": None, "leads": None, "unit": None, "layout": None,
        "missing_leads": "quarantine", "scale": 0.001, "shortest": 1.0, "verify_checksums": True,
        "metadata": None, "signal": "ecg", "patients": None, "rename": None,
    }  # fmt: skip
    """Of ``ingest``, those about recordings, and their defaults."""
    columns: ClassVar[tuple[str, ...]] = (
        "shard", "offset", "length", "record_id", "patient_id", "fold", "invalid",
        "metadata_offset", "label_codes", "label_indptr", "label_indices", "label_values",
    )  # fmt: skip

    @classmethod
    def check(cls, arguments: Arguments) -> dict[str, Any]:
        """The arguments as the manifest records them.

        Raises:
            LatentcastError: one cannot be used.
        """
        fs, leads, scale, shortest = (arguments[n] for n in ("fs", "leads", "scale", "shortest"))
        if not scale > 0:
            raise LatentcastError(f"--scale {scale:g}: must be positive, units per count")
        if not shortest >= 0:
            raise LatentcastError(f"--shortest {shortest:g}: must not be negative, in seconds")
        if fs is not None:
            hertz(fs, "--fs")
        if isinstance(leads, str):
            raise LatentcastError(f"leads '{leads}': is one text; give a list of names")
        if leads is not None and arguments["signal"] == "ecg":
            _check_leads(leads)
        recorded = {**arguments, "leads": leads and list(leads), "shortest": float(shortest)}
        del recorded["metadata"]  # its content is in the fingerprint
        if recorded.pop("patients") is not None:
            recorded["patients"] = recorded_patients(arguments["patients"])
        # An array that keeps its rate is recorded as it always was, by the rate of the store alone.
        recorded["fs"] = _rate(arguments)
        if recorded["sampling_rate"] in (None, recorded["fs"]):
            del recorded["sampling_rate"]
        if recorded["signal"] == "ecg":
            del recorded["signal"]
        elif recorded["rename"] is not None:
            raise LatentcastError(
                "--rename: is for ECG leads, with --signal other --leads takes the names in the "
                "files; leave it out"
            )
        recorded["rename"] = recorded["rename"] and dict(recorded["rename"])
        if recorded["rename"] is None:
            del recorded["rename"]
        return recorded

    @classmethod
    def of(
        cls,
        source: RecordingSource,
        refs: Sequence[RecordRef],
        arguments: Arguments,
        finished: Manifest | None = None,
    ) -> CountsTarget:
        """From the arguments; without ``fs`` the first readable record decides the rate.

        Raises:
            LatentcastError: the rate that was given is none of an ECG.
        """
        for rate in (arguments["fs"], source.sampling_rate):
            if rate is not None and rate < LOWEST_RATE and arguments["signal"] == "ecg":
                raise LatentcastError(
                    f"a sampling rate of {rate:g} Hz: is too low for an ECG, which needs "
                    f"{LOWEST_RATE} at least; give --fs and --sampling-rate in samples a second "
                    "(or --signal other, for channels that are no ECG leads)"
                )
        leads, unit = _store_leads(source, arguments)
        return cls(
            leads=leads,
            sampling_rate=_store_rate(source, refs, arguments),
            scale=arguments["scale"],
            mask_missing=arguments["missing_leads"] == "mask",
            resample=_rate(arguments) is not None,
            shortest=float(arguments["shortest"]),
            signal=arguments["signal"],
            unit=unit,
        )

    def plan(self) -> dict[str, Any]:
        """As JSON, for the plan of an unfinished ingest."""
        plan = asdict(self) | {"leads": list(self.leads)}
        if self.signal == "ecg":
            del plan["signal"], plan["unit"]
        return plan

    def convert(self, sample: Recording, training: bool) -> Payload:
        """Raises BadRecord with the reason when the recording cannot be used."""
        if self.signal == "ecg":
            check_rate(sample.sampling_rate)
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
        counts = quantise(recording, self.scale, self.unit, self.signal)
        metadata = dict(recording.metadata)
        if findings:
            metadata["quality_findings"] = [
                {"kind": f.kind, "leads": list(f.leads), "message": f.message} for f in findings
            ]
        return self._payload(
            np.ascontiguousarray(counts.T),
            sums=ChannelSums.of(counts, recording.valid) if training else None,
            runs=_invalid_runs(~recording.valid & (counts != INVALID)),
            metadata=metadata,
            enlarged=sample.sampling_rate < self.sampling_rate,
        )

    def _payload(self, counts: npt.NDArray[np.int16], **fields: Any) -> Payload:
        """Of ``(samples, leads)``."""
        data = counts.tobytes()
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        return Payload(data=data, extent=len(counts), length=len(counts), digest=digest, **fields)

    def convert_together(
        self, samples: Sequence[Recording], training: Sequence[bool]
    ) -> list[Payload | Exception]:
        """:meth:`convert` of each, or what it raised: of ordinary ones of one shape all at once."""
        converted: list[Payload | Exception | None] = [None] * len(samples)
        alike = defaultdict[int, list[int]](list)
        for place, sample in enumerate(samples):
            if self._needs_no_change(sample):
                alike[sample.samples].append(place)
        for places in alike.values():
            chosen = [samples[place] for place in places]
            payloads = self._ordinary(chosen, [training[place] for place in places])
            for place, payload in zip(places, payloads, strict=True):
                converted[place] = payload
        return [
            one_by_one(self.convert, sample, trains) if found is None else found
            for found, sample, trains in zip(converted, samples, training, strict=True)
        ]

    def _needs_no_change(self, sample: Recording) -> bool:
        return (
            self.signal == "ecg"
            and sample.leads == self.leads
            and sample.sampling_rate == self.sampling_rate
            and LOWEST_RATE <= sample.sampling_rate <= HIGHEST_RATE
            and sample.seconds >= self.shortest
            and sample.samples <= LONGEST_TOGETHER
            and bool(sample.valid.all())
        )

    def _ordinary(
        self, samples: Sequence[Recording], training: Sequence[bool]
    ) -> list[Payload | None]:
        """Of recordings of one shape that need no change; None of what is to be looked at alone."""
        signals = np.stack([sample.signal for sample in samples])
        highs, lows = signals.max(axis=2), signals.min(axis=2)
        usual = ordinary(signals, self.leads, self.sampling_rate, highs, lows)
        scaled = rounded(signals, self.scale)
        # Rounding keeps the order.
        highs, lows = rounded(highs, self.scale), rounded(lows, self.scale)
        usual &= np.maximum(np.abs(highs), np.abs(lows)).max(axis=1) <= LARGEST
        usual &= (highs - lows).max(axis=1) >= FEWEST_COUNTS
        scaled[~usual] = 0  # what does not fit into int16
        counts = stored_counts(scaled)
        sums = ChannelSums.of_each(counts)
        in_time = np.ascontiguousarray(counts.transpose(0, 2, 1))
        return [
            self._payload(
                in_time[n],
                sums=sums[n] if training[n] else None,
                runs=[],
                metadata=dict(sample.metadata),
            )
            if usual[n]
            else None
            for n, sample in enumerate(samples)
        ]

    def _resampled(self, recording: Recording) -> Recording:
        if not self.resample:
            raise BadRecord(
                f"sampling rate is {recording.sampling_rate:g} Hz, the store has "
                f"{self.sampling_rate:g}; ingest with --fs {self.sampling_rate:g} to resample"
            )
        metadata = recording.metadata | {"source_sampling_rate": recording.sampling_rate}
        return polyphase(replace(recording, metadata=metadata), self.sampling_rate)

    def array(self, extent: int) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a shard's array, as a ``.npy`` header has them."""
        return "<i2", (extent, len(self.leads))

    def zero(self) -> ChannelSums:
        return ChannelSums.zero(len(self.leads))

    def index(self, columns: dict[str, Array]) -> dict[str, Array]:
        """The columns of ``index.npz``, in their order."""
        return {name: columns[name] for name in self.columns}

    def manifest(self, sums: ChannelSums) -> dict[str, Any]:
        """What the manifest holds of recordings alone."""
        fields = {name: getattr(self, name) for name in ("sampling_rate", "leads", "scale")}
        if self.signal == "other":
            fields |= {"signal": self.signal, "unit": self.unit}
        return fields | {"statistics": sums.of_leads(self.scale)}

    def shard(self, file: str, sha256: str, extent: int, lengths: list[int]) -> Shard:
        return Shard(file=file, samples=extent, sha256=sha256)


def _rate(arguments: Arguments) -> float | None:
    """Of the store, where it was given: ``fs``, or the rate of the array that it keeps."""
    fs: float | None = arguments["fs"]
    return arguments["sampling_rate"] if fs is None else fs


def _check_leads(leads: Sequence[str]) -> None:
    if not leads:
        raise LatentcastError("--leads: names no lead; give names, for example --leads I,II,V1")
    check_names(leads)
    try:
        canonical_names(leads)
    except LatentcastError as error:
        raise LatentcastError(
            f"--leads {','.join(leads)}: {error} (channels that are no ECG leads: --signal other)"
        ) from None


def _store_leads(source: RecordingSource, arguments: Arguments) -> tuple[tuple[str, ...], str]:
    """The leads of the store, and their unit."""
    leads = arguments["leads"]
    if arguments["signal"] == "other":
        channels = Channels.of(leads or source.leads, arguments["unit"])
        return channels.names, channels.unit
    named = source.leads or canonical_names(leads or CANONICAL_LEADS)
    derivable = set(named) | (set(DERIVED) if {"I", "II"} <= set(named) else set())
    if source.leads is not None and set(CANONICAL_LEADS) <= derivable:
        return CANONICAL_LEADS, MILLIVOLTS
    return in_canonical_order(named), MILLIVOLTS


def _store_rate(source: RecordingSource, refs: Sequence[RecordRef], arguments: Arguments) -> float:
    if (fs := _rate(arguments)) is not None:
        return float(fs)
    if source.sampling_rate is not None:
        return source.sampling_rate
    for _, (recording, _) in readable(refs, source.read):
        rate = recording.sampling_rate
        # The rate of all records must not be the wrong one of the first.
        if arguments["signal"] == "other" or LOWEST_RATE <= rate <= HIGHEST_RATE:
            return rate
    # Nothing can be read: any rate does, the run ends with the reasons.
    return 1.0


def _invalid_runs(masked: npt.NDArray[np.bool_]) -> Runs:
    """``(lead, start, stop)`` of every stretch of True in ``(leads, samples)``."""
    leads = np.flatnonzero(masked.any(axis=1)).tolist()
    return [(lead, start, stop) for lead in leads for start, stop in stretches(masked[lead])]


class StoredCounts:
    """The recordings of a store.

    Attributes:
        lengths: samples of each record, int64 ``(N,)``.
    """

    columns: ClassVar[tuple[str, ...]] = ("shard", "offset", "length", "invalid")
    """Of the index, what taking needs."""

    def __init__(
        self, manifest: Manifest, columns: dict[str, Array], shards: Sequence[Array]
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
        elif not isinstance(length, int | np.integer):
            raise LatentcastError(f"length: is {length}; give a whole number of samples")
        crops = buffer(out, (len(rows), length, len(self.manifest.leads)), np.int16)
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
