"""Metrics with intervals over patients: AUROC, average precision, accuracy, F1, R², absolute error.

An AUROC is rank based, and never a made-up 0.5: a label without a positive or without a negative
has none, and no average precision either. It is NaN here, is left out of every macro average, and
is named in the result.

The bootstrap draws PATIENTS with replacement, each with all their records (cluster bootstrap,
percentile interval; Davison & Hinkley 1997, section 3.8): records of one patient resemble each
other, and drawing them one by one would take them for independent and make the interval too
narrow. A record without a patient id is a patient of its own, so with one record a patient this is
the ordinary bootstrap of records. The draws depend on ``seed`` and on who owns which record only:
all predictions for the same records are resampled alike, which is what makes :func:`difference`
paired.

In a resample a rare label can lose all its positives. It is then left out of *that resample's*
macro average (and of nothing else); a macro over rare labels therefore averages over slightly
varying label sets, which is why the macro over supported labels stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.errors import LatentcastError
from latentcast.evaluation.estimate import FEWEST, LEVEL, SUPPORT, Estimate, LabelScore, Score
from latentcast.evaluation.tasks.base import Kind

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int32]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """How good predictions are.

    Attributes:
        name: for tables.
        higher_is_better: or lower.
        columns: targets, predictions and, or None, how often each record occurs in each of R
            resamples ``(R, N)``, to the metric of each label ``(labels,)`` (of one class or value
            a record ``(1,)``), or ``(R, ...)``. NaN where it is undefined.
        constant: the best prediction that is the same for all records, by the training targets.
    """

    name: str
    higher_is_better: bool
    columns: Callable[[Array, Array, Counts | None], Floats]
    constant: Callable[[Array], Any]

    def floor(self, train: Array, test: Array) -> float:
        """The score of the constant prediction."""
        predictions = np.broadcast_to(self.constant(train), test.shape)
        return float(macro(self.columns(test, predictions, None)))


def auroc(targets: Bools, scores: Floats, counts: npt.NDArray[np.integer] | None = None) -> Floats:
    """Area under the ROC curve per label, ties counted half (Mann & Whitney 1947).

    ``targets`` bool (N, C), ``scores`` (N, C). Returns (C,), or (R, C) with ``counts`` (R, N):
    how often each record occurs in each of R resamples. NaN where a label has no positive or no
    negative. Raises LatentcastError when a score is not finite or the shapes differ.
    """
    targets, scores = _ranked("auroc", targets, scores)
    n, labels = targets.shape
    times = np.ones((1, n), dtype=np.int32) if counts is None else counts.astype(np.int32)
    areas = np.full((len(times), labels), np.nan)
    for c in range(labels):
        order = np.argsort(scores[:, c], kind="stable")
        ranked, positive = scores[order, c], targets[order, c]
        drawn = times[:, order]
        # below[:, i] counts the negatives among the i lowest scores; a tie lies half below.
        below = np.zeros((len(times), n + 1), dtype=np.int32)
        np.cumsum(drawn * ~positive, axis=1, out=below[:, 1:])
        first = np.searchsorted(ranked, ranked[positive], side="left")
        last = np.searchsorted(ranked, ranked[positive], side="right")
        wins = np.einsum(
            "rp,rp->r", drawn[:, positive], below[:, first] + below[:, last], dtype=float
        )
        pairs = drawn[:, positive].sum(axis=1, dtype=float) * below[:, -1]
        np.divide(wins, 2 * pairs, out=areas[:, c], where=pairs > 0)
    return areas[0] if counts is None else areas


def average_precision(
    targets: Bools, scores: Floats, counts: npt.NDArray[np.integer] | None = None
) -> Floats:
    """Precision at the score of each positive, averaged over the positives, per label.

    Records of equal scores are called together, as in scikit-learn's ``average_precision_score``;
    nothing is interpolated. Arguments and result are those of :func:`auroc`, with which it shares
    where it is undefined: without a negative every precision is 1, whatever the scores.
    """
    targets, scores = _ranked("average precision", targets, scores)
    times = np.ones((1, len(targets)), np.int32) if counts is None else counts.astype(np.int32)
    found = np.full((len(times), targets.shape[1]), np.nan)
    for c in range(targets.shape[1]):
        order = np.argsort(-scores[:, c], kind="stable")
        negated, positive, drawn = -scores[order, c], targets[order, c], times[:, order]
        last = np.searchsorted(negated, negated[positive], side="right") - 1
        called = np.cumsum(drawn, axis=1)[:, last]
        hits = np.cumsum(drawn * positive, axis=1)[:, last]
        precision = np.divide(hits, called, out=np.zeros(called.shape), where=called > 0)
        weight = drawn[:, positive]
        positives = weight.sum(axis=1, dtype=float)
        total = np.einsum("rp,rp->r", weight, precision)
        defined = (positives > 0) & (positives < drawn.sum(axis=1))
        np.divide(total, positives, out=found[:, c], where=defined)
    return found[0] if counts is None else found


def _ranked(name: str, targets: Bools, scores: Floats) -> tuple[Bools, Floats]:
    """Both as arrays; LatentcastError when a score is not finite or the shapes differ."""
    targets, scores = np.asarray(targets, dtype=bool), np.asarray(scores, dtype=np.float64)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise LatentcastError(
            f"{name}: targets {targets.shape} and scores {scores.shape} differ; "
            "both are (records, labels)"
        )
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores).all(axis=0)).tolist()
        raise LatentcastError(f"{name}: labels {bad} have scores that are not finite; refit them")
    return targets, scores


def macro(areas: Floats) -> Floats:
    """Unweighted mean over the last axis, leaving NaN labels out; NaN where none is defined."""
    defined = np.isfinite(areas)
    total = np.where(defined, areas, 0.0).sum(axis=-1)
    count = defined.sum(axis=-1)
    mean: Floats = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return mean


def accuracy(targets: Array, predictions: Array, counts: Counts | None = None) -> Floats:
    """The share of classes ``(N,)`` that are predicted."""
    return _mean((targets == predictions).astype(np.float64), counts)


def balanced_accuracy(targets: Array, predictions: Array, counts: Counts | None = None) -> Floats:
    """Recall of each class that occurs; its mean is the accuracy if all were equally frequent."""
    hits, actual, _ = _confusion(targets, predictions, counts)
    recall: Floats = np.divide(hits, actual, out=np.full(hits.shape, np.nan), where=actual > 0)
    return recall


def f1(targets: Array, predictions: Array, counts: Counts | None = None) -> Floats:
    """``2 · hits / (actual + predicted)`` of each class that occurs or is predicted."""
    hits, actual, predicted = _confusion(targets, predictions, counts)
    total = actual + predicted
    score: Floats = np.divide(2 * hits, total, out=np.full(hits.shape, np.nan), where=total > 0)
    return score


def class_auroc(targets: Array, shares: Floats, counts: Counts | None = None) -> Floats:
    """AUROC of each class against all others, of shares ``(N, classes)``."""
    return auroc(targets[:, None] == np.arange(shares.shape[1]), shares, counts)


def _confusion(
    targets: Array, predictions: Array, counts: Counts | None
) -> tuple[Floats, Floats, Floats]:
    """By class, ``(C,)`` or ``(R, C)``: records of it that are predicted so, all of it, and all
    that are predicted so."""
    classes = np.union1d(targets, predictions)
    actual, predicted = (np.searchsorted(classes, ids) for ids in (targets, predictions))
    hit = actual == predicted

    def sums(weights: Array) -> Floats:
        places = ((actual, hit), (actual, slice(None)), (predicted, slice(None)))
        return np.stack([np.bincount(of[kept], weights[kept], len(classes)) for of, kept in places])

    if counts is None:
        hits, every, so_called = sums(np.ones(len(targets)))
    else:
        hits, every, so_called = np.stack([sums(row) for row in counts], axis=1)
    return hits, every, so_called


def r_squared(targets: Floats, predictions: Floats, counts: Counts | None = None) -> Floats:
    """The share of the variance that is explained; below 0 for worse than the mean."""
    centred = targets - targets.mean()  # large values of small spread would cancel
    total = _mean(centred**2, counts) - _mean(centred, counts) ** 2
    left = _mean((targets - predictions) ** 2, counts)
    varies = total > 1e-12 * max(float((centred**2).mean()), 1e-300)
    ratio = np.divide(left, total, out=np.full(total.shape, np.nan), where=varies)
    return np.asarray(1 - ratio)


def absolute_error(targets: Floats, predictions: Floats, counts: Counts | None = None) -> Floats:
    """Its mean, in the unit of the target."""
    return _mean(np.abs(targets - predictions), counts)


def _mean(values: Floats, counts: Counts | None) -> Floats:
    """The mean of values (N,), as (1,), or of each resample, (R, 1)."""
    if counts is None:
        return np.atleast_1d(values.mean())
    # A row at a time: as floats, the counts of a large test split are gigabytes.
    return np.array([[row @ values / row.sum()] for row in counts])


def most_frequent(train: Array) -> Any:
    """The class of most training records."""
    return np.bincount(train).argmax()


METRICS: Final[dict[Kind, tuple[Metric, ...]]] = {
    "multi-label": (
        Metric("macro AUROC", True, auroc, lambda train: 0.0),
        Metric("macro AP", True, average_precision, lambda train: 0.0),
    ),
    "multi-class": (
        Metric("accuracy", True, accuracy, most_frequent),
        Metric("balanced accuracy", True, balanced_accuracy, most_frequent),
        Metric("macro F1", True, f1, most_frequent),
    ),
    "regression": (
        Metric("R²", True, r_squared, np.mean),
        Metric("MAE", False, absolute_error, np.mean),
    ),
}
"""Of each kind of task; layer and penalty are chosen by the first, and differences are of it."""


CLASS_AUROC: Final = Metric("macro AUROC", True, class_auroc, lambda train: 0.0)
"""Of the shares that a head gives the classes."""


def patient_numbers(patient_ids: Sequence[str] | npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    """Number of each record's patient (N,), by first appearance; ``""`` is a patient of its own."""
    numbers: dict[str | int, int] = {}
    owners = (str(name) or record for record, name in enumerate(patient_ids))
    return np.array([numbers.setdefault(owner, len(numbers)) for owner in owners], dtype=np.int64)


