"""Of all readings of a task the rows of its tables: means, spreads and paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from latentcast.evaluation import metrics
from latentcast.evaluation.cache import FeatureCache
from latentcast.evaluation.comparisons import holm, p_value_of
from latentcast.evaluation.cross_validation import mean_of
from latentcast.evaluation.estimate import Estimate
from latentcast.evaluation.evaluation import CrossValidated, Kind, Row, Spread
from latentcast.evaluation.measurement import Measurement
from latentcast.evaluation.question import Group, Member
from latentcast.evaluation.readings import Scores, Within, readings, tokens_of
from latentcast.evaluation.threads import side_by_side
from latentcast.evaluation.tokens import TokenLayers

Corrected = TypeVar("Corrected", Row, CrossValidated)


class Key(NamedTuple):
    """Of a row."""

    source: str
    head: str
    store: str
    amount: str


def read(
    tasks: Sequence[Measurement], groups: Sequence[Group], cache: FeatureCache
) -> list[list[list[Scores | Within]]]:
    """Of each task, and of each member of the groups, everything that the member is read by."""

    def work() -> Iterator[tuple[Measurement, Group, Member, TokenLayers | None]]:
        for group in groups:
            for member in group.members:
                # Nothing else refers to the tokens: with the last task of a member they go.
                tokens = tokens_of(member, tasks[0].question)
                for measured in tasks:
                    yield measured, group, member, tokens

    found = side_by_side(lambda one: readings(*one, cache), work())
    return [found[place :: len(tasks)] for place in range(len(tasks))]


def rows_of(
    measured: Measurement, groups: Sequence[Group], found: Sequence[Sequence[Scores | Within]]
) -> list[Row]:
    """A row for each group, head, cohort and amount; ``found`` for each member of the groups."""
    scores, within = defaultdict[Key, list[Scores]](list), defaultdict[Key, list[Within]](list)
    kinds: dict[str, Kind] = {}
    owners = [group for group in groups for _ in group.members]
    for group, of_member in zip(owners, found, strict=True):
        kinds[group.name] = group.kind
        for one in of_member:
            if isinstance(one, Within):
                within[Key(group.name, one.head, measured.question.name, "1")].append(one)
            else:
                scores[Key(group.name, one.head, one.store, one.amount)].append(one)
    means = {key: np.mean([one.redrawn for one in own], axis=0) for key, own in scores.items()}
    means_within = {key: mean_of([one.found for one in own]) for key, own in within.items()}
    rows = []
    for key, own in scores.items():
        difference, p = _compared(key, means, measured)
        rows.append(
            Row(
                key.source, kinds[key.source], key.head, measured.task.name, key.store, key.amount,
                metrics.estimate(means[key][0], means[key][1:]), _spread(own, "seed"),
                _spread(own, "draw"), difference, tuple(one.reading for one in own), p,
                cross_validated=_cross_validated(key, within, means_within, measured),
            )
        )  # fmt: skip
    corrected = []
    for block in {(row.store, row.amount): None for row in rows}:
        corrected += _corrected([row for row in rows if (row.store, row.amount) == block])
    measured_within = [row.cross_validated for row in corrected if row.cross_validated]
    by_row = iter(_corrected(measured_within))
    return [
        replace(row, cross_validated=next(by_row)) if row.cross_validated else row
        for row in corrected
    ]


def _compared(
    key: Key, means: Mapping[Key, metrics.Floats], measured: Measurement
) -> tuple[Estimate | None, float | None]:
    """A row minus the reference under the same head, else its linear head, and the p-value."""
    heads, reference = measured.question.heads, measured.question.reference
    usual = [head for head in heads if head == "linear"] or heads
    for head in (key.head, *usual):
        against = means.get(key._replace(source=reference, head=head))
        if against is not None and key.source != reference:
            gaps = means[key] - against
            return metrics.estimate(gaps[0], gaps[1:]), p_value_of(gaps[1:])
    return None, None


def _cross_validated(
    key: Key,
    within: Mapping[Key, Sequence[Within]],
    means: Mapping[Key, metrics.Floats],
    measured: Measurement,
) -> CrossValidated | None:
    if key not in within:
        return None
    difference, p = _compared(key, means, measured)
    found = [one.found for one in within[key]]
    return CrossValidated(
        metrics.estimate(means[key][0], means[key][1:]), tuple(one.layer for one in found),
        tuple(one.penalty for one in found), difference, p,
        seconds=sum(one.seconds for one in within[key]),
    )  # fmt: skip


def _corrected(compared: Sequence[Corrected]) -> list[Corrected]:
    """With Holm's p-values: the rows of one table are one family."""
    adjusted = iter(holm([one.p for one in compared if one.p is not None]))
    return [one if one.p is None else replace(one, holm=next(adjusted)) for one in compared]


def _spread(found: Sequence[Scores], over: str) -> Spread | None:
    """Of the value over seeds, or over draws, each the mean over the other."""
    values = defaultdict[Any, list[float]](list)
    for one in found:
        values[getattr(one.reading, over)].append(float(one.redrawn[0]))
    return Spread.of([float(np.mean(part)) for part in values.values()])
