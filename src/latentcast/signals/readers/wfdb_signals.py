"""The signals of one WFDB header: a direct reader for format 16, the ``wfdb`` package for others.

Format 16 is interleaved little-endian int16, -32768 marking an invalid sample; so are Challenge
``.mat`` files behind their 24-byte envelope. Format 61 is big-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.files import read_bytes
from latentcast.signals.readers import matlab, wfdb_package
from latentcast.signals.readers.file_format import Chosen, ReadOptions, choose
from latentcast.signals.readers.wfdb_checksums import Sums, check_bytes, check_sums
from latentcast.signals.readers.wfdb_header import (
    Header,
    Signal,
    decode_header,
    is_direct,
    parse_header,
)
from latentcast.signals.recording import INVALID
from latentcast.source import BadRecord, record_file

Physical = npt.NDArray[np.float32]


def read_header(path: Path, sha256: Sums) -> Header:
    """Raises BadRecord: it cannot be read, contradicts its checksum, or breaks the format."""
    try:
        raw = read_bytes(path)
    except OSError as error:
        raise BadRecord(f"header {path.name} cannot be read ({error})") from None
    return parsed(raw, path.name, sha256)


def parsed(raw: bytes, name: str, sha256: Sums) -> Header:
    """The header in the bytes of a file, as :func:`read_header`."""
    check_bytes(raw, name, sha256)
    return parse_header(decode_header(raw))


def read(
    path: Path, header: Header, sha256: Sums, options: ReadOptions
) -> tuple[Physical, Chosen, float]:
    """The leads of a header in mV, float32 ``(leads, samples)``, NaN where nothing was measured;
    which they are, and their rate in Hz.

    Raises:
        BadRecord: with the reason.
    """
    if not header.signals:
        raise BadRecord("header describes no signal")
    chosen = choose([(signal.name, signal.unit) for signal in header.signals], options)
    signal, rate = physical(path, header, sha256, chosen)
    return signal, chosen, rate


def physical(path: Path, header: Header, sha256: Sums, chosen: Chosen) -> tuple[Physical, float]:
    """The chosen signals of a header in mV, and their rate.

    Raises:
        BadRecord: with the reason.
    """
    for lead, column in zip(chosen.leads, chosen.columns, strict=True):
        if header.signals[column].gain == 0:
            raise BadRecord(f"lead {lead} is not calibrated (gain 0 or absent in the header)")
    if not is_direct(header):
        return wfdb_package.read(path, header, chosen.columns, chosen.factors, sha256)
    digital = _read_digital(path.parent, header, sha256)
    if chosen.columns != tuple(range(len(header.signals))):
        digital = digital[:, chosen.columns]
    signals = [header.signals[column] for column in chosen.columns]
    # A transposing copy of small integers is cheaper than a transposing division.
    counts = np.ascontiguousarray(digital.T)
    return to_millivolts(counts, signals, chosen.factors), header.sampling_rate


def _read_digital(folder: Path, header: Header, sha256: Sums) -> npt.NDArray[np.int16]:
    """Samples of a format 16 record as stored, int16 ``(samples, signals)``."""
    columns = [
        _read_file(folder, header, tuple(signals), sha256)
        for _, signals in groupby(header.signals, key=lambda signal: signal.file)
    ]
    if len(columns) == 1:
        return columns[0]
    longest = max(len(column) for column in columns)
    # Only a header without a length lets files differ; the shorter one then ends early.
    return np.hstack(
        [np.pad(c, ((0, longest - len(c)), (0, 0)), constant_values=INVALID) for c in columns]
    )


def _read_file(
    folder: Path, header: Header, signals: tuple[Signal, ...], sha256: Sums
) -> npt.NDArray[np.int16]:
    file, offset, count = signals[0].file, signals[0].offset, len(signals)
    try:
        data = read_bytes(record_file(folder, file))
    except OSError as error:
        raise BadRecord(f"{file}: cannot be read ({error})") from None
    check_bytes(data, file, sha256)
    announced = header.samples
    if file.endswith(".mat"):
        columns = matlab.check_envelope(data, file, offset, count)
        if announced not in (None, columns):
            raise BadRecord(f"{file}: has {columns} samples, the header {announced}")
        announced = columns
    if announced is None:
        announced = (len(data) - offset) // (2 * count)
    needed = offset + announced * count * 2
    if len(data) < needed:
        raise BadRecord(f"{file}: is truncated, {len(data)} bytes of {needed}")
    order = ">i2" if signals[0].format == 61 else "<i2"
    flat = np.frombuffer(data, dtype=order, count=announced * count, offset=offset)
    samples = flat.reshape(announced, count)
    if len(samples):
        # A product with ones is the fastest exact column sum: float64 holds it to 2^37 samples.
        sums = np.ones(len(samples)) @ samples
        check_sums(signals, samples[0].tolist(), [int(total) for total in sums.tolist()])
    return samples


def to_millivolts(
    digital: npt.NDArray[np.int16], signals: Sequence[Signal], factors: Sequence[float]
) -> Physical:
    """``(count - baseline) / gain`` in mV, float32; invalid samples are NaN.

    Args:
        digital: int16 ``(leads, samples)``, or of several records ``(N, leads, samples)``.
        signals: give gain and baseline.
        factors: millivolts per physical unit, per lead.
    """
    gains, baselines, exact = _calibration(
        tuple((s.gain / f, s.baseline) for s, f in zip(signals, factors, strict=True))
    )
    signal = digital.astype(np.float32)
    invalid = signal == INVALID
    if baselines.any():
        # 16-bit counts less a baseline stay exact in float32 below 2^24.
        signal -= baselines.astype(np.float32)[:, None]
    if exact:
        signal /= gains.astype(np.float32)[:, None]
    else:
        signal = (signal.astype(np.float64) / gains[:, None]).astype(np.float32)
    if invalid.any():
        signal[invalid] = np.nan
    return signal


# The records of an archive have the gains and baselines of a few recorders.
@lru_cache(64)
def _calibration(
    pairs: tuple[tuple[float, int], ...],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], bool]:
    """Gains and baselines, and whether float32 holds the gains."""
    gains, baselines = np.array([gain for gain, _ in pairs]), np.array([zero for _, zero in pairs])
    return gains, baselines, np.array_equal(gains, gains.astype(np.float32))
