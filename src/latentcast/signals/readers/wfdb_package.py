"""Samples of WFDB signal files that the ``wfdb`` package unpacks: all but formats 16 and 61."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import missing_extra
from latentcast.signals.readers.wfdb_checksums import Sums, check_file, check_sums
from latentcast.signals.readers.wfdb_header import Header, Signal
from latentcast.signals.recording import from_signal
from latentcast.signals.resample import polyphase
from latentcast.source import BadRecord, record_file

SMALL_VALUES = 2**25
"""Samples that the package may unpack in any case (eight bytes each) ..."""
DENSEST_VALUES = 16
"""... and for each byte of the files beyond: compression and gaps between segments."""
_BYTES = {8: 1, 24: 3, 32: 4, 61: 2, 80: 1, 160: 2, 16: 2, 212: 1.5, 310: 4 / 3, 311: 4 / 3}
"""Of a sample in each format, but for the compressed ones."""
_FORMATS = {*_BYTES, 508, 516, 524}
_BITS = {8: 32, 24: 24, 32: 32, 80: 8, 212: 12, 310: 10, 311: 10, 508: 8, 524: 24}
"""Of a sample in each format, where they are not 16. The lowest number of so many bits marks a
sample as invalid; the sums of format 8 have no such mark (32 bits are beyond any of them)."""


def read(
    path: Path,
    header: Header,
    columns: Sequence[int],
    factors: Sequence[float],
    sha256: Sums,
) -> tuple[npt.NDArray[np.float32], float]:
    """``(count - baseline) / gain * factor`` of some signals of a record, float32
    ``(columns, samples)``, NaN where nothing was measured; and their rate in Hz.

    A signal of several samples a frame is read at its own rate; where the signals that are read
    have several, all are brought to the highest.

    Raises:
        BadRecord: with the reason, also where a file contradicts a checksum.
        LatentcastError: the package is not installed.
    """
    signals = header.signals
    samples = _samples(path, header, sha256)
    check_sums(
        signals,
        [int(row[0]) if len(row) else 0 for row in samples],
        [int(row.sum(dtype=np.int64)) for row in samples],
    )
    most = max(signals[column].samples_per_frame for column in columns)
    rows = []
    for column, factor in zip(columns, factors, strict=True):
        signal = signals[column]
        row = _physical(samples[column], signal, factor)
        own = header.sampling_rate * signal.samples_per_frame
        if signal.samples_per_frame < most:
            brought = from_signal(row[None], ("II",), own, path.stem)
            row = polyphase(brought, header.sampling_rate * most).signal[0]
        rows.append(row)
    longest = max(map(len, rows))
    # Rounded, rates that do not divide each other differ by a sample.
    rows = [np.pad(row, (0, longest - len(row)), constant_values=np.nan) for row in rows]
    return np.stack(rows), header.sampling_rate * most


def check_size(samples: int, columns: int, size: int) -> None:
    """Raises BadRecord: more samples are announced than files of ``size`` bytes can hold; before
    they are allocated."""
    if samples * columns > SMALL_VALUES + DENSEST_VALUES * size:
        raise BadRecord(
            f"header announces {samples:,} samples of {columns} signals, and its files have "
            f"{size:,} bytes"
        )


def _samples(path: Path, header: Header, sha256: Sums) -> list[npt.NDArray[np.int32]]:
    """The counts of each signal as they lie in the file, skewed as there."""
    try:
        import wfdb
    except ImportError as error:
        raise missing_extra("wfdb", "ecg", f"{path.name} (not format 16)") from error
    size = 0
    for name, group in groupby(header.signals, key=lambda signal: signal.file):
        if name == "~":
            raise BadRecord("header describes a signal without a file")
        check_file(file := record_file(path.parent, name), name, sha256)
        own = list(group)
        if (number := own[0].format) not in _FORMATS:
            raise BadRecord(f"{name}: is of format {number}, which is none of WFDB")
        values = (header.samples or 0) * sum(signal.samples_per_frame for signal in own)
        needed = own[0].offset + int(values * _BYTES.get(own[0].format, 0))
        if (length := file.stat().st_size) < needed:
            raise BadRecord(f"{name}: is truncated, {length} bytes of {needed}")
        size += length
    check_size(header.samples or 0, sum(s.samples_per_frame for s in header.signals), size)
    # The package does not give the counts of format 61.
    words = [n for n, signal in enumerate(header.signals) if signal.format == 61]
    samples = _big_endian(path.parent, header, words)
    packed = [n for n in range(len(header.signals)) if n not in samples]
    if not packed:
        return [samples[n] for n in words]
    try:
        record: Any = wfdb.rdrecord(
            str(path.with_suffix("")), channels=packed, physical=False, smooth_frames=False,
            ignore_skew=True, return_res=32,
        )  # fmt: skip
        theirs = [record.file_name, record.fmt, record.samps_per_frame, record.byte_offset]
        samples |= zip(packed, record.e_d_signal, strict=True)
    except Exception as error:
        # The package reports bad files by whatever exception its parsing runs into.
        raise BadRecord(f"cannot be read by wfdb ({type(error).__name__}: {error})") from error
    rest = [header.signals[n] for n in packed]
    ours = [(s.file, str(s.format), s.samples_per_frame, s.offset or None) for s in rest]
    theirs[3] = [offset or None for offset in theirs[3]]
    if list(zip(*theirs, strict=True)) != ours:
        raise BadRecord("header has signal lines that the wfdb package reads otherwise")
    return [samples[n] for n in range(len(header.signals))]


def _big_endian(
    folder: Path, header: Header, places: Sequence[int]
) -> dict[int, npt.NDArray[np.int32]]:
    """The counts of signals of format 61, by their places in the header."""
    samples = dict[int, npt.NDArray[np.int32]]()
    for file, group in groupby(places, lambda place: header.signals[place].file):
        own = list(group)
        ends = np.cumsum([header.signals[n].samples_per_frame for n in own]).tolist()
        data = record_file(folder, file).read_bytes()[header.signals[own[0]].offset :]
        frames = header.samples or len(data) // (2 * ends[-1])
        table = np.frombuffer(data, ">i2", frames * ends[-1]).reshape(frames, ends[-1])
        for n, begin, end in zip(own, [0, *ends], ends, strict=False):
            samples[n] = table[:, begin:end].reshape(-1).astype(np.int32)
    return samples


def _physical(
    counts: npt.NDArray[np.int32], signal: Signal, factor: float
) -> npt.NDArray[np.float32]:
    lowest = -(2 ** (_BITS.get(signal.format, 16) - 1))
    row = ((counts - np.float64(signal.baseline)) / signal.gain * factor).astype(np.float32)
    row[counts == lowest] = np.nan
    if skew := signal.skew * signal.samples_per_frame:
        row = np.concatenate([row[skew:], np.full(min(skew, len(row)), np.nan, np.float32)])
    return row
