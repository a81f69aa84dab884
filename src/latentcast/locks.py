"""A file that one process at a time has locked; the lock ends with the process, however that ends.

The lock is the operating system's (``flock``, ``LockFileEx``), by way of filelock: nothing is left
that a killed process would have had to remove.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import lock_descriptor, unlock_descriptor

_POLL: Final = 0.02
_LOCKED: Final = set[int]()
"""The descriptors of this process's locks."""


class Locked(Exception):
    """Another process, or another part of this one, has the lock."""


@contextmanager
def locked(path: Path, patience: float = 0.5, remove: bool = False) -> Iterator[None]:
    """Lock a file, which is made if it is missing.

    Args:
        patience: seconds to wait for another to let go, ``inf`` for ever. Not 0: who looks whether
            a file :func:`is_locked` locks it for an instant.
        remove: remove the file at the end. Otherwise it stays, so that all lock the same one.

    Raises:
        Locked: another has it.
        OSError: the file cannot be made or opened.
    """
    descriptor = _acquire(path, time.monotonic() + patience)
    try:
        yield
    finally:
        removable = remove and descriptor in _LOCKED and _is_at(path, descriptor)
        if removable and os.name != "nt":
            path.unlink(missing_ok=True)  # while it is locked: a later file is another's
        _close(descriptor)
        if removable and os.name == "nt":
            _remove_closed(path)


def is_locked(path: Path) -> bool | None:
    """Whether :func:`locked` has the file, in any process; None where that cannot be found out."""
    try:
        with path.open("rb") as file:
            if not lock_descriptor(file.fileno(), blocking=False):
                return True
            unlock_descriptor(file.fileno())
            return False
    except OSError:
        return None


def _acquire(path: Path, deadline: float) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            while not _lock(descriptor):
                if time.monotonic() >= deadline:
                    raise Locked
                time.sleep(_POLL)
            # Who had it may have removed the file since it was opened here: a lock of nothing.
            if _is_at(path, descriptor):
                _LOCKED.add(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return True  # a file system without locks


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _close(descriptor: int) -> None:
    if descriptor in _LOCKED:
        _LOCKED.discard(descriptor)
        os.close(descriptor)


def _remove_closed(path: Path) -> None:
    """Windows removes no open file, and so neither one that another process has locked by now."""
    with suppress(PermissionError):
        path.unlink(missing_ok=True)


def _forget() -> None:
    """In a forked reader: its copy would hold the lock for a while after its parent was killed."""
    for descriptor in tuple(_LOCKED):
        _close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
