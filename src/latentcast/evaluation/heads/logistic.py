"""The linear head of labels: L2-penalised logistic regression, one-vs-rest, every penalty at once.

For each label and each penalty strength C it minimises, over weights w and intercept b,

    |w|^2 / 2  +  C * sum_i log(1 + exp(-y_i (w . x_i + b))),      y_i = +-1,

which is scikit-learn's ``LogisticRegression(C=C)``: strictly convex, one minimum. All labels and
penalties are columns of one matrix, so an iteration costs two matrix products, and the solver is
L-BFGS (Liu & Nocedal 1989) per column in the eigenbasis of the features. There the Hessian at
constant probability p is a diagonal, C p (1 - p) s^2 + 1, and starting L-BFGS from it is what
makes strongly correlated features and rare labels converge in tens of iterations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import softplus

from latentcast.errors import LatentcastError
from latentcast.evaluation.heads.base import Features, Floats, Linear, Standardiser, in_eigenbasis
from latentcast.evaluation.threads import one_thread

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
TOLERANCE = 3e-4  # relative, of the weights: see _minimise
ROUNDING = 1e-10  # absolute: where the features are constant, the weights are zero
ITERATIONS = 1000
MEMORY = 10
BLOCK = 256  # records whose margins fit in a core's cache: twice as fast for 71 labels

Bools = npt.NDArray[np.bool_]


def fit(train: Features, targets: Bools, validation: Features, validation_targets: Bools) -> Linear:
    """Fit on the training records; choose the penalty by macro AUROC on the validation ones.

    Features are raw, (N, F); ``targets`` is bool (N, C), each label with positives and negatives.
    One penalty serves all labels; a draw goes to the stronger. Labels without a positive in the
    validation fold have no say. Raises LatentcastError when no label has one.
    """
    return Linear.best("multi-label", path(train, targets), validation, validation_targets)


def path(train: Features, targets: Bools) -> list[Linear]:
    """A head for each penalty, the strongest first; arguments as those of :func:`fit`."""
    standardise, strongest_first = Standardiser.fit(train), sorted(PENALTIES)
    fits = logistic_regression(standardise(train), targets, strongest_first)
    return [
        Linear(penalty, standardise, weights, intercepts, math.nan)
        for penalty, weights, intercepts in zip(strongest_first, *fits, strict=True)
    ]


def logistic_regression(
    features: Floats, targets: Bools, penalties: Sequence[float]
) -> tuple[Floats, Floats]:
    """Weights (P, F, C) and intercepts (P, C) for P penalties; float64 and deterministic.

    ``features`` (N, F) should be standardised, ``targets`` is bool (N, C). Raises
    LatentcastError when a label is all positive or all negative (it has no finite minimum).
    """
    positives = targets.sum(axis=0)
    if ((positives == 0) | (positives == len(targets))).any():
        raise LatentcastError(
            "logistic regression: a label has no positive or no negative training record; "
            "leave it out"
        )
    n, width = features.shape
    labels, strengths = targets.shape[1], len(penalties)
    c = torch.tensor(penalties, dtype=torch.float64).repeat_interleave(labels)  # (P C)
    share = torch.from_numpy(positives / n).repeat(strengths)

    def objective(w: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        # With y of 0 and 1 the loss is log(1 + exp(m)) - y m, whose last part is linear in w.
        strength, units, taught = c[columns], unit[:, columns], moments[:, columns % labels]
        scaled = units * w
        loss, slope = -(taught * scaled).sum(dim=0), -taught
        for records in torch.split(z, BLOCK):
            margin = records @ scaled
            # Below the threshold its log is taken, above it the margin: the same in float64.
            loss += softplus(margin, threshold=40).sum(dim=0)
            slope.addmm_(records.T, margin.sigmoid_())
        value = strength * loss + (ridge * w * w).sum(dim=0) / 2
        return value, ridge * w + strength * units * slope

    with one_thread():
        x, energy, basis, centre = in_eigenbasis(features)
        ridge = torch.ones(x.shape[1] + 1, 1, dtype=torch.float64)
        ridge[-1] = 0.0  # the intercept carries no penalty
        # In this unit the intercept's curvature is about 1 as well, which the stopping rule needs.
        unit = torch.ones(x.shape[1] + 1, len(c), dtype=torch.float64)
        unit[-1] = (c * n * share * (1 - share)).rsqrt()
        z = torch.cat([x, torch.ones(n, 1, dtype=x.dtype)], dim=1)
        moments = z.T @ torch.from_numpy(targets.astype(np.float64))
        energy = torch.cat([energy, torch.tensor([float(n)], dtype=x.dtype)])
        # The Hessian's diagonal where every record has the label's prevalence for probability.
        scale = energy[:, None] * (c * share * (1 - share)) * unit.square() + ridge
        start = torch.zeros_like(scale)
        try:
            w = unit * _minimise(objective, scale, start)
        except FloatingPointError:
            # From zero, the intercept of a label of very few positives overshoots by far. This
            # start is not the first one because other labels would end at other last digits.
            start[-1] = share.logit() / unit[-1]
            w = unit * _minimise(objective, scale, start)
        slopes = basis @ w[:-1]
        intercepts = w[-1] - centre @ slopes
    return (
        slopes.reshape(width, strengths, labels).transpose(0, 1).numpy(),
        intercepts.reshape(strengths, labels).numpy(),
    )


def _minimise(
    objective: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], scale: Tensor, start: Tensor
) -> Tensor:
    """Minimise every column of a strictly convex objective on its own, from ``start``.

    ``objective(w, columns)`` gives value (K,) and gradient (D, K) at w (D, K) for K of the
    columns; ``scale`` (D, columns) is a guess at the Hessian's diagonal. A column is done
    when its gradient is at most TOLERANCE times its weights (the last row is the intercept), and
    leaves the computation. The Hessian is about the identity or more, so the gradient bounds the
    distance to the minimum.
    """
    result, w = torch.zeros_like(scale), start
    active = torch.arange(scale.shape[1])
    value, gradient = objective(w, active)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for _ in range(ITERATIONS):
        left = gradient.norm(dim=0) > TOLERANCE * w[:-1].norm(dim=0) + ROUNDING
        if not left.all():
            result[:, active[~left]] = w[:, ~left]
            if not left.any():
                return result
            active, w, scale = active[left], w[:, left], scale[:, left]
            value, gradient = value[left], gradient[:, left]
            steps = [step[:, left] for step in steps]
            changes = [change[:, left] for change in changes]
        direction = -_inverse_hessian(gradient, scale, steps, changes)
        slope = (gradient * direction).sum(dim=0)
        new = w + direction
        new_value, new_gradient = objective(new, active)
        # Sufficient decrease (Armijo), per column; the slack is the rounding of the value.
        slack = 1e-12 * value.abs()
        length = 1.0
        short = torch.arange(len(active))
        while len(short := short[(new_value > value + 1e-4 * length * slope + slack)[short]]):
            length /= 2
            if length < 1e-10:
                raise FloatingPointError("logistic regression: the line search found no descent")
            new[:, short] = w[:, short] + length * direction[:, short]
            new_value[short], new_gradient[:, short] = objective(new[:, short], active[short])
        steps = [*steps[1 - MEMORY :], new - w]
        changes = [*changes[1 - MEMORY :], new_gradient - gradient]
        w, value, gradient = new, new_value, new_gradient
    raise FloatingPointError(f"logistic regression: not converged after {ITERATIONS} iterations")


def _inverse_hessian(
    gradient: Tensor, scale: Tensor, steps: list[Tensor], changes: list[Tensor]
) -> Tensor:
    """The L-BFGS two-loop recursion, for all columns at once, starting from 1 / ``scale``."""
    q = gradient.clone()
    history: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        # Positive by strict convexity; clamped for the last steps, where rounding decides.
        rate = 1 / (step * change).sum(dim=0).clamp(min=1e-300)
        share = rate * (step * q).sum(dim=0)
        q -= share * change
        history.append((step, change, rate, share))
    q /= scale
    if history:
        # The start is right up to a factor; the last step gives it (Nocedal & Wright 2006, 7.20).
        step, change, _, _ = history[0]
        q *= (step * change).sum(dim=0) / (change * change / scale).sum(dim=0)
    for step, change, rate, share in reversed(history):
        q += (share - rate * (change * q).sum(dim=0)) * step
    return q
