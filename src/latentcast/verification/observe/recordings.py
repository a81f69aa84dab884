"""Recordings of which every sample is fixed here, as files, and the stores made of them.

The files are written here byte by byte and the waves by their formula, in float64; the stores are
what the library's own ingest makes of them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.config import Config, EcgInput
from latentcast.data.fit import fitted
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.verification.observe.twin import Twin

Floats = npt.NDArray[np.float64]

TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
HALF_A_COUNT = 0.5 * (1.0 + 1e-3)
"""What storing may take: float32 of a few mV is off by less than a thousandth of a count."""
_R = (0.7, 1.1, -0.6, 0.5, 0.9, 1.4, 1.2, 0.8)
_T = (0.2, 0.3, -0.1, 0.35, 0.4, 0.25, 0.3, 0.15)


def wave(
    rate: float, samples: int, seed: int, bpm: float = 72.0, gain: float = 1.0, tone: float = 0.0
) -> Floats:
    """Twelve leads in mV, ``(12, samples)``: R peaks at :func:`beats`, T waves after them.

    Leads differ in the frequency of a slow sine, and records in its phase, by ``seed``.

    Args:
        tone: Hz of a sine of 0.3 mV on lead V1; 0 for none.
    """
    time = np.arange(samples) / rate
    peaks = beats(bpm, -1.0, samples / rate + 1.0)[:, None]
    rows: dict[str, Floats] = {}
    for n, name in enumerate(INDEPENDENT):
        size = gain * (1 + 0.13 * np.sin(1 + seed * (n + 1.7)))
        row = size * _R[n] * np.exp(-0.5 * ((time - peaks) / 0.015) ** 2).sum(0)
        row += size * _T[n] * np.exp(-0.5 * ((time - peaks - 0.24) / 0.04) ** 2).sum(0)
        row += 0.06 * np.sin(2 * np.pi * (0.8 + 0.3 * n) * time + 0.9 * seed + n)
        if name == "V1" and tone:
            row += 0.3 * np.sin(2 * np.pi * tone * time)
        rows[name] = row
    rows["III"] = rows["II"] - rows["I"]
    rows["aVR"] = -(rows["I"] + rows["II"]) / 2
    rows["aVL"] = rows["I"] - rows["II"] / 2
    rows["aVF"] = rows["II"] - rows["I"] / 2
    return np.stack([rows[name] for name in TWELVE])


def beats(bpm: float, begin: float, end: float) -> Floats:
    """Seconds of the R peaks between two times; one is at 0.31 s."""
    period = 60.0 / bpm
    first = int(np.ceil((begin - 0.31) / period))
    last = int(np.floor((end - 0.31) / period))
    return np.asarray(0.31 + period * np.arange(first, last + 1))


@dataclass(frozen=True)
class WrittenRecord:
    """What a file holds: mV ``(12, samples)`` in canonical order at its own rate."""

    signal: Floats
    rate: float
    file: Path


@dataclass(frozen=True)
class Cohort:
    """Records of one array, and the rows of the table beside it.

    Attributes:
        signals: mV ``(records, 12, samples)``; NaN where nothing was measured.
        dead: bool, flat stretches.
    """

    signals: Floats
    dead: npt.NDArray[np.bool_]
    rows: Sequence[Mapping[str, Any]]
    store: Store

    def counts(self) -> Floats:
        """Whole counts, rounded here, of the leads as float64; NaN where not measured."""
        # The file holds float32: what ingest read of each value is that.
        read = self.signals.astype(np.float32).astype(np.float64)
        return np.asarray(np.rint(read / self.store.scale))

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        return np.isfinite(self.signals) & ~self.dead

    def members(self, *folds: int) -> npt.NDArray[np.int64]:
        """Positions of the records that the table has in these folds."""
        return np.flatnonzero([int(row["strat_fold"]) in folds for row in self.rows])


@dataclass
class Recordings:
    """Sources of recordings in the shape a twin reads, written and ingested at the first use.

    Attributes:
        bad: of the records of :attr:`devices` that cannot be used, a word of the reason.
    """

    folder: Path
    rate: float
    length: int
    scale: float
    bad: dict[str, str] = field(default_factory=dict)

    @cached_property
    def devices(self) -> dict[str, WrittenRecord]:
        """A WFDB folder: units, gains, baselines, lead orders, a rate of its own."""
        folder = self.folder / "devices"
        folder.mkdir(parents=True)
        samples = max(round(4 * self.rate), self.length)
        records = {}

        def write(name: str, seed: int, **options: Any) -> None:
            records[name] = write_record(folder, name, seed, self.rate, samples, **options)

        write("millivolts", 1, gain=1000, unit="mV")
        write("microvolts", 2, gain=1, unit="uV")
        write("volts", 3, gain=1_000_000, unit="V")
        write("coarse", 4, gain=200, unit="mV")
        write("baseline", 5, gain=400, baseline=-700, unit="mV")
        shuffled = ("V3", "aVF", "II", "V6", "aVL", "I", "V1", "aVR", "V5", "III", "V2", "V4")
        spelled = {"aVF": "AVF", "aVL": "avl", "aVR": "aVR", "II": "MLII", "V3": "ECG_V3"}
        write("shuffled", 6, order=shuffled, spelled=spelled)
        write("avf-before-avl", 7, order=(*TWELVE[:4], "aVF", "aVL", *TWELVE[6:]))
        write("eight-leads", 8, order=INDEPENDENT)
        short = round(0.6 * self.length)
        records["short"] = write_record(folder, "short", 9, self.rate, short)
        if find_spec("scipy"):
            for name, tone in (("faster", 0.0), ("humming", 0.8 * self.rate)):
                seed, rate, longer = 10 + len(name), 2.5 * self.rate, round(2.5 * samples)
                records[name] = write_record(
                    folder, name, seed, rate, longer, bpm=97.0, tone=tone
                )  # fmt: skip
        self._write_bad(folder, samples)
        return records

    def _write_bad(self, folder: Path, samples: int) -> None:
        """Records that cannot be used, and why."""
        write_record(folder, "bad-short-file", 20, self.rate, samples)
        file = folder / "bad-short-file.dat"
        file.write_bytes(file.read_bytes()[:-100])
        write_record(folder, "bad-sum", 21, self.rate, samples)
        raw = bytearray((folder / "bad-sum.dat").read_bytes())
        raw[2401] ^= 0x10
        (folder / "bad-sum.dat").write_bytes(raw)
        write_record(folder, "bad-lead", 22, self.rate, samples, spelled={"V2": "temperature"})
        write_record(folder, "bad-unit", 23, self.rate, samples, unit="mmHg")
        write_record(folder, "zz-millivolts-again", 1, self.rate, samples, gain=1000, unit="mV")
        self.bad |= {
            "bad-short-file": "truncated", "bad-sum": "checksum", "bad-lead": "V2",
            "bad-unit": "mmHg", "zz-millivolts-again": "duplicate",
        }  # fmt: skip

    @cached_property
    def device_store(self) -> Store:
        assert self.devices
        return self.ingested(self.folder / "devices")

    def stored(self, name: str) -> Floats:
        """What the store has of a record of :attr:`devices`: :func:`millivolts_of`."""
        return millivolts_of(self.device_store, name)

    @cached_property
    def cohort(self) -> Cohort:
        """Forty records of twenty patients: official folds, labels, gaps; each split another."""
        samples = round(1.4 * self.length)
        signals, rows = [], []
        for n in range(40):
            patient = n // 2
            fold = patient % 10 + 1
            size = {9: 1.7, 10: 2.5}.get(fold, 1.0) * (1.0 if patient < 10 else 1.4)
            signal = wave(self.rate, samples, 100 + n, 55 + 2 * n, size)
            # Held-out splits lie elsewhere: statistics that saw them are others.
            signals.append(signal + {9: 0.4, 10: 0.8}.get(fold, 0.0))
            codes = {"NORM": 100.0} if patient < 10 else {"IMI": 0.0}
            codes |= {"LVH": 35.0} if n % 2 else {}
            rows.append({
                "ecg_id": str(n + 1), "patient_id": str(500 + patient), "strat_fold": str(fold),
                "scp_codes": repr(codes | {"SR": 0.0}),
            })  # fmt: skip
        # In fifths of a count: none lies at a half, where the last digit of a float decides.
        signal = np.rint(np.stack(signals) * 5 / self.scale) * self.scale / 5
        dead = np.zeros(signal.shape, bool)
        # Shorter than what counts as an electrode off, which zeros in a gap would be taken for.
        gap = round(min(0.1 * self.length, 0.3 * self.rate))
        flat = max(round(1.3 * self.rate), 4)
        signal[0, 7, gap : 3 * gap] = np.nan  # in V2
        signal[20, 1, -gap:] = np.nan
        dead[2, 10, 5 : 5 + flat] = True  # V5, an electrode off, beside the range of the others
        signal[2, 10, 5 : 5 + flat] = 2.5
        return Cohort(signal, dead, rows, self._array("cohort", signal, rows))

    @cached_property
    def unfolded(self) -> Cohort:
        """Forty short records of eight patients, and a table without folds."""
        samples = max(round(0.4 * self.rate), 20)
        signal = np.stack([wave(self.rate, samples, 300 + n, 110) for n in range(40)])
        rows = [{"record_id": f"walk-in-{n}", "patient_id": f"visitor {n // 5}"} for n in range(40)]
        return self._cohort("unfolded", signal, rows)

    @cached_property
    def leaking(self) -> Cohort:
        """Four records: a test one with a training record's waveform of the cohort under another
        name, a patient in two splits, and two without fault."""
        own = [wave(self.rate, round(1.4 * self.length), 400 + n) for n in range(3)]
        signal = np.stack([*own, self.cohort.signals[5]])
        patients, folds = ("a", "b", "a", "d"), (1, 2, 10, 10)
        rows = [
            {"record_id": f"other-{n}", "patient_id": patients[n], "strat_fold": str(folds[n]),
             "scp_codes": "{}"}
            for n in range(4)
        ]  # fmt: skip
        return self._cohort("other", signal, rows)

    def _cohort(self, name: str, signal: Floats, rows: Sequence[Mapping[str, Any]]) -> Cohort:
        return Cohort(signal, np.zeros(signal.shape, bool), rows, self._array(name, signal, rows))

    @cached_property
    def clock(self) -> Store:
        """Two records of which every sample encodes its time and its lead: :meth:`instants`."""
        samples = round(1.25 * self.length)
        time, lead = np.arange(samples)[:, None], np.arange(12)[None]
        counts = [base + self._tick * time + lead for base in (-32000, 100)]
        rows = [
            {"record_id": f"clock-{n}", "patient_id": str(n), "strat_fold": "1", "scp_codes": "{}"}
            for n in range(2)
        ]  # fmt: skip
        signals = np.stack(counts).transpose(0, 2, 1) * self.scale
        return self._array("clock", signals, rows, TWELVE)

    def instants(self, counts: npt.NDArray[np.int16]) -> Floats:
        """The sample of the clock at which each count ``(..., leads)`` was taken; NaN for none."""
        wide = counts.astype(np.float64)
        since = np.where(wide < 50, wide + 32000, wide - 100) - np.arange(12)
        return np.where(wide == -32768, np.nan, since / self._tick)

    @property
    def _tick(self) -> int:
        return 30_000 // round(1.25 * self.length)

    def _array(
        self, name: str, signals: Floats, rows: Sequence[Mapping[str, Any]],
        order: Sequence[str] = ("V6", "V5", "V4", "V3", "V2", "V1", *TWELVE[:6]),
    ) -> Store:  # fmt: skip
        """An array file with its channels in another order, its table, and the store of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{name}.npy"
        channels = [TWELVE.index(lead) for lead in order]
        np.save(file, signals[:, channels].transpose(0, 2, 1).astype(np.float32))
        write_table(file.with_suffix(".csv"), rows)
        return self.ingested(
            file, sampling_rate=self.rate, leads=order, unit="mV", layout="records,samples,leads"
        )

    def ingested(self, source: Path, **options: Any) -> Store:
        """The store of a source at the twin's rate and scale, beside it."""
        out = source.with_name(f"{source.stem}-store")
        return ingest(
            source, out, fs=self.rate, scale=self.scale, shortest=0.0, workers=1, quiet=True,
            **options,
        ).store  # fmt: skip


