"""AUROC with intervals: rank based, vectorised over labels' resamples, never a made-up 0.5.

A label without a positive or without a negative has no AUROC. It is NaN here, is left out of
every macro average, and is named in the result.

The bootstrap draws PATIENTS with replacement, each with all their records (cluster bootstrap,
percentile interval; Davison & Hinkley 1997, section 3.8): records of one patient resemble each
other, and drawing them one by one would take them for independent and make the interval too
narrow. A record without a patient id is a patient of its own, so with one record a patient this is
the ordinary bootstrap of records. The draws depend on ``seed`` and on who owns which record only:
two score sets over the same records are resampled alike, which is what makes
:func:`paired_difference` paired.

In a resample a rare label can lose all its positives. It is then left out of *that resample's*
macro average (and of nothing else); a macro over rare labels therefore averages over slightly
varying label sets, which is why the macro over supported labels stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.errors import LatentcastError

SUPPORT = 10  # positives in the test fold from which a label counts as supported
LEVEL = 0.95  # of the intervals

Outcome = Literal["better", "worse", "undecided", "undefined"]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A number with its percentile interval; all NaN where it is undefined."""

    value: float
    low: float
    high: float

    @classmethod
    def from_json(cls, held: Mapping[str, float | None]) -> Estimate:
        """Back from JSON, where a number that is undefined is null or missing."""
        value, low, high = (
            math.nan if (number := held.get(key)) is None else float(number)
            for key in ("value", "low", "high")
        )
        return cls(value, low, high)

    @property
    def outcome(self) -> Outcome:
        """What a difference decides: nothing, unless its interval excludes zero."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return "undefined"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "undecided"


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


def patient_numbers(patient_ids: Sequence[str] | npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    """Number of each record's patient (N,), by first appearance; ``""`` is a patient of its own."""
    numbers: dict[str | int, int] = {}
    owners = (str(name) or record for record, name in enumerate(patient_ids))
    return np.array([numbers.setdefault(owner, len(numbers)) for owner in owners], dtype=np.int64)


def draw(
    patient_ids: Sequence[str] | npt.NDArray[np.str_], resamples: int, seed: int
) -> npt.NDArray[np.int32]:
    """How often each record occurs in each bootstrap resample, (resamples, records).

    A resample draws as many patients as there are, and a record occurs as often as its patient.
    """
    owner = patient_numbers(patient_ids)
    patients = int(owner.max(initial=-1)) + 1
    stream = randomness.key(seed, "bootstrap")
    picks = randomness.uniform(stream, np.arange(resamples * patients)) * patients
    cells = picks.astype(np.int64) + np.repeat(np.arange(resamples) * patients, patients)
    counts = np.bincount(cells, minlength=resamples * patients)
    return counts.reshape(resamples, patients).astype(np.int32)[:, owner]


def score(
    targets: Bools,
    scores: Floats,
    classes: Sequence[str],
    patient_ids: Sequence[str] | npt.NDArray[np.str_],
    *,
    resamples: int = 1000,
    level: float = LEVEL,
    seed: int = 0,
) -> Score:
    """Macro AUROC of ``scores`` (N, C) against ``targets`` with intervals over patients.

    ``patient_ids`` (N,) says whose each record is, ``""`` where that is not known.
    """
    areas = auroc(targets, scores)
    redrawn = auroc(targets, scores, draw(patient_ids, resamples, seed))
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
    )


def paired_difference(
    targets: Bools,
    scores: Floats,
    reference: Floats,
    patient_ids: Sequence[str] | npt.NDArray[np.str_],
    *,
    resamples: int = 1000,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Macro AUROC of ``scores`` minus that of ``reference``, both read on the same resamples.

    What the two share (hard records, rare labels) cancels, so the interval is the one to ask
    whether one of them is better.
    """
    counts = draw(patient_ids, resamples, seed)
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
