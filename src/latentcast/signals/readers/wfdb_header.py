"""The header of a WFDB record: what its lines hold, and what a count of each signal stands for.

Format: PhysioNet, WFDB Applications Guide, header(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from latentcast.errors import LatentcastError, quoted
from latentcast.signals.channels import Channels
from latentcast.signals.leads import canonical_names
from latentcast.signals.readers.numbers import integer, number
from latentcast.signals.recording import millivolts_per
from latentcast.source import BadRecord

_FORMAT = re.compile(r"(\d{1,4})(?:x(\d{1,9}))?(?::(\d{1,9}))?(?:\+(\d{1,15}))?$", re.ASCII)
_GAIN = re.compile(r"([^(/]+)(?:\(([^)]*)\))?(?:/(\S+))?$")


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


def decode_header(raw: bytes) -> str:
    """The text of a header: UTF-8, else Latin-1, in which older programs write ``µV``."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


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


def calibration(
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
