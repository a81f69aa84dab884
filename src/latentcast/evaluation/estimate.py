"""A score with its interval, and how it is written. No torch: a listing of runs reads these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator

SUPPORT = 10  # positives in the test fold from which a label counts as supported
FEWEST = 10  # patients (records, where none is known) below which a score has no interval
LISTED = 20  # classes up to which each has a line, and an AUROC
LEVEL = 0.95  # of the intervals

Outcome = Literal["better", "worse", "undecided", "undefined"]
Number = Annotated[float, BeforeValidator(lambda read: math.nan if read is None else read)]
"""A float that JSON writes as null where it is undefined."""


@dataclass(frozen=True)
class Estimate:
    """A number with its percentile interval; all NaN where it is undefined."""

    value: Number
    low: Number
    high: Number

    @property
    def outcome(self) -> Outcome:
        """What a difference decides: nothing, unless its interval excludes zero."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return "undefined"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "undecided"

    def text(self, *, signed: bool = False) -> str:
        """``value [low, high]``, without them where there are none, or a dash where the value is
        undefined."""
        value, low, high = (number(end, signed=signed) for end in (self.value, self.low, self.high))
        return value if "–" in (value, low, high) else f"{value} [{low}, {high}]"


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class LabelScore:
    """One label: its positives among ``records`` test records, its AUROC and average precision."""

    name: str
    positives: int
    records: int
    auroc: Estimate
    average_precision: Estimate = UNDEFINED

    def text(self, score: Estimate) -> str:
        """One of its scores as it is printed: resamples of one record are no interval."""
        counts = {"positive": self.positives, "negative": self.records - self.positives}
        single = next((name for name, count in counts.items() if count == 1), None)
        if single is None or not math.isfinite(score.value):
            return score.text()
        return f"{number(score.value)} (1 {single}: no interval)"


@dataclass(frozen=True)
class OperatingPoint:
    """One label, called from ``threshold`` on: a probability, of the highest F1 on validation.

    ``sensitivity``, ``specificity``, ``ppv`` (positive predictive value) and ``f1`` are those of
    the test split; all are undefined for a label without a positive in validation.
    """

    name: str
    threshold: Number
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    f1: Estimate


@dataclass(frozen=True)
class RankingCurve:
    """Sensitivity (recall) of one label, the share of negatives called with it and the precision,
    at falling thresholds: its ROC and its precision-recall curve."""

    name: str
    sensitivity: tuple[float, ...]
    false_positives: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class ReliabilityBin:
    """Predicted probabilities from ``low`` to ``high``: how many, their mean, and the share of
    positives among them."""

    low: float
    high: float
    count: int
    predicted: float
    positive: float


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities are what they say, on the test split.

    ``temperature`` divided the logits and was chosen on validation; ``error`` is the expected
    calibration error, the mean of ``labels``; ``bins`` count each label (or class) of each record.
    """

    temperature: float
    error: Number
    labels: Mapping[str, Number]
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Subgroup:
    """The test records that have one value of the metadata.

    ``main`` is the task's metric among them, of a multi-label task over the ``averaged`` labels
    with at least SUPPORT positives and a negative in the group; ``positives`` are summed over
    labels and None of other tasks. ``too_few`` is why there is no score, or "".
    """

    by: str
    name: str
    records: int
    positives: int | None
    averaged: int
    main: Estimate
    labels: tuple[LabelScore, ...]
    too_few: str


@dataclass(frozen=True)
class Score:
    """A set of predictions, scored on the test split.

    ``main`` is the task's metric, ``others`` are further ones. A multi-label task has their means
    over the labels with at least SUPPORT positives as ``supported`` and ``supported_others``, and
    each of its labels. ``points`` and ``calibration`` are there where the head gives probabilities,
    ``subgroups`` where a probe divides its test records by metadata, ``curves`` where a probe or a
    fine-tuning ranks records by label or class.
    """

    main: Estimate
    supported: Estimate | None = None
    labels: tuple[LabelScore, ...] = ()
    others: Mapping[str, Estimate] = field(default_factory=dict)
    supported_others: Mapping[str, Estimate] = field(default_factory=dict)
    points: tuple[OperatingPoint, ...] = ()
    calibration: Calibration | None = None
    subgroups: tuple[Subgroup, ...] = ()
    curves: tuple[RankingCurve, ...] = ()


def number(value: float | None, *, signed: bool = False) -> str:
    """Three decimals, or a dash where a number is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.3f}".replace("-", "−") if signed else f"{value:.3f}"
