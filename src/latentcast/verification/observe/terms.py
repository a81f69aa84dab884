"""The terms of VICReg and SIGReg by their formulas, a column, a pair or a slice at a time."""

from __future__ import annotations

import math
import statistics
from itertools import permutations

import numpy as np
from torch import Tensor


def naive_variance(rows: Tensor) -> float:
    spreads = [statistics.variance(column) for column in rows.T.tolist()]
    return float(sum(max(0.0, 1 - math.sqrt(spread + 1e-4)) for spread in spreads) / len(spreads))


def naive_covariance(rows: Tensor) -> float:
    x = rows.numpy()
    centred = [column - column.sum() / len(x) for column in x.T]
    pairs = [float((one * other).sum() / (len(x) - 1)) for one, other in permutations(centred, 2)]
    return float(sum(pair**2 for pair in pairs) / x.shape[1])


def naive_sigreg(rows: Tensor, directions: Tensor, knots: int = 17, reach: float = 3.0) -> float:
    """A slice and a knot at a time, by the definition of LeJEPA (spec of JEPA, 3.1)."""
    x, a = rows.double().numpy(), directions.double().numpy()
    step, total = reach / (knots - 1), 0.0
    for m in range(a.shape[1]):
        y = x @ a[:, m]
        for j in range(knots):
            t = j * step
            phi = math.exp(-t * t / 2)
            weight = (step if j in (0, knots - 1) else 2 * step) * phi
            real, imaginary = float(np.cos(t * y).mean()), float(np.sin(t * y).mean())
            total += len(y) * weight * ((real - phi) ** 2 + imaginary**2)
    return float(total / a.shape[1])
