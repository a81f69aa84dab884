"""Short WFDB records of one layout read together: what calls cost is more than what samples do.

What is not like the others here, or wrong in any way, is left to :mod:`.wfdb`, which alone decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from latentcast.files import plain_folder, read_bytes
from latentcast.signals.readers import matlab
from latentcast.signals.readers.comments import annotation_of
from latentcast.signals.readers.file_format import ReadOptions, choose
from latentcast.signals.readers.wfdb_checksums import Sums, check_bytes
from latentcast.signals.readers.wfdb_header import (
    Header,
    decode_header,
    is_direct,
    parse_header,
)
from latentcast.signals.readers.wfdb_pattern import Lines, Pattern
from latentcast.signals.readers.wfdb_signals import to_millivolts
from latentcast.signals.recording import Recording
from latentcast.source import Annotation, BadRecord

SHORT = 2**16
"""Values of a record up to which it is read together with others."""
MOST_PATTERNS = 3
"""Of the headers of a batch: compiling one costs as much as parsing ten."""
_Layout = tuple[object, ...]


class _Found(NamedTuple):
    """A record: its place among the results, the folder, its name, the file of its signals, what
    its header has of its own, and the checksums."""

    place: int
    folder: str
    name: str
    file: str
    lines: Lines
    sha256: Sums


class _Alike(NamedTuple):
    """Records of one layout, and the header of one."""

    header: Header
    records: list[_Found]


def read(
    root: Path, records: Sequence[tuple[str, Sums]], options: ReadOptions
) -> list[tuple[Recording, Annotation] | None]:
    """Of each record what :func:`latentcast.signals.readers.wfdb.read` gives, to the bit; None of
    those that it has to read itself.

    Args:
        root: the folder of the data set.
        records: the header of each, by its name in ``root``, and the checksums of its folder.
        options: what to read of each.
    """
    results: list[tuple[Recording, Annotation] | None] = [None] * len(records)
    for group in _grouped(root, records):
        try:
            read_alike = _read_alike(group, options)
        except Exception:  # of one record, which has the reason when it is read alone
            continue
        for place, result in read_alike:
            results[place] = result
    return results


def _grouped(root: Path, records: Sequence[tuple[str, Sums]]) -> Iterable[_Alike]:
    groups, folders = dict[_Layout, _Alike](), dict[str, str | None]()
    patterns = list[tuple[Pattern, list[_Found]]]()
    for place, (path, sha256) in enumerate(records):
        below, _, file = path.rpartition("/")
        if below not in folders:
            folders[below] = plain_folder(str(root), below)
        if (folder := folders[below]) is None:
            continue
        name = file.removesuffix(".hea")
        try:
            raw = read_bytes(f"{folder}/{file}", links=False)
            check_bytes(raw, file, sha256)
            text = decode_header(raw)
            for pattern, alike in patterns:
                if (lines := pattern.lines(text, name)) is not None:
                    signals = name + pattern.suffix
                    alike.append(_Found(place, folder, name, signals, lines, sha256))
                    break
            else:
                header = parse_header(text)
                if layout := _layout(header):
                    group = groups.setdefault(layout, _Alike(header, []))
                    signals, lines = header.signals[0].file, Lines.of(header)
                    group.records.append(_Found(place, folder, name, signals, lines, sha256))
                    if len(patterns) < MOST_PATTERNS and (made := Pattern.of(text, header)):
                        patterns.append((made, group.records))
        except Exception:  # of one record, which has the reason when it is read alone
            continue
    return groups.values()


def _layout(header: Header) -> _Layout:
    """What records have in common that are read together; empty where there are none such."""
    signals, samples = header.signals, header.samples
    if not signals or samples is None or samples * len(signals) > SHORT:
        return ()
    files, *columns = zip(*signals, strict=True)
    *shape, initials, checksums, names = columns
    if len(set(files)) > 1 or None in (*initials, *checksums) or 0 in shape[4]:
        return ()
    if not is_direct(header):
        return ()
    return header.sampling_rate, samples, *shape, names


def _read_alike(
    group: _Alike, options: ReadOptions
) -> list[tuple[int, tuple[Recording, Annotation]]]:
    """The places and results of records of one layout."""
    first, records = group
    signals, samples = first.signals, first.samples or 0
    chosen = choose([(signal.name, signal.unit) for signal in signals], options)
    order = ">i2" if signals[0].format == 61 else "<i2"
    stored = np.empty((len(records), samples, len(signals)), order)
    offset = signals[0].offset
    complete = [_fill(one, offset, stored[n]) for n, one in enumerate(records)]
    digital = np.ascontiguousarray(stored.transpose(0, 2, 1)).astype(np.int16, copy=False)
    kept = np.flatnonzero(complete & _keep_their_sums(digital, records)).tolist()
    if chosen.columns != tuple(range(len(signals))):
        digital = digital[:, chosen.columns]
    used = [signals[column] for column in chosen.columns]
    values = to_millivolts(digital[kept], used, chosen.factors)
    finite = np.isfinite(values)
    if not finite.all():
        values[~finite] = np.nan
    results = []
    for n, signal, valid in zip(kept, values, finite, strict=True):
        one = records[n]
        recording = Recording(
            signal, chosen.leads, first.sampling_rate, valid, one.name, None, dict(chosen.metadata)
        )
        about = annotation_of(one.lines.comments, one.lines.begins)
        results.append((one.place, (recording, about)))
    return results


def _fill(one: _Found, offset: int, stored: npt.NDArray[np.int16]) -> bool:
    """Put the samples of a record in their place; whether they are there."""
    file = one.file
    if "/" in file:
        return False
    try:
        data = read_bytes(f"{one.folder}/{file}", links=False)
        if len(data) < offset + stored.nbytes:
            return False
        check_bytes(data, file, one.sha256)
        if file.endswith(".mat") and len(stored) != matlab.check_envelope(
            data, file, offset, stored.shape[1]
        ):
            return False
    except (OSError, ValueError, BadRecord):  # ValueError: NUL in the name
        return False
    flat = np.frombuffer(data, stored.dtype, stored.size, offset)
    stored[:] = flat.reshape(stored.shape)
    return True


def _keep_their_sums(
    digital: npt.NDArray[np.int16], records: Sequence[_Found]
) -> npt.NDArray[np.bool_]:
    """Whether the samples of each record agree with the lines of its header."""
    lines = np.array([one.lines.counts for one in records], dtype=np.int64)
    lines = lines.reshape(len(records), -1, 2)
    # Headers write the lowest 16 bits of a sum, which is what a sum of int16 in int16 is.
    sums = digital.sum(axis=2, dtype=np.int16)
    agree: npt.NDArray[np.bool_] = digital[:, :, 0] == lines[:, :, 0]
    agree &= sums == lines[:, :, 1].astype(np.int16)
    return np.asarray(agree.all(axis=1))
