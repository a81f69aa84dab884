"""The linear head of classes: multinomial logistic regression on frozen features.

For a penalty strength C it minimises, over weights W (F, K) and intercepts b (K),

    |W|^2 / 2  +  C * sum_i  -log softmax(x_i W + b)[y_i],

which is scikit-learn's ``LogisticRegression(C=C)`` for three classes or more. The solver is
L-BFGS in float64, in the eigenbasis of the features and in units in which the Hessian at the
classes' frequencies has a unit diagonal: frozen features are strongly correlated, and in their
own units L-BFGS needs hundreds of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from latentcast.errors import LatentcastError
from latentcast.evaluation.heads.base import (
    Features,
    Floats,
    Linear,
    Standardiser,
    in_eigenbasis,
    validation_score,
)
from latentcast.evaluation.threads import one_thread

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # strongest first
TOLERANCE = 1e-2  # relative, of the weights: 1e-4 moves 2 of 5,000 predictions
ROUNDING = 1e-12  # relative, of the objective: what is left to gain is lost in its last digits
STRIDE = 10  # L-BFGS steps between two looks at the gradient
ITERATIONS = 5000

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Multinomial(Linear):
    """``classes`` (K,) are those that have a training record: no other is ever predicted."""

    classes: Integers

    def predict(self, features: Features) -> Integers:
        """The most probable class (N,) of raw features (N, F)."""
        predicted: Integers = self.classes[super().predict(features).argmax(axis=1)]
        return predicted

    def class_shares(self, features: Features, classes: int) -> Floats:
        """Their probabilities ``(N, classes)``, 0 for those without a training record."""
        logits = super().predict(features)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = np.zeros((len(features), classes))
        shares[:, self.classes] = weights / weights.sum(axis=1, keepdims=True)
        return shares


def fit(
    train: Features, targets: Integers, validation: Features, validation_targets: Integers
) -> Multinomial:
    """Fit on the training records; choose the penalty by accuracy on the validation records.

    Features are raw, (N, F), targets class indices (N,). A draw goes to the stronger penalty, and
    the first that does worse than a stronger one is the last that is tried: the weakest cost most.
    Raises LatentcastError when the training records are all of one class.
    """
    best: Multinomial | None = None
    for head in path(train, targets):
        value = validation_score("multi-class", validation_targets, head.predict(validation))
        if best is not None and value < best.validation:
            break
        if best is None or value > best.validation:
            best = replace(head, validation=value)
    assert best is not None
    return best


def path(train: Features, targets: Integers) -> Iterator[Multinomial]:
    """A head for each penalty in turn, the strongest first; arguments as those of :func:`fit`."""
    standardise = Standardiser.fit(train)
    classes, places = np.unique(targets, return_inverse=True)
    for penalty, weights, intercepts in regression_path(standardise(train), places, PENALTIES):
        yield Multinomial(penalty, standardise, weights, intercepts, math.nan, classes)


def regression_path(
    features: Floats, targets: Integers, penalties: Sequence[float]
) -> Iterator[tuple[float, Floats, Floats]]:
    """Penalty, weights (F, K) and intercepts (K,) for each penalty in turn; deterministic.

    ``features`` (N, F) should be standardised; ``targets`` (N,) take each of 0 ... K - 1. Every
    fit starts from the one before it. Raises LatentcastError for a single class.
    """
    records = len(features)
    share = torch.from_numpy(np.bincount(targets) / records)
    if len(share) < 2:
        raise LatentcastError(
            "linear probe: all training records are of one class; give records of two or more"
        )
    y = torch.from_numpy(targets)
    x, energy, basis, centre = in_eigenbasis(features)
    z = torch.cat([x, torch.ones(records, 1, dtype=x.dtype)], dim=1)
    energy = torch.cat([energy, torch.tensor([float(records)], dtype=x.dtype)])
    ridge = torch.ones(x.shape[1] + 1, dtype=torch.float64)
    ridge[-1] = 0.0  # the intercept carries no penalty
    w = torch.zeros(len(share), x.shape[1] + 1, dtype=torch.float64)
    frequent = (share * (1 - share))[:, None]
    for penalty in penalties:
        with one_thread(), torch.enable_grad():
            unit = (penalty * energy * frequent + ridge).rsqrt()
            w = _minimise(z, y, penalty, ridge, unit, w)
            slopes = basis @ w[:, :-1].T
            intercepts = w[:, -1] - centre @ slopes
        yield penalty, slopes.numpy(), intercepts.numpy()


def _minimise(
    z: Tensor, y: Tensor, penalty: float, ridge: Tensor, unit: Tensor, start: Tensor
) -> Tensor:
    """Weights (K, D) at the minimum, from ``start``; L-BFGS moves them in units of ``unit``.

    The ridge bounds the Hessian from below, so the gradient bounds the distance to the minimum.
    """
    v = (start / unit).requires_grad_()
    solver = torch.optim.LBFGS(
        [v],
        max_iter=STRIDE,
        max_eval=4 * STRIDE,
        history_size=20,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        w = unit * v
        misfit = F.cross_entropy(F.linear(z, w), y, reduction="sum")
        loss = penalty * misfit + (ridge * w * w).sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(0, ITERATIONS, STRIDE):
        solver.step(objective)  # type: ignore[no-untyped-call]
        value = objective().detach()  # the line search may have looked further than it went
        assert v.grad is not None
        w = (unit * v).detach()
        near = (v.grad / unit).norm() <= TOLERANCE * w[:, :-1].norm()
        # In these units the curvature is about 1, so the gradient's square is what is to be gained.
        if near or v.grad.square().sum() <= ROUNDING * value:
            return w
    raise FloatingPointError(f"multinomial regression: not converged after {ITERATIONS} steps")
