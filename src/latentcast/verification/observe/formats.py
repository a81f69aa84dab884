"""Recordings in every storage format that is read, written byte by byte from its description.

Formats: PhysioNet, WFDB Applications Guide, signal(5) and header(5); the Challenge's MATLAB 4
matrices; this project's packed form, by the text of its reader; PTB-XL's table.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.verification.observe.recordings import (
    TWELVE,
    Floats,
    WrittenRecord,
    wave,
    write_table,
    write_wfdb,
)

Counts = npt.NDArray[np.int64]
"""``(samples, leads)``."""
GAINS = {"8": 40.0, "80": 40.0, "508": 40.0, "24": 1e5, "32": 1e6, "524": 1e5}
"""Counts per mV where they are not :data:`GAIN`, so that a sample fits and shows its width."""
GAIN = 200.0
PATIENTS = 6
ORDER = ("aVF", "V3", *(lead for lead in TWELVE if lead not in ("aVF", "V3")))


def _words(kind: str, offset: int = 0) -> Callable[[Counts], bytes]:
    def write(counts: Counts) -> bytes:
        return (counts + offset).astype(kind).tobytes()

    return write


def _differences(counts: Counts) -> bytes:
    return np.diff(counts, axis=0, prepend=counts[:1]).astype("i1").tobytes()


def _three_bytes(counts: Counts) -> bytes:
    return counts.astype("<i4").reshape(-1, 1).view(np.uint8)[:, :3].tobytes()


def _pairs_of_12_bits(counts: Counts) -> bytes:
    a, b = (counts.reshape(-1, 2) & 0xFFF).T
    return np.stack([a & 255, a >> 8 | (b >> 8) << 4, b & 255], 1).astype("u1").tobytes()


def _triples_of_10_bits(counts: Counts) -> bytes:
    """The third sample in the five high bits of the words of the first and the second."""
    a, b, c = (counts.reshape(-1, 3) & 0x3FF).T
    return np.stack([a << 1 | (c & 31) << 11, b << 1 | c >> 5 << 11], 1).astype("<u2").tobytes()


def _triples_in_a_row(counts: Counts) -> bytes:
    a, b, c = (counts.reshape(-1, 3) & 0x3FF).T
    return np.stack([a | b << 10 | c << 20], 1).astype("<u4").tobytes()


WRITERS: dict[str, Callable[[Counts], bytes]] = {
    "16": _words("<i2"), "61": _words(">i2"), "160": _words("<u2", 32768), "80": _words("u1", 128),
    "8": _differences, "24": _three_bytes, "32": _words("<i4"), "212": _pairs_of_12_bits,
    "310": _triples_of_10_bits, "311": _triples_in_a_row,
}  # fmt: skip
FLAC = ("508", "516", "524")


def write_formats(folder: Path, rate: float) -> dict[str, WrittenRecord]:
    """A WFDB folder: a record in each format, one in two segments, and one of the Challenge."""
    folder.mkdir(parents=True)
    samples = 2 * max(round(0.6 * rate), 30)
    package = find_spec("wfdb") is not None
    names = list(WRITERS) if package else ["16"]
    records = {}
    for n, name in enumerate(names):
        counts, calibrations, signal = _digital(rate, samples, 40 + n, GAINS.get(name, GAIN))
        file = folder / f"format-{name}.dat"
        data = WRITERS[name](counts)
        header = write_wfdb(file, name, data, rate, counts, calibrations, ORDER)
        records[file.stem] = WrittenRecord(signal, rate, header)
    records["challenge"] = _write_challenge(folder, rate, samples)
    if package:
        records["segments"] = _write_segments(folder, rate, samples)
        if find_spec("soundfile"):
            records |= {f"format-{name}": _write_flac(folder, name, rate, samples) for name in FLAC}
    return records


def _digital(rate: float, samples: int, seed: int, gain: float) -> tuple[Counts, list[str], Floats]:
    """Counts in the order of :data:`ORDER`, each lead with a gain, a zero and a unit of its own,
    their calibrations as a header has them, and the signal in mV, in canonical order."""
    lead = np.arange(12)
    gains = np.where(lead % 2, gain, 0.75 * gain)
    baselines = np.where(lead % 3, lead - 5, 0)
    signal = wave(rate, samples, seed)[[TWELVE.index(name) for name in ORDER]]
    counts = np.rint(signal * gains[:, None]).astype(np.int64) + baselines[:, None]
    written = (counts - baselines[:, None]) / gains[:, None]
    calibrations = [
        f"{g / 1000:g}({b})/uV" if n % 4 == 1 else f"{g:g}({b})/mV"
        for n, (g, b) in enumerate(zip(gains.tolist(), baselines.tolist(), strict=True))
    ]
    return counts.T, calibrations, written[[ORDER.index(name) for name in TWELVE]]


def _write_challenge(folder: Path, rate: float, samples: int) -> WrittenRecord:
    """A MATLAB 4 matrix ``val`` of int16: type, rows, columns, 0, length of the name; the name."""
    counts, calibrations, signal = _digital(rate, samples, 60, 1000.0)
    envelope = struct.pack("<5i", 30, 12, samples, 0, 4) + b"val\0"
    data, file = envelope + counts.astype("<i2").tobytes(), folder / "challenge.mat"
    header = write_wfdb(file, "16+24", data, rate, counts, calibrations, ORDER)
    return WrittenRecord(signal, rate, header)


def _write_segments(folder: Path, rate: float, samples: int) -> WrittenRecord:
    """Two halves, each with gains of its own."""
    parts = []
    for n, gain in enumerate((GAIN, 3 * GAIN)):
        counts, calibrations, signal = _digital(rate, samples // 2, 61 + n, gain)
        data, file = WRITERS["16"](counts), folder / f"segments-{n}.dat"
        write_wfdb(file, "16", data, rate, counts, calibrations, ORDER)
        parts.append(signal)
    lines = [f"segments/2 12 {rate:g} {samples}", *(f"segments-{n} {samples // 2}" for n in (0, 1))]
    header = folder / "segments.hea"
    header.write_text("\n".join(lines) + "\n")
    return WrittenRecord(np.concatenate(parts, 1), rate, header)


def _write_flac(folder: Path, name: str, rate: float, samples: int) -> WrittenRecord:
    """By the ``wfdb`` package: no reader of ours knows this compression."""
    import wfdb

    gain = GAINS.get(name, GAIN)
    signal = wave(rate, samples, 70 + int(name))
    counts = np.rint(signal * gain).astype(np.int64)
    wfdb.wrsamp(
        f"format-{name}", fs=rate, units=["mV"] * 12, sig_name=list(TWELVE), d_signal=counts.T,
        fmt=[name] * 12, adc_gain=[gain] * 12, baseline=[0] * 12, write_dir=str(folder),
    )  # fmt: skip
    return WrittenRecord(counts / gain, rate, folder / f"format-{name}.hea")


# PTB-XL: its own folder, and packed


def ptbxl_rows() -> list[dict[str, str]]:
    """Two records of each patient, a patient a fold from 5 on; likelihoods above 0 and 0."""
    return [
        {"ecg_id": str(n + 1), "patient_id": f"{900 + n // 2}.0", "strat_fold": str(5 + n // 2),
         "scp_codes": repr({"NORM": 100.0} if n % 3 else {"IMI": 0.0, "SR": 0.0}),
         "filename_lr": f"records100/00000/{n + 1:05d}_lr"}
        for n in range(2 * PATIENTS)
    ]  # fmt: skip


def ptbxl_signals(rate: float, samples: int) -> npt.NDArray[np.int16]:
    """Whole microvolts ``(records, 12, samples)``; no lead is what another one predicts."""
    waves = np.stack([wave(rate, samples, 80 + n) for n in range(2 * PATIENTS)])
    shaken = np.rint(1000 * waves) + (np.arange(12)[:, None] * np.arange(samples) % 7) - 3
    return np.asarray(shaken.astype(np.int16))


def write_ptbxl(folder: Path, rate: float, signals: npt.NDArray[np.int16]) -> None:
    """PTB-XL's folder: records in format 16 and the table."""
    records = folder / "records100" / "00000"
    records.mkdir(parents=True)
    for n, counts in enumerate(signals.transpose(0, 2, 1)):
        data, file = counts.astype("<i2").tobytes(), records / f"{n + 1:05d}_lr.dat"
        write_wfdb(file, "16", data, rate, counts, ["1000.0(0)/mV"] * 12, TWELVE)
    write_table(folder / "ptbxl_database.csv", ptbxl_rows())


