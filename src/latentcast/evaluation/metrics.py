"""AUROC with intervals: rank based, vectorised over labels' resamples, never a made-up 0.5.

A label without a positive or without a negative has no AUROC. It is NaN here, is left out of
every macro average, and is named in the result. The bootstrap draws records with replacement
(empirical bootstrap, percentile interval; Efron & Tibshirani 1993); the draws depend on
``(seed, number of records)`` only, so two score sets over the same records are resampled alike,
which is what makes :func:`paired_difference` paired.

In a resample a rare label can lose all its positives. It is then left out of *that resample's*
macro average (and of nothing else); a macro over rare labels therefore averages over slightly
varying label sets, which is why the macro over supported labels stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.errors import LatentcastError

SUPPORT = 10  # positives in the test fold from which a label counts as supported

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A number with its percentile interval; all NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LabelScore:
    """One label: its positives among ``records`` test records and its AUROC."""

    name: str
    positives: int
    records: int
    auroc: Estimate

    @property
    def undefined(self) -> bool:
        return self.positives in (0, self.records)


@dataclass(frozen=True)
class Score:
    """Macro AUROC over the defined labels, over the supported ones, and each label."""

    macro: Estimate
    supported: Estimate
    labels: tuple[LabelScore, ...]
    resamples: int
    level: float

    @property
    def undefined(self) -> tuple[str, ...]:
        """Labels without a positive or without a negative: in no average."""
        return tuple(label.name for label in self.labels if label.undefined)

    @property
    def supported_labels(self) -> tuple[str, ...]:
        """Labels with at least ``SUPPORT`` positives (and a negative)."""
        return tuple(x.name for x in self.labels if x.positives >= SUPPORT and not x.undefined)


def auroc(targets: Bools, scores: Floats, counts: npt.NDArray[np.integer] | None = None) -> Floats:
    """Area under the ROC curve per label, ties counted half (Mann & Whitney 1947).

    ``targets`` bool (N, C), ``scores`` (N, C). Returns (C,), or (R, C) with ``counts`` (R, N):
    how often each record occurs in each of R resamples. NaN where a label has no positive or no
    negative. Raises LatentcastError when a score is not finite or the shapes differ.
    """
    targets, scores = np.asarray(targets, dtype=bool), np.asarray(scores, dtype=np.float64)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise LatentcastError(
            f"auroc: targets {targets.shape} and scores {scores.shape} differ; "
            "both are (records, labels)"
        )
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores).all(axis=0)).tolist()
        raise LatentcastError(f"auroc: labels {bad} have scores that are not finite; refit them")
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


def macro(areas: Floats) -> Floats:
    """Unweighted mean over the last axis, leaving NaN labels out; NaN where none is defined."""
    defined = np.isfinite(areas)
    total = np.where(defined, areas, 0.0).sum(axis=-1)
    held = defined.sum(axis=-1)
    mean: Floats = np.divide(total, held, out=np.full(np.shape(total), np.nan), where=held > 0)
    return mean


def draw(records: int, resamples: int, seed: int) -> npt.NDArray[np.int32]:
    """How often each record occurs in each bootstrap resample, (resamples, records)."""
    stream = randomness.key(seed, "bootstrap")
    picks = randomness.uniform(stream, np.arange(resamples * records)) * records
    cells = picks.astype(np.int64) + np.repeat(np.arange(resamples) * records, records)
    counts = np.bincount(cells, minlength=resamples * records)
    return counts.reshape(resamples, records).astype(np.int32)


def score(
    targets: Bools,
    scores: Floats,
    classes: Sequence[str],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Score:
    """Macro AUROC of ``scores`` (N, C) against ``targets`` with bootstrap intervals."""
    areas = auroc(targets, scores)
    redrawn = auroc(targets, scores, draw(len(targets), resamples, seed))
    positives = targets.sum(axis=0)
    supported = _supported(targets)
    labels = tuple(
        LabelScore(name, int(positives[c]), len(targets), _estimate(areas[c], redrawn[:, c], level))
        for c, name in enumerate(classes)
    )
    return Score(
        macro=_estimate(macro(areas), macro(redrawn), level),
        supported=_estimate(macro(areas[supported]), macro(redrawn[:, supported]), level),
        labels=labels,
        resamples=resamples,
        level=level,
    )


def paired_difference(
    targets: Bools,
    scores: Floats,
    reference: Floats,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Macro AUROC of ``scores`` minus that of ``reference``, both read on the same resamples.

    What the two share (hard records, rare labels) cancels, so the interval is the one to ask
    whether one of them is better.
    """
    counts = draw(len(targets), resamples, seed)
    value = macro(auroc(targets, scores)) - macro(auroc(targets, reference))
    redrawn = macro(auroc(targets, scores, counts)) - macro(auroc(targets, reference, counts))
    return _estimate(value, redrawn, level)


def _supported(targets: Bools) -> Bools:
    positives = targets.sum(axis=0)
    supported: Bools = (positives >= SUPPORT) & (positives < len(targets))
    return supported


def _estimate(value: float | Floats, redrawn: Floats, level: float) -> Estimate:
    redrawn = redrawn[np.isfinite(redrawn)]
    if not np.isfinite(value) or not len(redrawn):
        return Estimate(float(value), float("nan"), float("nan"))
    low, high = np.quantile(redrawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high))
