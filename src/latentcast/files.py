"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def apart(out: str | Path, **inputs: str | Path | None) -> None:
    """Refuse to write into what is read; ``inputs`` are paths by what they are, ``store=...``.

    Raises:
        LatentcastError: ``out`` is one of them or lies inside of one.
    """
    place = Path(out).resolve()
    for name, path in inputs.items():
        if path is None or not place.is_relative_to(Path(path).resolve()):
            continue
        where = "is" if place == Path(path).resolve() else "lies inside"
        raise LatentcastError(f"{out}: {where} the {name} {path}; choose a place outside of it")
