"""Recordings and images of which every sample is known, as files, and the stores made of them.

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

from latentcast.config import EcgInput
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.verification.observe.rehearsal import once
from latentcast.verification.observe.twin import Subject

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
_R = (0.7, 1.1, -0.6, 0.5, 0.9, 1.4, 1.2, 0.8)
_T = (0.2, 0.3, -0.1, 0.35, 0.4, 0.25, 0.3, 0.15)


def wave(
    rate: float, samples: int, seed: int, bpm: float = 72.0, gain: float = 1.0, tone: float = 0.0
) -> Floats:
    """Twelve leads in mV, ``(12, samples)``: R peaks at :func:`beats`, T waves after them.

    A slow sine of its own frequency tells each lead, and ``seed`` one record from the next.

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
class Truth:
    """What a record holds: mV ``(12, samples)`` in canonical order at its own rate."""

    signal: Floats
    rate: float
    file: Path


@dataclass(frozen=True)
class Cohort:
    """Records of one array, and what the table beside it says of each.

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
        return np.asarray(np.rint(self.signals.astype(np.float32).astype(np.float64) * 1000))

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        return np.isfinite(self.signals) & ~self.dead

    def members(self, *folds: int) -> npt.NDArray[np.int64]:
        """Positions of the records whose table says one of these folds."""
        return np.flatnonzero([int(row["strat_fold"]) in folds for row in self.rows])


@dataclass
class Recordings:
    """Sources of recordings in the shape a subject reads, written and ingested when asked for."""

    folder: Path
    rate: float
    length: int
    scale: float
    bad: dict[str, str] = field(default_factory=dict)

    @cached_property
    def devices(self) -> dict[str, Truth]:
        """A WFDB folder: units, gains, baselines, lead orders, a rate of its own."""
        folder = self.folder / "devices"
        folder.mkdir(parents=True)
        samples = max(round(4 * self.rate), self.length)
        truth = {}

        def write(name: str, seed: int, **said: Any) -> None:
            truth[name] = write_record(folder, name, seed, self.rate, samples, **said)

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
        truth["short"] = write_record(folder, "short", 9, self.rate, short)
        if find_spec("scipy"):
            for name, tone in (("faster", 0.0), ("humming", 0.8 * self.rate)):
                seed, rate = 10 + len(name), 2.5 * self.rate
                said: dict[str, Any] = {"bpm": 97.0, "tone": tone}
                truth[name] = write_record(folder, name, seed, rate, round(2.5 * samples), **said)
        self._break(folder, samples)
        return truth

    def _break(self, folder: Path, samples: int) -> None:
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
            "bad-short-file": "truncated", "bad-sum": "checksum", "bad-lead": "temperature",
            "bad-unit": "mmHg", "zz-millivolts-again": "duplicate",
        }  # fmt: skip

    @cached_property
    def device_store(self) -> Store:
        assert self.devices
        out = self.folder / "devices-store"
        return ingest(
            self.folder / "devices", out, fs=self.rate, scale=self.scale, shortest=0.0,
            workers=1, quiet=True,
        ).store  # fmt: skip

    def stored(self, name: str) -> Floats:
        """What the store holds of a record, mV ``(12, samples)``; empty where it has none."""
        store = self.device_store
        found = np.flatnonzero(store.record_ids == name)
        if not len(found):
            return np.empty((12, 0))
        counts = store.take(found, [0], int(store.lengths[found[0]]))[0].T
        return np.asarray(counts.astype(np.float64) * self.scale)

    @cached_property
    def cohort(self) -> Cohort:
        """Forty records of twenty patients: official folds, labels, gaps; each split another."""
        samples = round(1.4 * self.length)
        signals, rows = [], []
        for n in range(40):
            patient = n // 2
            fold = patient % 10 + 1
            size = {9: 1.7, 10: 2.5}.get(fold, 1.0) * (1.0 if patient < 10 else 1.4)
            made = wave(self.rate, samples, 100 + n, 55 + 2 * n, size)
            # Held-out splits lie elsewhere: statistics that saw them are others.
            signals.append(made + {9: 0.4, 10: 0.8}.get(fold, 0.0))
            codes = {"NORM": 100.0} if patient < 10 else {"IMI": 0.0}
            codes |= {"LVH": 35.0} if n % 2 else {}
            rows.append({
                "ecg_id": str(n + 1), "patient_id": str(500 + patient), "strat_fold": str(fold),
                "scp_codes": repr(codes | {"SR": 0.0}),
            })  # fmt: skip
        # In fifths of a count: none lies at a half, where the last digit of a float decides.
        truth = np.rint(np.stack(signals) * 5000) / 5000
        dead = np.zeros(truth.shape, bool)
        # Shorter than what counts as an electrode off, which zeros in a gap would be taken for.
        gap = round(min(0.1 * self.length, 0.3 * self.rate))
        flat = max(round(1.3 * self.rate), 4)
        truth[0, 7, gap : 3 * gap] = np.nan  # in V2
        truth[20, 1, -gap:] = np.nan
        dead[2, 10, 5 : 5 + flat] = True  # V5, an electrode off, beside the range of the others
        truth[2, 10, 5 : 5 + flat] = 2.5
        return Cohort(truth, dead, rows, self._array("cohort", truth, rows))

    @cached_property
    def unfolded(self) -> Cohort:
        """Forty short records of eight patients, and a table that says no folds."""
        samples = max(round(0.4 * self.rate), 20)
        truth = np.stack([wave(self.rate, samples, 300 + n, 110) for n in range(40)])
        rows = [{"record_id": f"walk-in-{n}", "patient_id": f"visitor {n // 5}"} for n in range(40)]
        store = self._array("unfolded", truth, rows)
        return Cohort(truth, np.zeros(truth.shape, bool), rows, store)

    @cached_property
    def leaking(self) -> Cohort:
        """Four records: a test one with a training record's waveform of the cohort under another
        name, a patient in two splits, and two without fault."""
        own = [wave(self.rate, round(1.4 * self.length), 400 + n) for n in range(3)]
        truth = np.stack([*own, self.cohort.signals[5]])
        patients, folds = ("a", "b", "a", "d"), (1, 2, 10, 10)
        rows = [
            {"record_id": f"other-{n}", "patient_id": patients[n], "strat_fold": str(folds[n]),
             "scp_codes": "{}"}
            for n in range(4)
        ]  # fmt: skip
        return Cohort(truth, np.zeros(truth.shape, bool), rows, self._array("other", truth, rows))

    @cached_property
    def clock(self) -> Store:
        """Two records whose every sample says when and in which lead it was: see :meth:`told`."""
        samples = round(1.25 * self.length)
        time, lead = np.arange(samples)[:, None], np.arange(12)[None]
        counts = [base + self._tick * time + lead for base in (-32000, 100)]
        rows = [
            {"record_id": f"clock-{n}", "patient_id": str(n), "strat_fold": "1", "scp_codes": "{}"}
            for n in range(2)
        ]  # fmt: skip
        signals = np.stack(counts).transpose(0, 2, 1) * self.scale
        return self._array("clock", signals, rows, TWELVE)

    def told(self, counts: npt.NDArray[np.int16]) -> Floats:
        """The sample at which each count ``(..., leads)`` was taken; NaN for none."""
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
        with file.with_suffix(".csv").open("w", newline="") as table:
            writer = csv.DictWriter(table, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return ingest(
            file, self.folder / f"{name}-store", fs=self.rate, leads=order, unit="mV",
            layout="records,samples,leads", scale=self.scale, shortest=0.0, workers=1, quiet=True,
        ).store  # fmt: skip


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
) -> Truth:
    """A WFDB record in format 16; the truth is what its counts say, by the header's own terms."""
    per = {"V": 1e-3, "uV": 1e3}.get(unit, 1.0)
    signal = wave(rate, samples, seed, bpm, tone=tone)
    digital = np.rint(signal * per * gain) + baseline
    counts = digital[[TWELVE.index(lead) for lead in order]].T.astype("<i2")
    (folder / f"{name}.dat").write_bytes(counts.tobytes())
    lines = [f"{name} {len(order)} {rate:g} {samples}"]
    for lead, column in zip(order, counts.T, strict=True):
        total = int(column.astype(np.int64).sum()) % 65536
        shown = (spelled or {}).get(lead, lead)
        calibrated = f"{gain:.0f}({baseline})/{unit}"
        lines.append(f"{name}.dat 16 {calibrated} 16 0 {column[0]} {total} 0 {shown}")
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return Truth((digital - baseline) / gain / per, rate, folder / f"{name}.hea")


