"""What lies below a folder, walked through once in the reading of a source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple


class Walk(NamedTuple):
    """Of ``os.walk``: each folder with the names of its folders and files, and what cannot be
    listed. Links are not followed."""

    folders: list[tuple[str, list[str], list[str]]]
    errors: list[OSError]


_walks: ContextVar[dict[str, Walk] | None] = ContextVar("walks", default=None)


@contextmanager
def walking_once() -> Iterator[None]:
    """While a source is opened, each folder is walked once: formats, listing and remarks all look
    for other names, and a million files on a distant disk take minutes."""
    token = _walks.set({})
    try:
        yield
    finally:
        _walks.reset(token)


def walk(top: str | Path) -> Walk:
    """All below a folder. Nobody changes the lists."""
    walks, key = _walks.get(), str(top)
    if walks is not None and key in walks:
        return walks[key]
    errors = list[OSError]()
    found = Walk([*os.walk(key, onerror=errors.append)], errors)
    if walks is not None:
        walks[key] = found
    return found