def millivolts_of(store: Store | None, name: str) -> Floats:
    """What a store has of a record, mV ``(12, samples)``; empty where it has none."""
    if store is None or name not in store.record_ids:
        return np.empty((12, 0))
    rows = np.flatnonzero(store.record_ids == name)
    counts = store.take(rows, [0], int(store.lengths[rows[0]]))[0].T
    return np.asarray(counts.astype(np.float64) * store.scale)


def write_record(
    folder: Path,
    name: str,
    seed: int,
    rate: float,
    samples: int,
    *,
    gain: float = 1000,
    baseline: int = 0,
    unit: str = "mV",
    order: Sequence[str] = TWELVE,
    spelled: Mapping[str, str] | None = None,
    bpm: float = 72.0,
    tone: float = 0.0,
) -> WrittenRecord:
    """A WFDB record in format 16, and what its counts are by the header's own terms."""
    per = {"V": 1e-3, "uV": 1e3}.get(unit, 1.0)
    signal = wave(rate, samples, seed, bpm, tone=tone)
    digital = np.rint(signal * per * gain) + baseline
    counts = digital[[TWELVE.index(lead) for lead in order]].T.astype("<i2")
    calibrations = [f"{gain:.0f}({baseline})/{unit}"] * len(order)
    spellings = [(spelled or {}).get(lead, lead) for lead in order]
    file = folder / f"{name}.dat"
    header = write_wfdb(file, "16", counts.tobytes(), rate, counts, calibrations, spellings)
    return WrittenRecord((digital - baseline) / gain / per, rate, header)


