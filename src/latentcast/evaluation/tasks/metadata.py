"""A value of the metadata as target: a number is regressed, a text of few values is a class."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentcast.data.store import Store
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation.tasks.base import Targets
from latentcast.signals.readers.numbers import number

MOST_CLASSES = 50
OLDEST = 120.0
"""Years. PTB-XL writes 300 for whoever is over 89: a larger age is a code, and no age."""


@dataclass(frozen=True)
class Metadata:
    """``metadata:NAME``. A record without the value is left out.

    Two different numbers make no scale (sex, pacemaker): they are classes, as texts are.
    """

    name: str

    def targets(self, store: Store) -> Targets:
        """Raises LatentcastError for a name that no record has, and for texts of many values."""
        key = self.name.partition(":")[2]
        read, names = [], set[str]()
        for record in store.all_metadata():
            read.append(value_of(record.get(key)))
            names |= {name for name, value in record.items() if value_of(value) is not None}
        if key not in names:
            raise LatentcastError(
                f"task {self.name}: no record has '{key}' in its metadata; {nearest(key, names)}"
            )
        if key.lower() == "age":
            read = [None if isinstance(age, float) and age > OLDEST else age for age in read]
        mask = np.array([value is not None for value in read])
        present = {value for value in read if value is not None}
        if len(present) > 2 and all(isinstance(value, float) for value in present):
            numbers = np.array([math.nan if value is None else value for value in read], float)
            return Targets(numbers, mask, (key,), "regression")
        texts = [value if isinstance(value, str) else f"{value:g}" for value in present]
        classes = sorted(texts)
        if len(present) > MOST_CLASSES:
            raise LatentcastError(
                f"task {self.name}: has {len(present):,} different texts, such as "
                f"{', '.join(repr(text[:20]) for text in classes[:3])}; name a number, or a text "
                f"of at most {MOST_CLASSES} values"
            )
        place = {v: classes.index(t) for v, t in zip(present, texts, strict=True)}
        values = np.array([-1 if v is None else place[v] for v in read], dtype=np.int64)
        return Targets(values, mask, tuple(classes), "multi-class")


def value_of(value: Any) -> float | str | None:
    """A number, also one that is written as text; other text; None where it is missing.

    What only Python takes for a number (``nan``, ``-inf``, ``1_0``, ``1e-320``) is missing.
    """
    text = "" if value is None else str(value).strip()
    with suppress(ValueError):
        return number(text)
    try:
        float(text)
    except ValueError:
        return text or None
    return None
