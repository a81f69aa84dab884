"""Scores of the test records by sex, age, device, site: of each value of a key of the metadata."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation.estimate import FEWEST, SUPPORT, UNDEFINED, LabelScore, Subgroup
from latentcast.evaluation.metrics import (
    METRICS,
    Counts,
    Resampled,
    patient_numbers,
    supported,
)
from latentcast.evaluation.tasks.base import Kind
from latentcast.evaluation.tasks.metadata import MOST_CLASSES, OLDEST, value_of

AGES = (("under 18", 18.0), ("18–39", 40.0), ("40–59", 60.0), ("60–79", 80.0))
"""Bands of years, each up to its end."""
OLD = "80 and over"
MISSING = "not recorded"

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Grouping:
    """A key of the metadata and the group of each record, ``(N,)`` text."""

    by: str
    groups: npt.NDArray[np.str_]


def groupings(store: Store, by: Sequence[str]) -> list[Grouping]:
    """The groups of all records of a store by each key; ``age`` in bands.

    Raises:
        LatentcastError: a key that no record has, or one of many values.
    """
    if not by:
        return []
    metadata = list(store.all_metadata())
    keys = {
        key for record in metadata for key, value in record.items() if value_of(value) is not None
    }
    found = []
    for key in by:
        if key not in keys:
            raise LatentcastError(
                f"by {key}: no record has '{key}' in its metadata; {nearest(key, keys)}"
            )
        values = [value_of(record.get(key)) for record in metadata]
        name = _band if key.lower() == "age" else _text
        groups = np.array([MISSING if value is None else name(value) for value in values])
        if (several := len(np.unique(groups))) > MOST_CLASSES:
            raise LatentcastError(
                f"by {key}: has {several:,} different values; name age, or a key of at most "
                f"{MOST_CLASSES}"
            )
        found.append(Grouping(key, groups))
    return found


def subgroups(
    kind: Kind,
    targets: Array,
    predictions: Array,
    names: Sequence[str],
    counts: Counts,
    patients: npt.NDArray[np.str_],
    by: Sequence[Grouping],
) -> tuple[Subgroup, ...]:
    """The score of each group; arguments as :func:`latentcast.evaluation.metrics.score` takes
    them, and patients and groupings of the same records.

    An interval is of the resamples of all patients, in each those of the group. A mean over labels
    is over those with enough positives in the group: groups may differ in which these are.
    """
    owners = patient_numbers(patients)
    return tuple(
        _scored(kind, targets, predictions, names, counts, owners, one.by, name, one.groups == name)
        for one in by
        for name in sorted(np.unique(one.groups).tolist(), key=in_order)
    )


def _scored(
    kind: Kind,
    targets: Array,
    predictions: Array,
    names: Sequence[str],
    counts: Counts,
    owners: npt.NDArray[np.int64],
    by: str,
    name: str,
    inside: npt.NDArray[np.bool_],
) -> Subgroup:
    y, x, records = targets[inside], predictions[inside], int(inside.sum())
    drawn = counts[:, inside]
    drawn = drawn[drawn.any(axis=1)]  # a resample may have nobody of the group
    positives = int(y.sum()) if kind == "multi-label" else None
    too_few = f"fewer than {FEWEST} records" if records < FEWEST else ""
    if not too_few and len(np.unique(owners[inside])) < FEWEST:
        too_few = f"fewer than {FEWEST} patients"
    chosen = np.ones(1, dtype=bool)
    if kind == "multi-label":
        chosen = supported(y)
        if not too_few and not chosen.any():
            too_few = f"no label with {SUPPORT} or more positives and a negative"
    main, labels, averaged = UNDEFINED, list[LabelScore](), 0
    if not too_few and kind != "multi-label":
        main = Resampled.of(METRICS[kind][0], y, x, drawn).mean()
    elif not too_few:
        averaged = int(chosen.sum())
        area, precision = (
            Resampled.of(m, y[:, chosen], x[:, chosen], drawn) for m in METRICS[kind]
        )
        main = area.mean()
        for place, label in enumerate(np.flatnonzero(chosen).tolist()):
            own = area.column(place), precision.column(place)
            labels.append(LabelScore(names[label], int(y[:, label].sum()), records, *own))
    return Subgroup(by, name, records, positives, averaged, main, tuple(labels), too_few)


def in_order(name: str) -> tuple[int, float, str]:
    """Key that sorts names of groups: bands by age, numbers by size, other names by the alphabet,
    those without one last."""
    bands = [band for band, _ in AGES] + [OLD]
    if name in bands:
        return 0, bands.index(name), name
    number = float(name) if name.isdecimal() else math.inf
    return 2 if name == MISSING else 1, number, name


def _band(age: float | str) -> str:
    if isinstance(age, str) or not 0 <= age <= OLDEST:
        return MISSING
    return next((name for name, end in AGES if age < end), OLD)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
