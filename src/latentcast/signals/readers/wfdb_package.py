"""WFDB records that the ``wfdb`` package decodes: all but plain format 16."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import missing_extra
from latentcast.signals.channels import Channels
from latentcast.signals.readers.wfdb_header import (
    Header,
    Signal,
    calibration,
    decode_header,
    parse_header,
)
from latentcast.signals.recording import from_signal
from latentcast.signals.resample import resample
from latentcast.source import BadRecord, record_file

DEEPEST = 3
"""Records of records of records: what a segment may be."""
SMALL_VALUES = 2**25
"""Samples that the package may unpack in any case (eight bytes each) ..."""
DENSEST_VALUES = 16
"""... and for each byte of the files beyond: compression and gaps between segments."""


def read(
    path: Path, header: Header, channels: Channels | None
) -> tuple[npt.NDArray[np.float32], tuple[str, ...], float]:
    """Signal in millivolts, leads and rate of a record in formats other than 16, of several rates,
    skewed, or of several segments.

    A signal of several samples a frame is read at its own rate; where the signals that are read
    have several, all are brought to the highest.

    Raises:
        BadRecord: with the reason.
        LatentcastError: the package is not installed.
    """
    try:
        import wfdb
    except ImportError as error:
        raise missing_extra("wfdb", "ecg", f"{path.name} (not format 16)") from error
    described = list[Signal]()
    _check_files(path.parent, header, described)
    frames = any(signal.samples_per_frame > 1 for signal in described)
    try:
        # Smoothed, the samples of a frame become their mean.
        record: Any = wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=not frames)
    except Exception as error:
        # The package reports bad files by whatever exception its parsing runs into.
        raise BadRecord(f"{path.name}: {type(error).__name__}: {error}") from error
    # The package drops what is not ASCII: of µV it leaves V.
    signals = list(header.signals) or [
        _of_segments(name, unit, described)
        for name, unit in zip(record.sig_name, record.units, strict=True)
    ]
    columns, leads, factors = calibration([(s.name, s.unit, s.gain) for s in signals], channels)
    rate = float(record.fs)
    if not frames:
        millivolts = record.p_signal[:, columns].T * np.array(factors)[:, None]
        return millivolts.astype(np.float32), leads, rate
    most = max(signals[column].samples_per_frame for column in columns)
    rows = []
    for column, lead, factor in zip(columns, leads, factors, strict=True):
        row = (np.asarray(record.e_p_signal[column]) * factor).astype(np.float32)
        own = rate * signals[column].samples_per_frame
        rows.append(resample(from_signal(row[None], (lead,), own, path.stem), rate * most).signal)
    return np.concatenate(rows), leads, rate * most


def _of_segments(name: str, unit: str, described: Iterable[Signal]) -> Signal:
    """The signal of all segments by its name; ``unit`` is what the package takes it for.

    Raises:
        BadRecord: the segments give it in two units, or at two rates.
    """
    # "~" is a line of a layout, which has no samples.
    alike = [s for s in described if s.name == name and s.file != "~"]
    for what, values in (
        ("units", {s.unit for s in alike}),
        ("numbers of samples in a frame", {s.samples_per_frame for s in alike}),
    ):
        if len(values) > 1:
            listed = ", ".join(sorted(map(str, values)))
            raise BadRecord(f"header: {name} has different {what} in its segments ({listed})")
    if not alike:
        return Signal("~", 0, 1, 0, 0, 1.0, 0, unit, None, None, name)
    # One segment without a gain leaves the signal without one.
    return min(alike, key=lambda s: s.gain != 0)


def _check_files(folder: Path, header: Header, found: list[Signal], depth: int = 1) -> int:
    """Bytes of the files that the package will open: all in the folder, and not out of proportion
    to the memory that the header will make it take. The signals of all segments go to ``found``.

    Raises:
        BadRecord: a file cannot be read, or the header announces far more than the files can hold.
    """
    size = 0
    for name in dict.fromkeys(header.segments or ()):
        if name == "~":
            continue
        if depth > DEEPEST:
            raise BadRecord(f"header: segments within segments, {DEEPEST} deep")
        part = parse_header(decode_header(record_file(folder, f"{name}.hea").read_bytes()))
        size += _check_files(folder, part, found, depth + 1)
    found += header.signals
    for name in dict.fromkeys(signal.file for signal in header.signals):
        size += 0 if name == "~" else record_file(folder, name).stat().st_size
    columns = sum(signal.samples_per_frame for signal in header.signals) or header.count
    if (header.samples or 0) * columns > SMALL_VALUES + DENSEST_VALUES * size:
        raise BadRecord(
            f"header announces {header.samples:,} samples of {columns} signals, and its files have "
            f"{size:,} bytes"
        )
    return size
