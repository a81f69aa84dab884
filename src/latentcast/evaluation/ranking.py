"""ROC and precision-recall curves of predictions, thin enough to stand in a file of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.evaluation.estimate import RankingCurve
from latentcast.evaluation.tasks.base import Kind

POINTS = 60
"""Of a curve at most: a picture shows no more."""
CURVES = 8
"""Labels at most, those of most positives: more cannot be told apart in a picture."""


def ranking_curves(
    kind: Kind,
    targets: npt.NDArray[Any],
    predictions: npt.NDArray[Any],
    names: Sequence[str],
    shares: npt.NDArray[np.floating] | None = None,
) -> tuple[RankingCurve, ...]:
    """Of each label, or of each class against the others, with a positive and a negative, in the
    order of ``names``; none of a regression, and of classes without ``shares``.

    The arguments are those of :func:`latentcast.evaluation.metrics.score`; only the order of
    predictions counts.
    """
    scores = predictions if kind == "multi-label" else shares
    if kind == "regression" or scores is None:
        return ()
    if kind == "multi-class":
        targets = targets[:, None] == np.arange(scores.shape[1])
    positives = targets.sum(axis=0)
    defined = np.flatnonzero((positives > 0) & (positives < len(targets)))
    most = np.sort(defined[np.argsort(-positives[defined], kind="stable")][:CURVES])
    return tuple(_curve(names[c], targets[:, c], scores[:, c]) for c in most.tolist())


def _curve(
    name: str, positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]
) -> RankingCurve:
    order = np.argsort(-scores, kind="stable")
    ranked, hit = scores[order], positive[order]
    # Records of equal scores are called together.
    ends = np.flatnonzero(np.append(np.diff(ranked) < 0, True))
    hits, called = np.cumsum(hit)[ends], ends + 1
    sensitivity = np.append(0.0, hits / hit.sum())
    false_positives = np.append(0.0, (called - hits) / (~hit).sum())
    # Nothing is called at the first point: the curve begins at the precision of the second.
    precision = np.append(hits[0] / called[0], hits / called)
    kept = _spread(false_positives + sensitivity)
    columns = (sensitivity, false_positives, precision)
    return RankingCurve(name, *(tuple(np.round(one[kept], 4).tolist()) for one in columns))


def _spread(way: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Places at equal distances on the way of a curve, both ends among them."""
    if len(way) <= POINTS:
        return np.arange(len(way))
    places = np.searchsorted(way, np.linspace(0.0, way[-1], POINTS))
    return np.unique(np.minimum(places, len(way) - 1))
