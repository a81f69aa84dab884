"""Whether differences hold: p-values of the paired bootstrap, and Holm's correction for several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from latentcast.evaluation.metrics import Floats, Resampled, macro
from latentcast.evaluation.results import Difference


def p_value(one: Resampled, other: Resampled) -> float:
    """Two-sided p-value of the hypothesis that two sets of predictions score alike.

    Twice the share of the R paired resamples, of patients, in which the difference has the rarer
    sign or is zero, by ``(1 + k) / (1 + R)``, so that no finite number of resamples gives 0, and
    at most 1. It is below 0.05 where the percentile interval of 95 % excludes zero, up to the
    rounding of R (Efron & Tibshirani 1993, section 15.4; Davison & Hinkley 1997, section 4.2).
    NaN where the difference is defined in no resample.
    """
    return p_value_of(macro(one.redrawn) - macro(other.redrawn))


def p_value_of(gaps: Floats) -> float:
    """:func:`p_value` of the difference ``(R,)`` in each resample."""
    gaps = gaps[np.isfinite(gaps)]
    if not len(gaps):
        return math.nan
    rarer = min((gaps <= 0).sum(), (gaps >= 0).sum())
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(gaps))))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that any of them below α is wrong with probability α at most.

    The i-th smallest of m is ``max over j <= i of min(1, (m − j + 1) p_j)`` (Holm 1979), whatever
    the tests have in common. NaN stays NaN and does not count among the m.
    """
    order = sorted(
        (place for place, p in enumerate(p_values) if math.isfinite(p)), key=p_values.__getitem__
    )
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def adjusted(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The differences of one table with Holm's p-values: all of them are one family."""
    corrected = holm([difference.p for difference in differences])
    return tuple(
        replace(difference, holm=p) for difference, p in zip(differences, corrected, strict=True)
    )
