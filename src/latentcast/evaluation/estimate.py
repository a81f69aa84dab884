"""A score with its interval, and how it is written. No torch: a listing of runs reads these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator

SUPPORT = 10  # positives in the test fold from which a label counts as supported
FEWEST = 10  # test records below which a score has no interval
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
    """One label: its positives among ``records`` test records and its AUROC."""

    name: str
    positives: int
    records: int
    auroc: Estimate


@dataclass(frozen=True)
class Score:
    """A set of predictions, scored on the test split.

    ``main`` is the task's metric. A multi-label task has its mean over the labels with at least
    SUPPORT positives as ``supported``, and each of its labels; ``others`` are further metrics.
    """

    main: Estimate
    supported: Estimate | None = None
    labels: tuple[LabelScore, ...] = ()
    others: Mapping[str, Estimate] = field(default_factory=dict)


def number(value: float | None, *, signed: bool = False) -> str:
    """Three decimals, or a dash where a number is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.3f}".replace("-", "−") if signed else f"{value:.3f}"