def write_wfdb(
    file: Path, storage: str, data: bytes, rate: float, counts: npt.NDArray[Any],
    calibrations: Sequence[str], names: Sequence[str],
) -> Path:  # fmt: skip
    """A WFDB record of counts ``(samples, leads)``, its header beside it; the header's path.

    Args:
        file: of ``data``.
        storage: its format, as ``16``.
        calibrations: gain, baseline and unit of each lead, as ``1000(0)/mV``.
    """
    file.write_bytes(data)
    lines = [f"{file.stem} {len(names)} {rate:g} {len(counts)}"]
    for name, calibrated, column in zip(names, calibrations, counts.T, strict=True):
        total = int(column.astype(np.int64).sum()) % 65536
        lines.append(f"{file.name} {storage} {calibrated} 16 0 {column[0]} {total} 0 {name}")
    header = file.with_suffix(".hea")
    header.write_text("\n".join(lines) + "\n")
    return header


def write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def recordings(twin: Twin) -> Recordings:
    """Recordings at the twin's rate and length, made once."""
    shape = twin.config.input
    assert isinstance(shape, EcgInput)
    own = Recordings(twin.folder / "fixtures", shape.sampling_rate, shape.length, shape.scale)
    return twin.once("recordings", lambda: own)


def config_for(twin: Twin, store: Store, **changes: Any) -> Config:
    """The twin's configuration, normalised by another store, its batches in one piece.

    Without filters, after which no sample is a count of the store any more.
    """
    own = {"input.normalisation": None, "input.filters": (), "train.micro_batches": 1}
    return fitted(twin.config.updated(own | changes), store)


def apart(a: Floats, b: Floats) -> float:
    """The largest difference; infinite where one is longer."""
    if a.shape != b.shape or not a.size:
        return float("inf")
    return float(np.nan_to_num(np.abs(a - b), nan=np.inf).max())


def is_ecg(twin: Twin) -> bool:
    return isinstance(twin.config.input, EcgInput)


def has_twelve_leads(twin: Twin) -> bool:
    """The standard ones, which the fixtures have."""
    return isinstance(twin.config.input, EcgInput) and twin.config.input.leads == TWELVE