def write_packed(folder: Path, rate: float, signals: npt.NDArray[np.int16]) -> None:
    """The packed form, in two parts: its index, its table, its planes of bytes."""
    folder.mkdir(parents=True)
    parts, half = [], len(signals) // 2
    for n, counts in enumerate((signals[: half + 1], signals[half + 1 :])):
        (folder / f"part-{n}.xz").write_bytes(naive_packed(counts.astype(np.int64)))
        digest = hashlib.sha256(np.ascontiguousarray(counts).tobytes()).hexdigest()
        parts.append({"file": f"part-{n}.xz", "records": len(counts), "sha256": digest})
    index: dict[str, Any] = {
        "format": "latentcast-packed-ecg-1", "sampling_rate": rate, "unit": "uV",
        "leads": TWELVE, "samples": signals.shape[2], "parts": parts,
    }  # fmt: skip
    (folder / "signals.json").write_text(json.dumps(index))
    write_table(folder / "ptbxl_database.csv", ptbxl_rows())


def naive_packed(counts: Counts) -> bytes:
    """Microvolts ``(records, 12, samples)`` as planes: differences of eight leads, and what is left
    of the other four."""
    lead = {name: counts[:, n] for n, name in enumerate(TWELVE)}
    first, second = lead["I"], lead["II"]
    coded = [np.diff(lead[name], axis=1, prepend=0) for name in ("I", "II", *TWELVE[6:])]
    left = [
        lead["III"] - (second - first),
        lead["aVR"] + (first + second) // 2,
        lead["aVL"] - (2 * first - second) // 2,
        lead["aVF"] - (2 * second - first) // 2,
    ]
    planes = b""
    for rows in (coded, left):
        values = np.stack(rows, 1)
        zigzag = np.where(values >= 0, 2 * values, -2 * values - 1)
        planes += (zigzag % 256).astype(np.uint8).tobytes()
        planes += (zigzag // 256).astype(np.uint8).tobytes()
    return lzma.compress(planes, format=lzma.FORMAT_XZ)


# Arrays

ARRAYS: tuple[tuple[str, float, str], ...] = (
    ("V", 1e3, "f4"), ("mV", 1.0, "f8"), ("uV", 1e-3, "i2"), ("nV", 1e-6, "i4"), ("mV", 1.0, "f4"),
)  # fmt: skip
"""Unit, its millivolts, and type of the numbers."""


def write_array(
    file: Path, rate: float, kind: tuple[str, float, str], layout: str, order: Sequence[str]
) -> Floats:
    """An array file of three records; its signals in mV ``(3, 12, samples)`` in canonical order."""
    _, per, dtype = kind
    waves = np.stack([wave(rate, max(round(rate), 60), 90 + n) for n in range(3)])
    values = waves / per
    numbers = (values if dtype.startswith("f") else np.rint(values)).astype(dtype)
    placed = numbers[:, [TWELVE.index(lead) for lead in order]]
    placed = placed.transpose(0, 2, 1) if layout == "records,samples,leads" else placed
    if file.suffix == ".npz":
        np.savez(file, signals=placed)
    else:
        np.save(file, placed)
    return np.asarray(numbers.astype(np.float64) * per)
