"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from latentcast.errors import LatentcastError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to a neighbour, then put it in place of ``path`` in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Ask the operating system to put a file or folder on disk now."""
    descriptor = os.open(path, os.O_RDONLY)
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


def inside(folder: Path, name: str) -> Path:
    """The regular file that a file of ``folder`` names, which may be damaged or hostile.

    Nothing is opened: a name that leaves the folder must not be followed, and a FIFO or a device
    would hang or never end.

    Raises:
        LatentcastError: the name is absolute or has a ``..``, it leads out of the folder through
            a link, or it is missing, or is no regular file.
    """
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
