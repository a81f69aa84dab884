"""WFDB records made of several records in a row, with gaps (``~``) between them.

In a fixed layout all segments have the same signals. In a variable one the first segment has no
samples and names the signals that the others may have; one that a segment lacks was not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentcast.errors import quoted
from latentcast.signals.readers.file_format import Chosen, ReadOptions, choose
from latentcast.signals.readers.wfdb_checksums import Sums
from latentcast.signals.readers.wfdb_header import Header
from latentcast.signals.readers.wfdb_package import check_size
from latentcast.signals.readers.wfdb_signals import Physical, physical, read_header
from latentcast.signals.recording import from_signal
from latentcast.signals.resample import polyphase
from latentcast.source import BadRecord, record_file

GAP = "~"


@dataclass(frozen=True)
class _Part:
    """A segment that has samples; ``start`` is its first one in frames of the record."""

    name: str
    path: Path
    header: Header
    start: int
    frames: int
    sha256: Sums


def read(
    path: Path, header: Header, sha256: Sums, options: ReadOptions
) -> tuple[Physical, Chosen, float]:
    """As :func:`latentcast.signals.readers.wfdb_signals.read`, of all segments.

    Raises:
        BadRecord: with the reason; names the segment that cannot be read or differs from the
            record.
    """
    listed, frames = _parts(path.parent, header, sha256)
    if header.samples not in (None, frames):
        raise BadRecord(f"header announces {header.samples} samples, its segments have {frames}")
    if not listed:
        raise BadRecord("header names no segment that has signals")
    first, parts = listed[0], [part for part in listed if part.frames]
    for part in parts:
        _check_signals(part, first, header.count)
    chosen = choose([(signal.name, signal.unit) for signal in first.header.signals], options)
    names = [first.header.signals[column].name for column in chosen.columns]
    most = _samples_per_frame(parts, names)
    files = {part.path.parent / s.file for part in parts for s in part.header.signals}
    check_size(frames * most, len(names), sum(f.stat().st_size for f in files if f.is_file()))
    rate, joined = header.sampling_rate * most, np.full((len(names), frames * most), np.nan, "f4")
    for part in parts:
        with _naming(part.name):
            rows, signal = _read_part(part, names, rate, options)
        joined[rows, part.start * most : (part.start + part.frames) * most] = signal
    return joined, chosen, rate


def _parts(folder: Path, header: Header, sha256: Sums) -> tuple[list[_Part], int]:
    """The segments but for gaps, and the frames of them all."""
    parts, start = list[_Part](), 0
    for segment in header.segments or ():
        if segment.name != GAP:
            # The list of checksums is that of the record's own folder.
            own = None if "/" in segment.name else sha256
            with _naming(segment.name):
                file = record_file(folder, f"{segment.name}.hea")
                part = read_header(file, own)
                _check(part, header, segment.samples)
            parts.append(_Part(segment.name, file, part, start, segment.samples, own))
        start += segment.samples
    return parts, start


def _check(part: Header, record: Header, samples: int) -> None:
    if part.segments is not None:
        raise BadRecord("is made of segments itself")
    if part.sampling_rate != record.sampling_rate:
        raise BadRecord(f"has {part.sampling_rate:g} Hz, the record {record.sampling_rate:g}")
    if samples and part.samples not in (None, samples):
        raise BadRecord(f"has {part.samples} samples, the record gives it {samples}")


def _check_signals(part: _Part, first: _Part, count: int) -> None:
    """That a segment has the signals of the record: all of them, or some of those in its layout."""
    names, those = ([signal.name for signal in p.header.signals] for p in (part, first))
    fixed = first.frames > 0
    if (fixed and (names != those or len(names) != count)) or not set(names) <= set(those):
        listed = ", ".join(quoted(name, 20) for name in names[:12]) or "none"
        raise BadRecord(
            f"segment {part.name}: has other signals ({listed}) than {first.name} "
            f"({', '.join(quoted(name, 20) for name in those[:12]) or 'none'})"
        )


def _samples_per_frame(parts: Sequence[_Part], names: Sequence[str]) -> int:
    """The most of any of the signals.

    Raises:
        BadRecord: segments give a signal different numbers.
    """
    most = 1
    for name in names:
        numbers = {
            signal.samples_per_frame
            for part in parts
            for signal in part.header.signals
            if signal.name == name
        }
        if len(numbers) > 1:
            raise BadRecord(
                f"header: {name} has different numbers of samples in a frame in its segments "
                f"({', '.join(map(str, sorted(numbers)))})"
            )
        most = max(most, *numbers) if numbers else most
    return most


def _read_part(
    part: _Part, names: Sequence[str], rate: float, options: ReadOptions
) -> tuple[list[int], Physical]:
    """Which of the signals a segment has, and these in mV at the rate of the record."""
    places = {signal.name: n for n, signal in reversed(list(enumerate(part.header.signals)))}
    rows = [row for row, name in enumerate(names) if name in places]
    if not rows:
        return [], np.empty((0, round(part.frames * rate / part.header.sampling_rate)), "f4")
    own = [part.header.signals[places[names[row]]] for row in rows]
    chosen = choose([(signal.name, signal.unit) for signal in own], options)
    chosen = replace(chosen, columns=tuple(places[signal.name] for signal in own))
    signal, at = physical(part.path, part.header, part.sha256, chosen)
    if at != rate:
        signal = polyphase(from_signal(signal, chosen.leads, at, part.name), rate).signal
    if (samples := round(part.frames * rate / part.header.sampling_rate)) != signal.shape[1]:
        raise BadRecord(f"has {signal.shape[1]} samples, the record gives it {samples}")
    return rows, signal


@contextmanager
def _naming(segment: str) -> Iterator[None]:
    """Put the segment before what is wrong with it."""
    try:
        yield
    except BadRecord as error:
        raise BadRecord(f"segment {segment}: {error}") from None