def resamples_of(patient_ids: Sequence[str] | npt.NDArray[np.str_], resamples: int) -> int:
    """``resamples``, or 0 where fewer than FEWEST patients are drawn from: those of one patient are
    all alike, and would make an interval without any width."""
    return resamples if len(np.unique(patient_numbers(patient_ids))) >= FEWEST else 0


def draw(patient_ids: Sequence[str] | npt.NDArray[np.str_], resamples: int, seed: int) -> Counts:
    """How often each record occurs in each bootstrap resample, (resamples, records).

    A resample draws as many patients as there are, and a record occurs as often as its patient.
    """
    owner = patient_numbers(patient_ids)
    patients = int(owner.max(initial=-1)) + 1
    stream = randomness.key(seed, "bootstrap")
    counts = np.empty((resamples, len(owner)), dtype=np.int32)
    for r in range(resamples):  # the draws of all at once are gigabytes for a large test split
        picks = randomness.uniform(stream, np.arange(r * patients, (r + 1) * patients)) * patients
        counts[r] = np.bincount(picks.astype(np.int64), minlength=patients)[owner]
    return counts


def of_single_record(targets: Array) -> Bools:
    """The labels ``(C,)`` that one record alone has, or lacks; targets are ``(N, C)``."""
    positives = targets.sum(axis=0)
    single: Bools = (positives == 1) | (positives == len(targets) - 1)
    return single


