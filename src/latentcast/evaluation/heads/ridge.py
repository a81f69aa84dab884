"""The linear head of numbers: ridge regression on frozen features.

For a penalty strength C it minimises, over weights w and intercept b,

    |w|^2 / 2  +  C / 2 * sum_i (y_i - w . x_i - b)^2,

which is scikit-learn's ``Ridge(alpha=1 / C)``. One eigendecomposition solves it for every C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from latentcast.evaluation.heads.base import (
    Features,
    Floats,
    Standardiser,
    in_eigenbasis,
    validation_score,
)
from latentcast.evaluation.threads import one_thread

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # strongest first


@dataclass(frozen=True)
class Ridge:
    """A fitted head; ``weights`` (F,) act on standardised features."""

    penalty: float
    standardise: Standardiser
    weights: Floats
    intercept: float
    validation: float

    def predict(self, features: Features) -> Floats:
        """The value (N,) of raw features (N, F)."""
        return self.standardise(features) @ self.weights + self.intercept


def fit(
    train: Features, targets: Floats, validation: Features, validation_targets: Floats
) -> Ridge:
    """Fit on the training records; choose the penalty by R² on the validation records.

    Features are raw, (N, F), targets numbers (N,). A draw goes to the stronger penalty.
    """
    standardise = Standardiser.fit(train)
    weights, intercepts = ridge_regression(standardise(train), targets, PENALTIES)
    x = standardise(validation)
    values = [
        validation_score("regression", validation_targets, x @ w + b)
        for w, b in zip(weights, intercepts, strict=True)
    ]
    i = int(np.argmax(values))  # the first of equals
    return Ridge(PENALTIES[i], standardise, weights[i], float(intercepts[i]), values[i])


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
