"""Files that are either whole or not there, records that carry a digest, names that stay inside."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from latentcast.errors import LatentcastError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to a neighbour, then put it in place of ``path`` in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.touch()
        mode = draft.stat().st_mode
        yield draft
        draft.chmod(mode)  # safetensors leaves its files to their owner alone
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Ask the operating system to put a file or folder on disk now."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folder, and its rename is journalled
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Of the bytes of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def regular(path: Path) -> Path:
    """The path, unless it is a FIFO, which would hang who opens it, or a device, which never ends.

    Raises:
        OSError: it is one.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError("it is no regular file")
    return path


_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""How a file is opened that may be a FIFO; Windows has the second one."""


_LINKS_STAY = getattr(os, "O_NOFOLLOW", 0)


def read_bytes(path: str | Path, most: int | None = None, *, links: bool = True) -> bytes:
    """The bytes of a regular file, or ``most`` of them: opened once, which a FIFO in its place does
    not hang.

    Args:
        path: of the file.
        most: bytes.
        links: whether the file itself may be one; folders above it may.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    if not links and not _LINKS_STAY and Path(path).is_symlink():
        raise OSError("it is a link")
    descriptor = os.open(path, os.O_RDONLY | _AT_ONCE | (0 if links else _LINKS_STAY))
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError("it is no regular file")
        data = os.read(descriptor, state.st_size + 1 if most is None else most)
        if most is not None or len(data) == state.st_size:
            return data
        blocks = [data]  # of more than two gigabytes, or of a file that grows
        while block := os.read(descriptor, 2**24):
            blocks.append(block)
        return b"".join(blocks)
    finally:
        os.close(descriptor)


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a regular file in UTF-8.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    return regular(path).read_text(encoding="utf-8", errors=errors)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON object, or one so deep that no program wrote it.
    """
    return parse_object(read_text(path))


def parse_object(text: str | bytes) -> dict[str, Any]:
    """:func:`read_object` of text."""
    try:
        record = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("holds no JSON object")
    return record


def digested(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with ``digest``, the sha256 of all the rest of it, in the last place.

    Of the content and not of the bytes: the layout of the JSON may change.
    """
    content = json.loads(json.dumps({k: v for k, v in record.items() if k != "digest"}))
    return {**content, "digest": _digest(canonical(content))}


def digested_line(record: Mapping[str, Any], **lists: str) -> str:
    """:func:`digested` as JSON in a line, of a record whose every key is a text already: of large
    ones, of which JSON is made once instead of four times.

    Args:
        lists: of keys of the record whose value is an empty list, what :func:`listed` gave of the
            list that stands there.
    """
    text = canonical(record)
    for key, items in lists.items():
        text = text.replace(f'"{key}":[]', f'"{key}":[{items}]', 1)
    return f'{text[:-1]},"digest":"{_digest(text)}"}}'


def listed(items: Sequence[Any]) -> str:
    """The items of a list in the JSON of :func:`digested_line`, without its brackets."""
    return canonical(items)[1:-1]


canonical: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""The JSON that a digest is of, in ASCII."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_digest(record: Mapping[str, Any], text: str = "") -> None:
    """Compare a record that was read from JSON with its digest.

    Args:
        text: the JSON, where it may be a line as :func:`digested_line` wrote it: it is compared
            without making JSON of the record once more.

    Raises:
        ValueError: it was changed since :func:`digested`, or has no digest.
    """
    if "digest" not in record:
        raise ValueError("has no digest")
    content, _, digest = text.rstrip().rpartition(',"digest":"')
    if content and digest == f'{_digest(content + "}")}"}}':
        return
    if _digest(canonical({k: v for k, v in record.items() if k != "digest"})) != record["digest"]:
        raise ValueError("was changed since it was written (its digest is another)")


def inside(folder: Path, name: str) -> Path:
    """The regular file that a file of ``folder`` names, which may be damaged or hostile.

    Nothing is opened: a name that leaves the folder must not be followed, and a FIFO or a device
    would hang or never end.

    Raises:
        LatentcastError: the name is absolute or has a ``..``, it leads out of the folder through
            a link, or it is missing, or is no regular file.
    """
    if (plain := plain_file(folder, name)) is not None:
        return plain
    parts = PurePath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise LatentcastError(
            f"{folder}: a file name in it, {name!r}, leads out of the folder and is not followed; "
            "put the file inside and name it relative to the folder"
        )
    try:
        found = Path(os.path.realpath(folder / name, strict=True))
        mode = found.stat().st_mode
    except FileNotFoundError:
        raise LatentcastError(f"{folder}: {name!r} is missing; restore it from a copy") from None
    except (OSError, ValueError) as problem:  # ValueError: NUL in the name
        raise LatentcastError(
            f"{folder}: {name!r} cannot be found ({problem}); restore it from a copy"
        ) from None
    if not found.is_relative_to(os.path.realpath(folder)):
        raise LatentcastError(
            f"{folder}: {name!r} is a link to {found}, outside the folder, and is not followed; "
            "put the file itself in the place of the link"
        )
    if not stat.S_ISREG(mode):
        raise LatentcastError(
            f"{folder}: {name!r} is no regular file; put the file itself in its place"
        )
    return folder / name


def plain_file(folder: Path, name: str) -> Path | None:
    """The regular file of this name in the folder, where no link leads to it; else None.

    It is what :func:`inside` finds of nearly all of a million files, for a look at each part of the
    name instead of one at every folder above.
    """
    path = _without_links(str(folder), name, stat.S_ISREG)
    return None if path is None else Path(path)


def plain_folder(folder: str, name: str) -> str | None:
    """The folder of this name in another, where no link leads to it; else None. ``""`` is that
    other one itself."""
    return _without_links(folder, name, stat.S_ISDIR) if name else folder


def _without_links(folder: str, name: str, kind: Callable[[int], bool]) -> str | None:
    path, mode = folder, 0
    try:
        for part in name.split("/"):
            path = f"{path}/{part}"
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode) or part in ("", ".", ".."):
                return None
    except (OSError, ValueError):  # ValueError: NUL in the name
        return None
    return path if kind(mode) else None


def apart(out: str | Path, **inputs: str | Path | None) -> None:
    """Refuse to write into what is read; ``inputs`` are paths by what they are, ``store=...``.

    Raises:
        LatentcastError: ``out`` is one of them or lies inside of one.
    """
    place = Path(os.path.realpath(out))  # Path.resolve fails over a link to itself
    for name, path in inputs.items():
        if path is None or not place.is_relative_to(os.path.realpath(path)):
            continue
        where = "is" if place == Path(os.path.realpath(path)) else "lies inside"
        raise LatentcastError(f"{out}: {where} the {name} {path}; choose a place outside of it")