@dataclass
class Pictures:
    """Labelled images in the size and channels a subject reads: arrays, and files of raw pixels."""

    folder: Path
    height: int
    width: int
    channels: int

    @cached_property
    def images(self) -> dict[str, Pixels]:
        """uint8 ``(n, height, width, channels)`` by split; the held-out ones are brighter."""
        generator = np.random.default_rng(5)
        made = {}
        for split, count, level in (("train", 48, 90.0), ("val", 12, 96.0), ("test", 12, 102.0)):
            noise = 12 * generator.standard_normal((count, self.height, self.width, self.channels))
            tint = level + 20 * np.arange(self.channels)
            rows = np.linspace(-20, 20, self.height)[:, None, None]
            kinds = self.labels[split][:, None, None, None] - 1.0
            wedge = kinds * np.linspace(20, 60, self.width)[:, None]
            made[split] = np.clip(noise + tint + rows + wedge, 0, 255).astype(np.uint8)
        return made

    @cached_property
    def labels(self) -> dict[str, npt.NDArray[np.int64]]:
        """Three classes, told by how bright an image is, above all on its right."""
        return {s: np.arange(n) % 3 for s, n in (("train", 48), ("val", 12), ("test", 12))}

    @cached_property
    def store(self) -> Store:
        return self._ingested("arrays", self.images, self.labels)

    @cached_property
    def leaking(self) -> Store:
        """Three images; the test one is a training image of the other store."""
        images = {s: self.images[s][:1] // 2 for s in ("train", "val")}
        return self._ingested("leaking", images | {"test": self.images["train"][7:8]}, {})

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Rows of the store by the names ingest gave them, in the order of the source."""
        place = {name: row for row, name in enumerate(self.store.record_ids.tolist())}
        prefix = {"val": "validation"}.get(split, split)
        return np.array([place[f"{prefix}-{n:06d}"] for n in range(len(self.images[split]))])

    @cached_property
    def files(self) -> Store:
        """The training images as PPM or PGM files, which are raw pixels behind a line of text."""
        folder = self.folder / "files"
        folder.mkdir(parents=True)
        kind = "P6" if self.channels == 3 else "P5"
        for n, image in enumerate(self.images["train"][:6]):
            head = f"{kind}\n{self.width} {self.height}\n255\n".encode()
            suffix = "ppm" if self.channels == 3 else "pgm"
            (folder / f"{n:02d}.{suffix}").write_bytes(head + image.tobytes())
        return ingest(folder, self.folder / "files-store", workers=1, quiet=True).store

    def _ingested(
        self, name: str, images: Mapping[str, Pixels], labels: Mapping[str, npt.NDArray[np.int64]]
    ) -> Store:
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f"x_{split}": held for split, held in images.items()}
        arrays |= {f"y_{split}": held for split, held in labels.items()}
        np.savez(self.folder / f"{name}.npz", **arrays)
        out = self.folder / f"{name}-store"
        return ingest(self.folder / f"{name}.npz", out, kind="image", workers=1, quiet=True).store


def recordings(subject: Subject) -> Recordings:
    """Known recordings at the subject's rate and length; the same ones when asked again."""
    wanted = subject.config.input
    assert isinstance(wanted, EcgInput)

    def made() -> Recordings:
        folder = subject.folder / "known"
        return Recordings(folder, wanted.sampling_rate, wanted.length, wanted.scale)

    return once(subject, "known recordings", made)


def pictures(subject: Subject) -> Pictures:
    """Known images in the subject's size; the same ones when asked again."""
    wanted = subject.config.input
    assert not isinstance(wanted, EcgInput)

    def made() -> Pictures:
        return Pictures(subject.folder / "known", wanted.height, wanted.width, wanted.channels)

    return once(subject, "known images", made)


def apart(a: Floats, b: Floats) -> float:
    """The largest difference; infinite where one is longer."""
    if a.shape != b.shape or not a.size:
        return float("inf")
    return float(np.nan_to_num(np.abs(a - b), nan=np.inf).max())


def is_ecg(subject: Subject) -> bool:
    return isinstance(subject.config.input, EcgInput)


def is_image(subject: Subject) -> bool:
    return not is_ecg(subject)