@dataclass(frozen=True)
class Resampled:
    """A metric by label (or of its one column) ``(C,)``, and in each resample ``(R, C)``.

    ``single`` ``(C,)`` are the labels of one positive or one negative: their resamples repeat that
    record or lack it, so that their spread is that of the others alone, and no interval.
    """

    columns: Floats
    redrawn: Floats
    single: Bools | None = None

    @classmethod
    def of(cls, metric: Metric, targets: Array, predictions: Array, counts: Counts) -> Resampled:
        columns = metric.columns(targets, predictions, None)
        single = of_single_record(targets) if targets.ndim == 2 else None
        if not len(counts):  # too few records to draw from
            return cls(columns, np.zeros((0, len(columns))), single)
        return cls(columns, metric.columns(targets, predictions, counts), single)

    def column(self, place: int) -> Estimate:
        """One label."""
        if self.single is not None and self.single[place]:
            return estimate(self.columns[place], np.zeros(0))
        return estimate(self.columns[place], self.redrawn[:, place])

    def mean(self, chosen: Bools | slice = slice(None)) -> Estimate:
        """The macro average over the chosen columns, all by default."""
        redrawn = np.zeros(0) if self.of_single_records(chosen) else macro(self.redrawn[:, chosen])
        return estimate(macro(self.columns[chosen]), redrawn)

    def of_single_records(self, chosen: Bools | slice = slice(None)) -> bool:
        """Whether no chosen label has two, and two negatives."""
        defined = np.isfinite(self.columns[chosen])
        return bool(
            self.single is not None and defined.any() and self.single[chosen][defined].all()
        )


