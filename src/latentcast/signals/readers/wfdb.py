"""WFDB records: a direct reader for format 16, the ``wfdb`` package for everything else.

Format: PhysioNet, WFDB Applications Guide, header(5) and signal(5). Format 16 is interleaved
little-endian int16, -32768 marking an invalid sample; so are Challenge ``.mat`` files behind their
24-byte envelope.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, missing_extra, quoted
from latentcast.signals.channels import Channels
from latentcast.signals.leads import canonical_names
from latentcast.signals.readers import matlab
from latentcast.signals.readers.numbers import integer, number
from latentcast.signals.recording import INVALID, Recording, from_signal, millivolts_per
from latentcast.source import Annotation, BadRecord, record_file

CHECKSUMS = "SHA256SUMS.txt"
DEEPEST = 3
"""Records of records of records: what a segment may be."""
SMALL_VALUES = 2**25
"""Samples that the package may unpack in any case (eight bytes each) ..."""
DENSEST_VALUES = 16
"""... and for each byte of the files beyond: compression and gaps between segments."""

_FORMAT = re.compile(r"(\d{1,4})(?:x(\d{1,9}))?(?::(\d{1,9}))?(?:\+(\d{1,15}))?$", re.ASCII)
_GAIN = re.compile(r"([^(/]+)(?:\(([^)]*)\))?(?:/(\S+))?$")
_DIAGNOSES = re.compile(r"^\s*Dx\s*:\s*(.*)$", re.IGNORECASE)
_FIELD = re.compile(r"^\s*([A-Za-z][\w ]*?)\s*:\s*(.*?)\s*$")


@dataclass(frozen=True)
class Signal:
    """One signal line of a header. ``gain`` is counts per physical unit, 0 where not given."""

    file: str
    format: int
    samples_per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    initial: int | None
    checksum: int | None
    name: str


@dataclass(frozen=True)
class Header:
    """A WFDB header. ``samples`` is None where the header leaves the length to the files;
    ``segments`` are the names of the records that a longer one is made of, ``~`` for a gap."""

    name: str
    segments: tuple[str, ...] | None
    sampling_rate: float
    samples: int | None
    count: int
    signals: tuple[Signal, ...]
    comments: tuple[str, ...]


def parse_header(text: str) -> Header:
    """Parse a header.

    Raises:
        BadRecord: it breaks the format; names the line.
    """
    comments, lines = [], []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comments.append(stripped[1:].strip())
        elif stripped:
            lines.append(stripped)
    if not lines:
        raise BadRecord("header is empty")
    try:
        fields = lines[0].split()
        name, _, segments = fields[0].partition("/")
        count = integer(fields[1])
        # "fs/counter(base)": only fs is ours. The format's default rate is 250 Hz, but a rate that
        # is not written down is a guess.
        rate = number(fields[2].split("/")[0]) if len(fields) > 2 else 0.0
        samples = integer(fields[3]) if len(fields) > 3 else 0
        parts = integer(segments) if segments else 0
        if count < 0 or samples < 0:
            raise ValueError("a negative number of signals or samples")
    except IndexError:
        raise BadRecord(
            f"header line {quoted(lines[0], 60)} is no WFDB record line (words are missing)"
        ) from None
    except ValueError as error:
        raise BadRecord(
            f"header line {quoted(lines[0], 60)} is no WFDB record line ({error})"
        ) from None
    if rate <= 0:
        raise BadRecord("header gives no sampling rate")
    body = lines[1 : 1 + count]
    names = tuple(line.split()[0] for line in lines[1 : 1 + max(parts, 0)])
    if segments:
        signals: tuple[Signal, ...] = ()
    elif len(body) < count:
        raise BadRecord(f"header announces {count} signals and describes {len(body)}")
    else:
        signals = tuple(_parse_signal(line) for line in body)
    return Header(
        name,
        names if segments else None,
        rate,
        samples or None,
        count,
        signals,
        tuple(comments),
    )


def _parse_signal(line: str) -> Signal:
    fields = line.split(None, 8)
    shape = _FORMAT.match(fields[1]) if len(fields) > 1 else None
    if shape is None:
        raise BadRecord(f"header line {quoted(line, 60)} is no WFDB signal line")
    gain, baseline, unit = 0.0, None, None
    if len(fields) > 2:
        calibration = _GAIN.match(fields[2])
        try:
            if calibration is None:
                raise ValueError("no gain(baseline)/unit")
            gain, unit = number(calibration[1]), calibration[3]
            baseline = None if calibration[2] is None else integer(calibration[2])
        except ValueError as error:
            raise BadRecord(
                f"header: gain {quoted(fields[2], 60)} cannot be read ({error})"
            ) from None
    try:
        zero = integer(fields[4]) if len(fields) > 4 else 0
        initial = integer(fields[5]) if len(fields) > 5 else None
        checksum = integer(fields[6]) if len(fields) > 6 else None
    except ValueError as error:
        raise BadRecord(
            f"header line {quoted(line, 60)} is no WFDB signal line ({error})"
        ) from None
    return Signal(
        file=fields[0],
        format=int(shape[1]),
        samples_per_frame=int(shape[2] or 1),
        skew=int(shape[3] or 0),
        offset=int(shape[4] or 0),
        gain=gain,
        baseline=zero if baseline is None else baseline,
        unit=unit or "mV",
        initial=initial,
        checksum=checksum,
        name=fields[8].strip() if len(fields) > 8 else "",
    )


def is_direct(header: Header) -> bool:
    """Whether every signal is plain format 16, which is read here without the wfdb package."""
    return header.segments is None and all(
        s.format == 16 and s.samples_per_frame == 1 and s.skew == 0 and s.file != "~"
        for s in header.signals
    )


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

    Challenge comments become the annotation: ``Dx`` SNOMED CT codes are labels with value 1.0,
    ``Age``, ``Sex`` and the like are metadata.

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
    header = parse_header(raw.decode("utf-8", errors="replace"))
    if is_direct(header):
        columns, leads, factors = _calibration(
            [(s.name, s.unit, s.gain) for s in header.signals], channels
        )
        digital, rate = read_digital(path.parent, header, sha256), header.sampling_rate
        if channels is not None:
            digital = digital[:, columns]
            header = replace(header, signals=tuple(header.signals[column] for column in columns))
        signal = to_millivolts(digital, header, factors)
    else:
        signal, leads, rate = _read_with_package(path, header, channels)
    return from_signal(signal, leads, rate, path.stem), _annotation(header)


def _calibration(
    signals: list[tuple[str, str, float]], channels: Channels | None
) -> tuple[list[int], tuple[str, ...], list[float]]:
    """From (name, unit, gain) of each signal: which to read, their names, and what a physical unit
    of each is multiplied by, to millivolts or to the unit of the channels."""
    if not signals:
        raise BadRecord("header describes no signal")
    columns = list(range(len(signals)))
    if channels is not None:
        columns = [c for c in columns if signals[c][0] in channels.names]
        if len({signals[c][0] for c in columns}) < len(columns):
            raise BadRecord("header gives one name to two of the channels")
        if not columns:
            raise BadRecord(f"header has none of the channels {', '.join(channels.names)}")
    names = [signals[column][0] for column in columns]
    try:
        leads = canonical_names(names) if channels is None else tuple(names)
        convert = millivolts_per if channels is None else channels.factor
        factors = [convert(signals[column][1]) for column in columns]
    except LatentcastError as error:
        raise BadRecord(f"header: {error}") from None
    for lead, column in zip(leads, columns, strict=True):
        if signals[column][2] == 0:
            raise BadRecord(f"lead {lead} is not calibrated (gain 0 or absent in the header)")
    return columns, leads, factors


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


def _read_with_package(
    path: Path, header: Header, channels: Channels | None
) -> tuple[npt.NDArray[np.float32], tuple[str, ...], float]:
    """Formats other than 16, skewed, multi-frequency and multi-segment records."""
    try:
        import wfdb
    except ImportError as error:
        raise missing_extra("wfdb", "ecg", f"{path.name} (not format 16)") from error
    _check_package_input(path.parent, header)
    try:
        record: Any = wfdb.rdrecord(str(path.with_suffix("")))
    except Exception as error:
        # The package reports bad files by whatever exception its parsing runs into.
        raise BadRecord(f"{path.name}: {type(error).__name__}: {error}") from error
    # A multi-segment header has no signal lines; its segments are calibrated one by one.
    gains = [s.gain for s in header.signals] or [1.0] * record.n_sig
    signals = list(zip(record.sig_name, record.units, gains, strict=True))
    columns, leads, factors = _calibration(signals, channels)
    millivolts = record.p_signal[:, columns].T * np.array(factors)[:, None]
    return millivolts.astype(np.float32), leads, float(record.fs)


def _check_package_input(folder: Path, header: Header, depth: int = 1) -> int:
    """Bytes of the files that the package will open: all in the folder, and not out of proportion
    to the memory that the header will make it take.

    Raises:
        BadRecord: a file cannot be read, or the header announces far more than the files can hold.
    """
    size = 0
    for name in dict.fromkeys(header.segments or ()):
        if name == "~":
            continue
        if depth > DEEPEST:
            raise BadRecord(f"header: segments within segments, {DEEPEST} deep")
        part = record_file(folder, f"{name}.hea").read_text(encoding="utf-8", errors="replace")
        size += _check_package_input(folder, parse_header(part), depth + 1)
    for name in dict.fromkeys(signal.file for signal in header.signals):
        size += 0 if name == "~" else record_file(folder, name).stat().st_size
    columns = sum(signal.samples_per_frame for signal in header.signals) or header.count
    if (header.samples or 0) * columns > SMALL_VALUES + DENSEST_VALUES * size:
        raise BadRecord(
            f"header announces {header.samples:,} samples of {columns} signals, and its files have "
            f"{size:,} bytes"
        )
    return size


def _annotation(header: Header) -> Annotation:
    labels: dict[str, float] = {}
    metadata: dict[str, Any] = {}
    for comment in header.comments:
        if match := _DIAGNOSES.match(comment):
            labels |= {code.strip(): 1.0 for code in match[1].split(",") if code.strip()}
        elif match := _FIELD.match(comment):
            metadata[match[1].lower()] = match[2]
        elif comment:
            metadata["comments"] = [*metadata.get("comments", []), comment]
    return Annotation(labels=labels, metadata=metadata)
