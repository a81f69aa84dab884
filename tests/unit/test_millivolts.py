"""Every reader and every WFDB storage format gives the millivolts that its file stands for.

The files are written here byte by byte, as the format's own text describes them, of counts in which
no two leads are alike; the millivolts are calculated here, in float64. A reader that takes one lead
for another, or leaves out a gain, a baseline or a unit, gives other ones.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from ecg_files import BUNDLED, header_lines

from latentcast.data.arrays import _Signals, write_store
from latentcast.data.formats import open_source
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers import read_recording

MICROVOLTS = np.random.default_rng(7).integers(-900, 900, (3, 12, 60))
"""``(records, leads, samples)``: of no two leads can one be taken for the other."""

Opens = Callable[[Path], object]
PTBXL = "ecg_id,patient_id,scp_codes,strat_fold,filename_lr,filename_hr\n" + "".join(
    f"{n},{n},{{}},1,r/{n},\n" for n in (1, 2, 3)
)


def zigzag_planes(values: np.ndarray) -> bytes:
    """The low and then the high bytes of zigzag-coded int16: 0, -1, 1, -2 are 0, 1, 2, 3."""
    wrapped = (values.astype(np.int64) + 32768) % 65536 - 32768
    coded = np.where(wrapped >= 0, 2 * wrapped, -2 * wrapped - 1).astype("<u2")
    return (coded & 255).astype(np.uint8).tobytes() + (coded >> 8).astype(np.uint8).tobytes()


def write_packed(folder: Path) -> Path:
    """By the docstring of the format, lead by lead and by name."""
    lead = dict(zip(CANONICAL_LEADS, MICROVOLTS.transpose(1, 0, 2), strict=True))
    predicted = {
        "III": lead["II"] - lead["I"],
        "aVR": -((lead["I"] + lead["II"]) // 2),
        "aVL": (2 * lead["I"] - lead["II"]) // 2,
        "aVF": (2 * lead["II"] - lead["I"]) // 2,
    }
    coded = ["I", "II", *(f"V{n}" for n in range(1, 7))]
    steps = np.stack([np.diff(lead[name], axis=-1, prepend=0) for name in coded], axis=1)
    rest = np.stack([lead[name] - value for name, value in predicted.items()], axis=1)
    folder.mkdir()
    (folder / "part.xz").write_bytes(lzma.compress(zigzag_planes(steps) + zigzag_planes(rest)))
    index = json.loads((BUNDLED / "signals.json").read_text())
    sha256 = hashlib.sha256(MICROVOLTS.astype("<i2").tobytes()).hexdigest()
    parts = [{"file": "part.xz", "records": 3, "sha256": sha256}]
    (folder / "signals.json").write_text(json.dumps({**index, "samples": 60, "parts": parts}))
    (folder / "ptbxl_database.csv").write_text(PTBXL)
    return folder


def write_headers(folder: Path, suffix: str, gain: str, format: str, envelope: bytes) -> Path:
    folder.mkdir(parents=True)
    for n, counts in enumerate(MICROVOLTS.transpose(0, 2, 1).astype("<i2"), start=1):
        file = f"{n}.{suffix}"
        (folder / file).write_bytes(envelope + counts.tobytes())
        text = header_lines(str(n), file, counts, CANONICAL_LEADS, gain=gain, format=format)
        (folder / f"{n}.hea").write_text(text)
    return folder


def wfdb_folder(path: Path) -> object:
    return open_source(write_headers(path, "dat", "1/uV", "16", b""))


def ptbxl_folder(path: Path) -> object:
    write_headers(path / "r", "dat", "1000.0(0)/mV", "16", b"")
    (path / "ptbxl_database.csv").write_text(PTBXL)
    return open_source(path)


def challenge_folder(path: Path) -> object:
    envelope = struct.pack("<5i", 30, 12, 60, 0, 4) + b"val\0"
    return open_source(write_headers(path, "mat", "1000/mV", "16+24", envelope))


def array_file(unit: str, per_unit: float, layout: str) -> Opens:
    def opens(path: Path) -> object:
        path.mkdir()
        values = MICROVOLTS / per_unit
        np.save(path / "a.npy", values if layout.endswith("samples") else values.swapaxes(1, 2))
        return open_source(
            path / "a.npy", sampling_rate=500, leads=CANONICAL_LEADS, unit=unit, layout=layout
        )

    return opens


def memory(path: Path) -> object:
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "latentcast.data.arrays.ingest", lambda source, *_, **__: opened.append(source)
        )
        write_store(path, signals=MICROVOLTS, sampling_rate=500, leads=CANONICAL_LEADS, unit="uV")
    (source,) = opened
    assert isinstance(source, _Signals)
    return source


READERS: dict[str, Opens] = {
    "packed": lambda path: open_source(write_packed(path)),
    "WFDB": wfdb_folder,
    "PTB-XL": ptbxl_folder,
    "Challenge": challenge_folder,
    "array in V": array_file("V", 1e6, "records,leads,samples"),
    "array in mV": array_file("mV", 1e3, "records,samples,leads"),
    "array in µV": array_file("µV", 1, "records,leads,samples"),
    "array in nV": array_file("nV", 1e-3, "records,samples,leads"),
    "memory": memory,
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_gives_other_millivolts_or_other_leads(tmp_path: Path, name: str) -> None:
    source = READERS[name](tmp_path / "in")
    refs = source.refs()  # type: ignore[attr-defined]
    assert len(refs) == 3 and not any(ref.problem for ref in refs)
    for ref, expected in zip(refs, MICROVOLTS, strict=True):
        recording, _ = source.read(ref)  # type: ignore[attr-defined]
        assert sorted(recording.leads) == sorted(CANONICAL_LEADS) and recording.valid.all()
        for lead, microvolts in zip(CANONICAL_LEADS, expected, strict=True):
            row = recording.signal[recording.leads.index(lead)]
            assert np.array_equal(row, (microvolts / 1000).astype(np.float32)), lead


# Storage formats of WFDB, by signal(5) of the WFDB Applications Guide ----------------------


def first_differences(flat: np.ndarray) -> bytes:
    """Of each of the two signals; the value before the first one is in the header."""
    pairs = flat.reshape(-1, 2)
    return np.diff(pairs, axis=0, prepend=pairs[:1]).astype(np.int8).tobytes()


def three_bytes(flat: np.ndarray) -> bytes:
    return b"".join(value.to_bytes(3, "little", signed=True) for value in flat.tolist())


def flac(bits: int, kind: str) -> Callable[[np.ndarray], bytes]:
    """508, 516 and 524: a FLAC file of as many channels as signals."""

    def encode(flat: np.ndarray) -> bytes:
        soundfile = pytest.importorskip("soundfile")
        left = (flat.reshape(-1, 2) << 32 - bits).astype(np.int32)  # samples lie in the high bits
        soundfile.write(file := BytesIO(), left, 250, kind, format="FLAC")
        return file.getvalue()

    return encode


def twelve_bits(flat: np.ndarray) -> bytes:
    out = bytearray()
    for a, b in (flat & 0xFFF).reshape(-1, 2).tolist():
        out += bytes([a & 255, a >> 8 | b >> 8 << 4, b & 255])
    return bytes(out)


def ten_bits_in_pairs(flat: np.ndarray) -> bytes:
    """310: the 11 low bits of each word hold a sample and a spare bit, the 5 high ones a third."""
    words = []
    for a, b, c in (flat & 0x3FF).reshape(-1, 3).tolist():
        words += [a << 1 | (c & 31) << 11, b << 1 | c >> 5 << 11]
    return np.array(words, "<u2").tobytes()


def ten_bits_in_words(flat: np.ndarray) -> bytes:
    """311: three samples from the low bits of 32 on."""
    words = [a | b << 10 | c << 20 for a, b, c in (flat & 0x3FF).reshape(-1, 3).tolist()]
    return np.array(words, "<u4").tobytes()


STORED: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {
    "8": (50, first_differences),
    "16": (30_000, lambda flat: flat.astype("<i2").tobytes()),
    "24": (8_000_000, three_bytes),
    "32": (2_000_000_000, lambda flat: flat.astype("<i4").tobytes()),
    "61": (30_000, lambda flat: flat.astype(">i2").tobytes()),
    "80": (120, lambda flat: (flat + 128).astype(np.uint8).tobytes()),
    "160": (30_000, lambda flat: (flat + 32768).astype("<u2").tobytes()),
    "212": (2000, twelve_bits),
    "310": (500, ten_bits_in_pairs),
    "311": (500, ten_bits_in_words),
    "508": (120, flac(8, "PCM_S8")),
    "516": (30_000, flac(16, "PCM_16")),
    "524": (8_000_000, flac(24, "PCM_24")),
}
"""The largest count that is written, and how counts of two signals, one after the other, are."""


@pytest.mark.parametrize("unit", ["mV", "uV", "V"])
@pytest.mark.parametrize("format", STORED)
def test_a_storage_format_loses_gain_baseline_or_unit(
    tmp_path: Path, format: str, unit: str
) -> None:
    if format != "16":
        pytest.importorskip("wfdb")
    largest, encode = STORED[format]
    counts = np.random.default_rng(int(format)).integers(-largest, largest, (120, 2))
    calibration = [(200.0, 5), (31.25, -7)]
    lines = ["a 2 250 120"]
    for lead, (gain, baseline), column in zip(("V3", "II"), calibration, counts.T, strict=True):
        total = int(column.sum()) % 65536
        lines.append(f"a.dat {format} {gain}({baseline})/{unit} 12 0 {column[0]} {total} 0 {lead}")
    (tmp_path / "a.hea").write_text("\n".join(lines) + "\n")
    (tmp_path / "a.dat").write_bytes(encode(counts.reshape(-1)))
    recording = read_recording(tmp_path / "a")
    assert recording.leads == ("V3", "II") and recording.sampling_rate == 250
    per_unit = {"mV": 1.0, "uV": 1e-3, "V": 1e3}[unit]
    for row, (gain, baseline), column in zip(recording.signal, calibration, counts.T, strict=True):
        np.testing.assert_allclose(row, (column - baseline) / gain * per_unit, rtol=2e-7, atol=0)