def score(
    kind: Kind,
    targets: Array,
    predictions: Array,
    names: Sequence[str],
    counts: Counts,
    shares: Floats | None = None,
) -> tuple[Score, Resampled]:
    """Predictions scored by the metrics of a kind of task, with intervals over patients.

    Targets and predictions are those that the metrics take, ``names`` those of the labels or
    classes, ``counts`` the resamples of :func:`draw`, ``shares`` ``(N, classes)`` how sure the head
    is of each class. The second result is what
    :func:`difference` compares.
    """
    metric, *others = METRICS[kind]
    main = Resampled.of(metric, targets, predictions, counts)
    further = {m.name: Resampled.of(m, targets, predictions, counts) for m in others}
    if shares is not None:
        further[CLASS_AUROC.name] = Resampled.of(CLASS_AUROC, targets, shares, counts)
    means = {name: resampled.mean() for name, resampled in further.items()}
    if kind != "multi-label":
        return Score(main.mean(), others=means), main
    positives = targets.sum(axis=0)
    precision = further["macro AP"]
    labels = tuple(
        LabelScore(name, int(n), len(targets), main.column(c), precision.column(c))
        for c, (name, n) in enumerate(zip(names, positives, strict=True))
    )
    enough = supported(targets)
    others_of_enough = {name: resampled.mean(enough) for name, resampled in further.items()}
    return Score(main.mean(), main.mean(enough), labels, means, others_of_enough), main


def supported(targets: Bools) -> Bools:
    """Which labels ``(labels,)`` have at least SUPPORT positives, and a negative, of targets
    ``(N, labels)``."""
    positives = targets.sum(axis=0)
    return np.asarray((positives >= SUPPORT) & (positives < len(targets)))


def difference(one: Resampled, other: Resampled) -> Estimate:
    """The metric of one set of predictions minus that of another, in the same resamples.

    What the two share (hard records, rare labels) cancels, so the interval is the one to ask
    whether one of them is better.
    """
    redrawn = macro(one.redrawn) - macro(other.redrawn)
    if one.of_single_records():
        redrawn = np.zeros(0)
    return estimate(macro(one.columns) - macro(other.columns), redrawn)


def estimate(value: float | Floats, redrawn: Floats) -> Estimate:
    """A value with the percentile interval of its resamples, those that are defined."""
    redrawn = redrawn[np.isfinite(redrawn)]
    if not np.isfinite(value) or not len(redrawn):
        return Estimate(float(value), float("nan"), float("nan"))
    low, high = np.quantile(redrawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))
