"""What thresholds that validation chose give on the test split: F1, sensitivity, specificity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from latentcast.evaluation.estimate import OperatingPoint, Score
from latentcast.evaluation.metrics import (
    Bools,
    Counts,
    Floats,
    Resampled,
    of_single_record,
    supported,
)

F1 = "macro F1 at thresholds of validation"


def with_operating_points(
    score: Score,
    names: Sequence[str],
    thresholds: Sequence[float] | Floats,
    targets: Bools,
    probabilities: Floats,
    counts: Counts,
) -> Score:
    """A score with the operating point of each label, and their F1 among its macro averages.

    Targets and probabilities ``(N, labels)`` are those of the test split, ``counts`` its resamples,
    as :func:`latentcast.evaluation.metrics.score` takes them; NaN is no threshold.
    """
    at = np.asarray(thresholds, dtype=np.float64)
    called = probabilities >= at
    once = _rates(targets, called, np.ones((1, len(targets)), dtype=np.int32))
    redrawn = _rates(targets, called, counts)
    without = np.isnan(at)
    rates = []
    for one, many in zip(once, redrawn, strict=True):
        one[:, without], many[:, without] = np.nan, np.nan
        rates.append(Resampled(one[0], many, of_single_record(targets)))
    points = tuple(
        OperatingPoint(name, float(at[c]), *(rate.column(c) for rate in rates))
        for c, name in enumerate(names)
    )
    f1 = rates[-1]
    return replace(
        score,
        points=points,
        others={**score.others, F1: f1.mean()},
        supported_others={**score.supported_others, F1: f1.mean(supported(targets))},
    )


def _rates(targets: Bools, called: Bools, counts: Counts) -> tuple[Floats, ...]:
    """Sensitivity, specificity, positive predictive value and F1, ``(R, labels)`` each; NaN where
    there is nothing to divide by, and F1 of a label without a positive."""
    cells = np.concatenate([targets & called, targets, called], axis=1).astype(np.float64)
    # A row at a time: as floats, the counts of a large test split are gigabytes.
    sums = np.zeros((len(counts), cells.shape[1]))
    for place, row in enumerate(counts):
        sums[place] = row.astype(np.float64) @ cells
    hits, positives, calls = np.split(sums, 3, axis=1)
    records = counts.sum(axis=1, dtype=np.float64)[:, None]
    negatives = records - positives
    return (
        _ratio(hits, positives),
        _ratio(negatives - (calls - hits), negatives),
        _ratio(hits, calls),
        np.where(positives > 0, _ratio(2 * hits, positives + calls), np.nan),
    )


def _ratio(part: Floats, total: Floats) -> Floats:
    ratio: Floats = np.divide(part, total, out=np.full(total.shape, np.nan), where=total > 0)
    return ratio
