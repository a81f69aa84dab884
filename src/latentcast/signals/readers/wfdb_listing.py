"""The records of a WFDB folder, and what shows that one of them has changed."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from latentcast.files import plain_folder, read_bytes
from latentcast.signals.readers.wfdb_header import decode_header
from latentcast.source import BadRecord, RecordRef, find_files, record_file

_WORDS = re.compile(r"^[ \t]*([^\s#]\S*)", re.MULTILINE)
_PLAIN = bytes([*b"\n\t", *range(0x20, 0x7F)])
"""Bytes that end no line elsewhere than at its end."""


class Listing(NamedTuple):
    """Records sorted by path; their signatures by file, of those that no link leads to; the headers
    that are hidden; and the bytes of the largest record, at most."""

    refs: list[RecordRef]
    signatures: dict[str, bytes]
    hidden: list[str]
    largest: int


class _Look(NamedTuple):
    """A header, its :func:`signature` where no link leads to it, the records that it names as its
    segments, and the bytes of its files."""

    file: str
    signature: bytes | None
    segments: list[str]
    size: int


def list_records(root: Path, without: tuple[str, ...] = ()) -> Listing:
    """Every record below ``root``; those in a folder of ``without`` are passed over.

    Segments of a longer record are left to it.

    A record's id is its name, or its path where the source uses one name twice.
    """
    headers, hidden = find_files(root, "*.hea")
    headers = [file for file in headers if not file.startswith(without)] if without else headers
    parts, signatures, largest, in_segments = set[str](), dict[str, bytes](), 0, 0
    for look in _looks(root, headers):
        largest, in_segments = max(largest, look.size), in_segments + len(look.segments)
        below = _folder(look.file)
        parts |= {str(PurePosixPath(below, f"{name}.hea")) for name in look.segments if name != "~"}
        if look.signature is not None:
            signatures[look.file] = look.signature
    listed = [file for file in headers if file not in parts]
    stems = [file.rpartition("/")[2].removesuffix(".hea") for file in listed]
    repeated = {stem for stem, times in Counter(stems).items() if times > 1}
    refs = [
        RecordRef(file.removesuffix(".hea") if stem in repeated else stem, file)
        for file, stem in zip(listed, stems, strict=True)
    ]
    return Listing(refs, signatures, hidden, largest * max(1, in_segments))


def _looks(root: Path, headers: Sequence[str]) -> Iterator[_Look]:
    """Into every header that can be read."""
    plain = dict[str, str | None]()
    for file in headers:
        below = _folder(file)
        if below not in plain:
            plain[below] = plain_folder(str(root), below)
        try:
            raw, is_link = _read_header(root, file, plain[below])
        except (OSError, BadRecord):
            continue  # reading it fails in its turn, with the reason
        own, segments, size = _parts_of(raw, f"{root}/{below}")
        unseen = is_link or bool(segments)
        digest = None if unseen else hashlib.sha256(own).digest()
        yield _Look(file, digest, segments, size)


def signature(header: Path) -> bytes:
    """Changes when a record does: its header, and the names and sizes of the files it names.

    Signal files are not read: one rewritten at the same length under the same header goes unseen.
    """
    digest = hashlib.sha256()
    pending, met = [header], {header}
    while pending:
        path = pending.pop()
        try:
            raw = read_bytes(record_file(path.parent, path.name))
        except (OSError, BadRecord):
            digest.update(b"missing\n")
            continue
        own, segments, _ = _parts_of(raw, str(path.parent))
        digest.update(own)
        for name in segments:
            part = path.parent / f"{name}.hea"
            if part not in met and PurePath(name).name == name:
                met.add(part)
                pending.append(part)
    return digest.digest()


def _folder(file: str) -> str:
    return file.rpartition("/")[0]


def _read_header(root: Path, file: str, folder: str | None) -> tuple[bytes, bool]:
    """A header's bytes, and whether a link leads to it; ``folder`` is its own, None behind a link.

    Raises:
        OSError, BadRecord: it cannot be read.
    """
    if folder is not None:
        try:
            return read_bytes(f"{folder}/{file.rpartition('/')[2]}", links=False), False
        except OSError:  # perhaps of a link
            pass
    return read_bytes(record_file(root, file)), True


def _parts_of(header: bytes, folder: str) -> tuple[bytes, list[str], int]:
    """What a header adds to a :func:`signature`: its bytes, and the names and sizes of the files it
    names, in ``folder``; where it is of segments, which records it names instead; and the bytes of
    its files."""
    own = hashlib.sha256(header).digest()
    first, *words = _first_words(header) or [""]
    names = sorted({*words})
    if "/" in first:
        return own, names, 0
    sizes = [_size(os.path.join(folder, name)) for name in names]  # noqa: PTH118
    lines = (f"{name}\t{size}\n" for name, size in zip(names, sizes, strict=True))
    return own + "".join(lines).encode(), [], sum(sizes)


def _first_words(header: bytes) -> list[str]:
    """Of each line that is no comment."""
    text = decode_header(header)
    if not header.translate(None, _PLAIN):
        return _WORDS.findall(text)
    lines = (line.split(None, 1) for line in text.splitlines())
    return [words[0] for words in lines if words and words[0][0] != "#"]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except (OSError, ValueError):
        return -1
