"""Short WFDB records of one layout read together: what calls cost is more than what samples do.

What is not like the others here, or wrong in any way, is left to :mod:`.wfdb`, which alone decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from latentcast.files import plain_path, read_bytes
from latentcast.signals.readers import matlab
from latentcast.signals.readers.comments import annotation_of
from latentcast.signals.readers.file_format import ReadOptions, choose
from latentcast.signals.readers.wfdb_checksums import Sums, check_bytes
from latentcast.signals.readers.wfdb_header import Header, is_direct
from latentcast.signals.readers.wfdb_signals import parsed, to_millivolts
from latentcast.signals.recording import Recording
from latentcast.source import Annotation, BadRecord

SHORT = 2**16
"""Values of a record up to which it is read together with others."""
_Layout = tuple[object, ...]


class _Found(NamedTuple):
    """A header, the folder and name of its record, and its place among the results."""

    place: int
    folder: str
    name: str
    header: Header
    sha256: Sums


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
    alike = defaultdict[_Layout, list[_Found]](list)
    for place, (file, sha256) in enumerate(records):
        path = plain_path(str(root), file)
        if path is not None and (header := _header(path, sha256)) is not None:
            folder, _, name = path.rpartition("/")
            found = _Found(place, folder, name.removesuffix(".hea"), header, sha256)
            alike[_layout(header)].append(found)
    results: list[tuple[Recording, Annotation] | None] = [None] * len(records)
    alike.pop((), None)
    for group in alike.values():
        try:
            read_alike = _read_alike(group, options)
        except Exception:  # of one record, which has the reason when it is read alone
            continue
        for place, result in read_alike:
            results[place] = result
    return results


def _header(path: str, sha256: Sums) -> Header | None:
    try:
        return parsed(read_bytes(path), path.rpartition("/")[2], sha256)
    except Exception:
        return None


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
    group: Sequence[_Found], options: ReadOptions
) -> list[tuple[int, tuple[Recording, Annotation]]]:
    """The places and results of records of one layout."""
    first = group[0].header
    signals, samples = first.signals, first.samples or 0
    chosen = choose([(signal.name, signal.unit) for signal in signals], options)
    order = ">i2" if signals[0].format == 61 else "<i2"
    stored = np.empty((len(group), samples, len(signals)), order)
    complete = [_fill(one, stored[n]) for n, one in enumerate(group)]
    digital = np.ascontiguousarray(stored.transpose(0, 2, 1)).astype(np.int16, copy=False)
    kept = np.flatnonzero(complete & _keep_their_sums(digital, group)).tolist()
    if chosen.columns != tuple(range(len(signals))):
        digital = digital[:, chosen.columns]
    used = [signals[column] for column in chosen.columns]
    values = to_millivolts(digital[kept], used, chosen.factors)
    finite = np.isfinite(values)
    if not finite.all():
        values[~finite] = np.nan
    results = []
    for n, signal, valid in zip(kept, values, finite, strict=True):
        one = group[n]
        recording = Recording(
            signal, chosen.leads, first.sampling_rate, valid, one.name, None, dict(chosen.metadata)
        )
        results.append(
            (one.place, (recording, annotation_of(one.header.comments, one.header.begins)))
        )
    return results


def _fill(one: _Found, stored: npt.NDArray[np.int16]) -> bool:
    """Put the samples of a record in their place; whether they are there."""
    file, offset = one.header.signals[0].file, one.header.signals[0].offset
    path = plain_path(one.folder, file)
    try:
        if path is None or len(data := read_bytes(path)) < offset + stored.nbytes:
            return False
        check_bytes(data, file, one.sha256)
        if file.endswith(".mat") and len(stored) != matlab.check_envelope(
            data, file, offset, stored.shape[1]
        ):
            return False
    except (OSError, BadRecord):
        return False
    flat = np.frombuffer(data, stored.dtype, stored.size, offset)
    stored[:] = flat.reshape(stored.shape)
    return True


def _keep_their_sums(
    digital: npt.NDArray[np.int16], group: Sequence[_Found]
) -> npt.NDArray[np.bool_]:
    """Whether the samples of each record agree with the lines of its header."""
    lines = np.array(
        [[(s.initial, s.checksum) for s in one.header.signals] for one in group], dtype=np.int64
    )
    # Headers write the lowest 16 bits of a sum, which is what a sum of int16 in int16 is.
    sums = digital.sum(axis=2, dtype=np.int16)
    agree: npt.NDArray[np.bool_] = digital[:, :, 0] == lines[:, :, 0]
    agree &= sums == lines[:, :, 1].astype(np.int16)
    return np.asarray(agree.all(axis=1))
