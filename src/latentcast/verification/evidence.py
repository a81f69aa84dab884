"""What a probe measured, each number beside what it was held against.

Checks are built here and nowhere else, so the bound that is shown is the bound that was tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Number = float | int | str | bool
AT_MOST, ABOVE, EXPECTED = "at most", "above", "expected"
"""Relations: of a number ``x`` the bound stands under ``x: at most``."""
NAMED = 3
"""Of what should not be there, so many are named."""


@dataclass(frozen=True)
class Evidence:
    """What a probe measured.

    Attributes:
        holds: the verdict.
        numbers: what was measured, by name, with what it was held against.
    """

    holds: bool
    numbers: Mapping[str, Number] = field(default_factory=dict)


def at_most(name: str, measured: float, bound: float) -> Evidence:
    """Holds when a number stays within its bound; NaN and infinity never do."""
    holds = math.isfinite(measured) and measured <= bound
    return Evidence(bool(holds), {name: measured, f"{name}: {AT_MOST}": bound})


def above(name: str, measured: float, bound: float) -> Evidence:
    """Holds when a number exceeds its bound; NaN and infinity never do."""
    holds = math.isfinite(measured) and measured > bound
    return Evidence(bool(holds), {name: measured, f"{name}: {ABOVE}": bound})


def equal(name: str, measured: Number, expected: Number) -> Evidence:
    """Holds when both are the same; NaN is nothing's equal."""
    return Evidence(bool(measured == expected), {name: measured, f"{name}: {EXPECTED}": expected})


def true(name: str, holds: bool) -> Evidence:
    """Holds when the named statement does."""
    return Evidence(holds, {name: holds})


def greatest(*numbers: float) -> float:
    """The largest of several; infinite when one is NaN, which ``max`` may pass over."""
    return math.inf if any(map(math.isnan, numbers)) else max(numbers)


def none(name: str, found: Iterable[object]) -> Evidence:
    """Holds when nothing was found of what must not be; the first few are named."""
    items = list(found)
    return Evidence(not items, {name: first_of(items)})


def first_of(items: Iterable[object]) -> str:
    """The first few by name and how many more there are; ``none``, where there is none."""
    items = list(items)
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(map(str, items[:NAMED])) + more or "none"


def all_of(*parts: Evidence, **context: Number) -> Evidence:
    """Holds when every part does, and there is one.

    Args:
        context: further numbers, held against nothing; ``_`` in a name stands for a space.

    Raises:
        ValueError: two parts have a name in common, so one would hide the other.
    """
    numbers: dict[str, Number] = {}
    for part in parts:
        if twice := numbers.keys() & part.numbers.keys():
            raise ValueError(f"two checks are called {', '.join(sorted(twice))}")
        numbers |= part.numbers
    beside = {name.replace("_", " "): value for name, value in context.items()}
    return Evidence(bool(parts) and all(part.holds for part in parts), numbers | beside)
