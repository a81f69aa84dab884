"""Which known faults turn the same claims red.

``signatures.json`` has what each fault of the catalogue turned red when it was measured.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

LEAST, MOST = 0.2, 3
"""The smallest share that is likeness, and how many faults are named."""


@dataclass(frozen=True)
class Likeness:
    """A known fault beside what is red.

    Attributes:
        sentence: what is wrong under it.
        shared: claims that are red here and under the fault.
        share: of all claims that are red here or under it.
    """

    fault: str
    sentence: str
    shared: int
    share: float

    def __str__(self) -> str:
        return f"{self.fault}: {self.sentence} ({self.share:.0%} of what is red with either)"


def most_like(red: Collection[str]) -> list[Likeness]:
    """The known faults whose red claims are most nearly these, the nearest first."""
    found = []
    for name, fault in _signatures().items():
        shares = [
            (len(both) / len({*red, *own}), len(both))
            for own in fault["red"]
            if (both := set(red).intersection(own))
        ]
        if shares and max(shares)[0] >= LEAST:
            share, shared = max(shares)
            found.append(Likeness(name, fault["sentence"], shared, share))
    return sorted(found, key=lambda one: (-one.share, -one.shared, one.fault))[:MOST]


@cache
def _signatures() -> dict[str, Any]:
    file = files(__package__).joinpath("signatures.json")
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded
