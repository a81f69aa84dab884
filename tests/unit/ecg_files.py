"""Files that tests ingest: WFDB, Challenge and damaged ones, written byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentcast.signals.recording import Recording
from latentcast.signals.synthetic import synthetic_recording

DATA = Path(__file__).parents[1] / "data" / "ptbxl_wfdb"
BUNDLED = Path(__file__).parents[2] / "data" / "ptbxl2980-100hz"


def header_lines(
    name: str,
    file: str,
    counts: np.ndarray,
    leads: Sequence[str],
    *,
    rate: float = 500,
    gain: str = "1000.0(0)/mV",
    format: str = "16",
    comments: Sequence[str] = (),
) -> str:
    """A header for int16 ``counts`` (samples, leads), its first values and checksums right."""
    lines = [f"{name} {len(leads)} {rate:g} {len(counts)}"]
    for lead, column in zip(leads, counts.T, strict=True):
        checksum = int(column.astype(np.int64).sum()) % 65536
        lines.append(f"{file} {format} {gain} 16 0 {column[0]} {checksum} 0 {lead}")
    return "\n".join([*lines, *(f"#{comment}" for comment in comments)]) + "\n"


def write_wfdb(
    folder: Path, recording: Recording, name: str, *, leads: Sequence[str] | None = None, **header
) -> Path:
    """A format 16 record in microvolts; ``leads`` renames the channels in the header."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = to_counts(recording)
    (folder / f"{name}.dat").write_bytes(counts.astype("<i2").tobytes())
    text = header_lines(
        name,
        f"{name}.dat",
        counts,
        leads or recording.leads,
        rate=recording.sampling_rate,
        **header,
    )
    (folder / f"{name}.hea").write_text(text)
    return folder / f"{name}.hea"


def write_challenge(folder: Path, recording: Recording, name: str, comments: Sequence[str]) -> Path:
    """A Challenge record: ``.hea`` and MATLAB 4 ``.mat``."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = to_counts(recording)
    envelope = struct.pack("<5i", 30, counts.shape[1], len(counts), 0, 4) + b"val\0"
    (folder / f"{name}.mat").write_bytes(envelope + counts.astype("<i2").tobytes())
    text = header_lines(
        name,
        f"{name}.mat",
        counts,
        recording.leads,
        rate=recording.sampling_rate,
        gain="1000/mv",
        format="16+24",
        comments=comments,
    )
    (folder / f"{name}.hea").write_text(text)
    return folder / f"{name}.hea"


def to_counts(recording: Recording) -> np.ndarray:
    """Whole microvolts, int16 (samples, leads); NaN as -32768."""
    microvolts = np.rint(recording.signal.astype(np.float64).T * 1000)
    return np.where(np.isnan(microvolts), -32768, microvolts).astype(np.int16)


def write_some(folder: Path, count: int, seconds: float = 4.0) -> list[Recording]:
    """Records ``r000``, ``r001``, ... at 500 Hz, each with another rhythm."""
    recordings = [synthetic_recording(50 + i, 500, seconds, seed=i) for i in range(count)]
    for i, recording in enumerate(recordings):
        write_wfdb(folder, recording, f"r{i:03d}")
    return recordings


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store, by name."""
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}
