"""A realistic bug, put into the live library for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from latentcast.verification.observe.twin import Subject


@dataclass(frozen=True)
class Fault:
    """One bug of the catalogue.

    Attributes:
        id: ``area.name``, as ``ema.before-step``.
        sentence: what is wrong.
        source: who made it: a defect of the specification, or a classic.
        inject: patches the library; everything is as before when it exits.
        reddens: ids of the claims that must not hold under it: at the least these.
        about: whether a subject has what it breaks.
    """

    id: str
    sentence: str
    source: str
    inject: Callable[[], AbstractContextManager[None]]
    reddens: tuple[str, ...]
    about: Callable[[Subject], bool] = lambda subject: True


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """``owner.name`` is ``make(what it was)`` while the context lasts."""
    own = name in owner.__dict__
    was = owner.__dict__[name] if own else getattr(owner, name)
    setattr(owner, name, make(was))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, was)
        else:  # inherited: a copy left here would hide what the parent is given later
            delattr(owner, name)
