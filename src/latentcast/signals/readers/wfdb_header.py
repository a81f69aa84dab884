"""The header of a WFDB record: what its lines hold, and what a count of each signal stands for.

Format: PhysioNet, WFDB Applications Guide, header(5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

from latentcast.errors import quoted
from latentcast.signals.readers.numbers import integer, number
from latentcast.source import BadRecord

_FORMAT = re.compile(r"(\d{1,4})(?:x(\d{1,9}))?(?::(\d{1,9}))?(?:\+(\d{1,15}))?$", re.ASCII)
_NUMBERS = re.compile(r"(?:[+-]?\d{1,18}(?:\s+|$)){1,5}", re.ASCII)
_BLANK = r"[^\S\n]+"
_COMPLETE = re.compile(
    rf"^(\S+){_BLANK}(\S+){_BLANK}(\S+){_BLANK}"
    + 5 * rf"([+-]?[0-9]{{1,18}}){_BLANK}"
    + r"(\S.*)$",
    re.MULTILINE,
)
"""Signal lines with all their fields, as nearly every program writes them."""
_GAIN = re.compile(r"([^(/]+)(?:\(([^)]*)\))?(?:/(\S+))?$")


class Signal(NamedTuple):
    """One signal line of a header. ``gain`` is counts per physical unit, 0 where not given; one
    without a name is called by its place, as the format has it: ``signal 0``."""

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
class Segment:
    """A record that a longer one is made of, or ``~`` for a gap; of a layout no samples."""

    name: str
    samples: int


@dataclass(frozen=True)
class Header:
    """A WFDB header. ``samples`` is None where the header leaves the length to the files;
    ``segments`` is None where it describes signals; ``begins`` is ISO 8601, None without a date."""

    name: str
    segments: tuple[Segment, ...] | None
    sampling_rate: float
    samples: int | None
    count: int
    signals: tuple[Signal, ...]
    comments: tuple[str, ...]
    begins: str | None = None


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
    body = lines[1 : 1 + (parts if segments else count)]
    if segments:
        if parts < 1 or len(body) < parts:
            raise BadRecord(f"header announces {parts} segments and names {len(body)}")
        of = tuple(_parse_segment(line) for line in body)
        return Header(
            name, of, rate, samples or None, count, (), tuple(comments), beginning(fields[4:])
        )
    if len(body) < count:
        raise BadRecord(f"header announces {count} signals and describes {len(body)}")
    signals = _without_fillers(_parse_signals(body))
    _check_files(signals)
    begins = beginning(fields[4:])
    return Header(name, None, rate, samples or None, count, signals, tuple(comments), begins)


def beginning(words: Sequence[str]) -> str | None:
    """When a record begins, from what stands behind its samples: ``14:17:00 10/05/2021``, the day
    first. The day on which a file of the Challenge was made, of another form, is passed over."""
    with suppress(ValueError):  # of too few words, too
        clock, day = words[:2]
        moment = datetime.strptime(f"{day} {clock.partition('.')[0]}", "%d/%m/%Y %H:%M:%S")
        return moment.isoformat()
    return None


def _parse_segment(line: str) -> Segment:
    name, *rest = line.split()
    try:
        (samples,) = map(integer, rest)
        if samples < 0:
            raise ValueError("a negative number of samples")
    except ValueError:
        raise BadRecord(f"header line {quoted(line, 60)} is no name and length of a segment") from (
            None
        )
    return Segment(name, samples)


def _without_fillers(signals: list[Signal]) -> tuple[Signal, ...]:
    """Without first values, and without sums, that are 0 of every signal: whoever wrote these had
    to write something before the name of the signal."""
    if not any(signal.initial for signal in signals):
        signals = [signal._replace(initial=None) for signal in signals]
    if not any(signal.checksum for signal in signals):
        signals = [signal._replace(checksum=None) for signal in signals]
    return tuple(signals)


def _check_files(signals: tuple[Signal, ...]) -> None:
    """Raises BadRecord: a file has two formats or offsets, or its signals lie apart."""
    if len({(signal.file, signal.format, signal.offset) for signal in signals}) == 1:
        return
    groups = [(file, list(own)) for file, own in groupby(signals, lambda signal: signal.file)]
    for file, own in groups:
        if len({(signal.format, signal.offset) for signal in own}) > 1:
            raise BadRecord(f"header gives {file} two formats or two offsets")
    if len({file for file, _ in groups}) < len(groups):
        raise BadRecord("header has signals of one file that are not next to each other")


# Of the millions of signals of an archive nearly all have the same words.
@lru_cache(256)
def _shape(word: str) -> tuple[int, int, int, int] | None:
    """Format, samples per frame, skew and offset."""
    found = _FORMAT.match(word)
    if found is None:
        return None
    return int(found[1]), int(found[2] or 1), int(found[3] or 0), int(found[4] or 0)


@lru_cache(256)
def _calibration(word: str) -> tuple[float, int | None, str | None]:
    """Gain, baseline and unit."""
    found = _GAIN.match(word)
    try:
        if found is None:
            raise ValueError("no gain(baseline)/unit")
        baseline = None if found[2] is None else integer(found[2])
        if abs(baseline or 0) > 2**31:
            raise ValueError("a baseline beyond 32 bits")
        return number(found[1]), baseline, found[3]
    except ValueError as error:
        raise BadRecord(f"header: gain {quoted(word, 60)} cannot be read ({error})") from None


def _parse_signals(lines: Sequence[str]) -> list[Signal]:
    complete = _COMPLETE.findall("\n".join(lines))
    if len(complete) == len(lines) > 0:
        files, shapes, words, _, zeros, initials, checksums, _, names = zip(*complete, strict=True)
        if (columns := _columns(shapes, words, zeros, names)) is not None:
            *first, names = columns
            last = map(int, initials), map(int, checksums), names
            return [*map(Signal, files, *first, *last)]
    return [_parse_signal(line, n) for n, line in enumerate(lines)]


# Of the signals of one record, which those of the next one repeat.
@lru_cache(256)
def _columns(
    shapes: tuple[str, ...], words: tuple[str, ...], zeros: tuple[str, ...], names: tuple[str, ...]
) -> tuple[tuple[Any, ...], ...] | None:
    """Format, samples per frame, skew, offset, gain, baseline, unit and name of each; None where a
    word is no format."""
    rows = list[tuple[Any, ...]]()
    for shape, word, zero, name in zip(map(_shape, shapes), words, zeros, names, strict=True):
        if shape is None:
            return None
        gain, baseline, unit = _calibration(word)
        rows.append(
            (*shape, gain, int(zero) if baseline is None else baseline, unit or "mV", name.strip())
        )
    return tuple(zip(*rows, strict=True))


def _parse_signal(line: str, place: int) -> Signal:
    fields = line.split(None, 3)
    shape = _shape(fields[1]) if len(fields) > 1 else None
    if shape is None:
        raise BadRecord(f"header line {quoted(line, 60)} is no WFDB signal line")
    gain, baseline, unit = _calibration(fields[2]) if len(fields) > 2 else (0.0, None, None)
    # Resolution, zero, first value, sum and block size, of which some programs leave out the last
    # ones before the name.
    rest = fields[3] if len(fields) > 3 else ""
    found = _NUMBERS.match(rest)
    words, name = ([], rest) if found is None else (found[0].split(), rest[found.end() :])
    numbers = [int(word) for word in words]
    zero, initial, checksum = (numbers[n] if len(numbers) > n else None for n in (1, 2, 3))
    return Signal(
        file=fields[0],
        format=shape[0],
        samples_per_frame=shape[1],
        skew=shape[2],
        offset=shape[3],
        gain=gain,
        baseline=(zero or 0) if baseline is None else baseline,
        unit=unit or "mV",
        initial=initial,
        checksum=checksum,
        name=name.strip() or f"signal {place}",
    )


def is_direct(header: Header) -> bool:
    """Whether every signal is plain format 16, or 61 which has its bytes the other way round: these
    are read here without the wfdb package."""
    return header.segments is None and all(
        s.format in (16, 61) and s.samples_per_frame == 1 and s.skew == 0 and s.file != "~"
        for s in header.signals
    )
