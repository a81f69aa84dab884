"""The linear head of numbers: ridge regression on frozen features.

For a penalty strength C it minimises, over weights w and intercept b,

    |w|^2 / 2  +  C / 2 * sum_i (y_i - w . x_i - b)^2,

which is scikit-learn's ``Ridge(alpha=1 / C)``. One eigendecomposition solves it for every C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from latentcast.evaluation.heads.base import Features, Floats, Linear, Standardiser, in_eigenbasis
from latentcast.evaluation.threads import one_thread

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # strongest first


def fit(
    train: Features, targets: Floats, validation: Features, validation_targets: Floats
) -> Linear:
    """Fit on the training records; choose the penalty by R² on the validation records.

    Features are raw, (N, F), targets numbers (N,). A draw goes to the stronger penalty.
    """
    return Linear.best("regression", path(train, targets), validation, validation_targets)


def path(train: Features, targets: Floats) -> list[Linear]:
    """A head for each penalty, the strongest first; arguments as those of :func:`fit`."""
    standardise = Standardiser.fit(train)
    fits = ridge_regression(standardise(train), targets, PENALTIES)
    return [
        Linear(penalty, standardise, weights, intercepts, math.nan)
        for penalty, weights, intercepts in zip(PENALTIES, *fits, strict=True)
    ]


def ridge_regression(
    features: Floats, targets: Floats, penalties: Sequence[float]
) -> tuple[Floats, Floats]:
    """Weights (P, F) and intercepts (P,) for P penalties; float64 and deterministic."""
    mean = targets.mean()
    x, energy, basis, centre = in_eigenbasis(features)
    with one_thread():
        pull = x.T @ torch.from_numpy(targets - mean)
        strength = torch.tensor(penalties, dtype=torch.float64)[:, None]
        weights = (pull / (energy + 1 / strength)) @ basis.T
    return weights.numpy(), mean - (weights @ centre).numpy()
