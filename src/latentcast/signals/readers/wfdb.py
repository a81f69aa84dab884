"""WFDB records: a direct reader for format 16, the ``wfdb`` package for everything else.

Format: PhysioNet, WFDB Applications Guide, header(5) and signal(5). Format 16 is interleaved
little-endian int16, -32768 marking an invalid sample; so are Challenge ``.mat`` files behind their
24-byte envelope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.signals.channels import Channels
from latentcast.signals.readers import matlab, wfdb_package
from latentcast.signals.readers.comments import annotation_of
from latentcast.signals.readers.wfdb_header import (
    Header,
    Signal,
    calibration,
    decode_header,
    is_direct,
    parse_header,
)
from latentcast.signals.recording import INVALID, Recording, from_signal
from latentcast.source import Annotation, BadRecord, record_file

CHECKSUMS = "SHA256SUMS.txt"


def read_digital(
    folder: Path, header: Header, sha256: Mapping[str, str] | None = None
) -> npt.NDArray[np.int16]:
    """Samples of a format 16 record as stored, int16 ``(samples, signals)``.

    Args:
        folder: where the signal files lie.
        header: with :func:`is_direct`.
        sha256: expected checksum by file name; files not in it are not checked.

    Raises:
        BadRecord: a file is missing, truncated, or contradicts a checksum.
    """
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
    folder: Path, header: Header, signals: tuple[Signal, ...], sha256: Mapping[str, str] | None
) -> npt.NDArray[np.int16]:
    file, offset, count = signals[0].file, signals[0].offset, len(signals)
    try:
        data = record_file(folder, file).read_bytes()
    except OSError as error:
        raise BadRecord(f"{file}: cannot be read ({error})") from None
    if sha256 is not None and file in sha256 and hashlib.sha256(data).hexdigest() != sha256[file]:
        raise BadRecord(f"{file}: contradicts its checksum in {CHECKSUMS}")
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
    flat = np.frombuffer(data, dtype="<i2", count=announced * count, offset=offset)
    samples = flat.reshape(announced, count)
    _check_sums(samples, signals)
    return samples


def _check_sums(samples: npt.NDArray[np.int16], signals: tuple[Signal, ...]) -> None:
    if not len(samples):
        return
    # A product with ones is the fastest exact column sum: float64 holds it up to 2^37 samples.
    sums = np.ones(len(samples)) @ samples
    for signal, first, total in zip(signals, samples[0].tolist(), sums.tolist(), strict=True):
        if signal.initial is not None and signal.initial != first:
            raise BadRecord(
                f"{signal.file}: signal {signal.name} begins with {first}, the header has "
                f"{signal.initial}"
            )
        # Headers write the 16-bit sum with or without sign.
        if signal.checksum is not None and (int(total) - signal.checksum) % 65536:
            raise BadRecord(
                f"{signal.file}: signal {signal.name} contradicts its checksum in the header"
            )


def read(
    path: Path, sha256: Mapping[str, str] | None = None, channels: Channels | None = None
) -> tuple[Recording, Annotation]:
    """Read a record by its header file.

    Its comments become the annotation, see :mod:`latentcast.signals.readers.comments`.

    Args:
        path: the ``.hea`` file.
        sha256: expected checksum by file name.
        channels: what to read of a record that is no ECG; None reads all signals as ECG leads.

    Raises:
        BadRecord: with the reason.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("is no regular file")
        raw = path.read_bytes()
    except OSError as error:
        raise BadRecord(f"header {path.name} cannot be read ({error})") from None
    if sha256 and path.name in sha256 and hashlib.sha256(raw).hexdigest() != sha256[path.name]:
        raise BadRecord(f"{path.name}: contradicts its checksum in {CHECKSUMS}")
    header = parse_header(decode_header(raw))
    if is_direct(header):
        columns, leads, factors = calibration(
            [(s.name, s.unit, s.gain) for s in header.signals], channels
        )
        digital, rate = read_digital(path.parent, header, sha256), header.sampling_rate
        if channels is not None:
            digital = digital[:, columns]
            header = replace(header, signals=tuple(header.signals[column] for column in columns))
        signal = to_millivolts(digital, header, factors)
    else:
        signal, leads, rate = wfdb_package.read(path, header, channels)
    return from_signal(signal, leads, rate, path.stem), annotation_of(header.comments)


def to_millivolts(
    digital: npt.NDArray[np.int16], header: Header, factors: list[float]
) -> npt.NDArray[np.float32]:
    """``(count - baseline) / gain`` in mV, float32 ``(leads, samples)``; invalid samples are NaN.

    Args:
        digital: int16 ``(samples, leads)``.
        header: gives gain and baseline.
        factors: millivolts per physical unit, per lead.
    """
    gains = np.array([s.gain / f for s, f in zip(header.signals, factors, strict=True)])
    baselines = np.array([s.baseline for s in header.signals])
    # A transposing copy of small integers is cheaper than a transposing division.
    signal = np.ascontiguousarray(digital.T).astype(np.float32)
    invalid = signal == INVALID
    if baselines.any():
        # 16-bit counts less a baseline stay exact in float32 below 2^24.
        signal -= baselines.astype(np.float32)[:, None]
    if np.array_equal(gains, gains.astype(np.float32)):
        signal /= gains.astype(np.float32)[:, None]
    else:
        signal = (signal.astype(np.float64) / gains[:, None]).astype(np.float32)
    if invalid.any():
        signal[invalid] = np.nan
    return signal
