"""What a head is: fitted to the frozen features of one layer, it predicts targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.errors import LatentcastError
from latentcast.evaluation.metrics import METRICS, macro
from latentcast.evaluation.tasks.base import Kind
from latentcast.evaluation.threads import one_thread

Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


class Head(Protocol):
    """Fitted to the training features of one layer.

    ``penalty`` is the strength C that was chosen, None where there is none to choose;
    ``validation`` the task's metric on the validation records.
    """

    @property
    def penalty(self) -> float | None: ...
    @property
    def validation(self) -> float: ...

    def predict(self, features: Any) -> Array:
        """Of raw features of N records what the metric of the task takes: a score of each label
        ``(N, labels)``, the class ``(N,)``, or the value ``(N,)``."""
        ...


@runtime_checkable
class ClassHead(Protocol):
    """A head of classes that also tells how sure it is."""

    def class_shares(self, features: Any, classes: int) -> Floats:
        """Of raw features of N records the share of each class, ``(N, classes)``; rows sum to 1."""
        ...


@runtime_checkable
class LabelHead(Protocol):
    """A head of labels that also tells how probable each is."""

    def label_shares(self, features: Features) -> Floats:
        """Of raw features ``(N, F)`` the probability of each label, ``(N, labels)``."""
        ...


Fit = Callable[..., Head]
"""Training features and targets, and those of validation, to a fitted head. Features are pooled
``(N, F)``, or the tokens of N records."""

PenaltyPath = Callable[[Any, Any], Iterable[Head]]
"""Training features and targets to a fitted head for each penalty that can be chosen, always in the
same order; their ``validation`` is NaN."""


def validation_score(kind: Kind, targets: Array, predictions: Array) -> float:
    """The metric by which layer and penalty are chosen; LatentcastError where it is undefined."""
    value = float(macro(METRICS[kind][0].columns(targets, predictions, None)))
    if not np.isfinite(value):
        lacking = "has one value only" if kind == "regression" else "lacks positives or negatives"
        raise LatentcastError(
            f"probe: the validation split {lacking}; use a larger store or a task with more "
            "frequent labels"
        )
    return value


@dataclass(frozen=True)
class Standardiser:
    """Per-feature mean and standard deviation of the training records."""

    mean: Floats
    std: Floats

    @classmethod
    def fit(cls, features: Features) -> Standardiser:
        x = features.astype(np.float64)
        std = x.std(axis=0)
        # Dividing by infinity keeps a constant feature at zero. The bound is rounding noise of
        # float32 features: below it a "deviation" is no signal.
        constant = std <= 1e-6 * np.maximum(np.abs(x).max(axis=0), 1e-30)
        return cls(x.mean(axis=0), np.where(constant, np.inf, std))

    def __call__(self, features: Features) -> Floats:
        return (features.astype(np.float64) - self.mean) / self.std


def in_eigenbasis(features: Floats) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centred features ``(N, R)`` in the basis in which they are not correlated, the energy of each
    ``(R,)``, the basis ``(F, R)`` and the centre ``(F,)``.

    R is F, or N where there are more features than records: what no record differs in cannot be
    learned, and the costs grow with the cube of R.
    """
    with one_thread():
        x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))
        centre = x.mean(dim=0)
        x = x - centre
        if x.shape[1] > len(x):
            energy, left = torch.linalg.eigh(x @ x.T)
            # A direction without energy has no basis vector; the centre takes at least one away.
            kept = energy > energy[-1] * len(x) * torch.finfo(x.dtype).eps
            energy, left = energy[kept], left[:, kept]
            return left * energy.sqrt(), energy, x.T @ (left / energy.sqrt()), centre
        energy, basis = torch.linalg.eigh(x.T @ x)
        return x @ basis, energy.clamp(min=0), basis, centre


@dataclass(frozen=True)
class Linear:
    """A fitted head; ``weights`` (F, C) or (F,) act on standardised features."""

    penalty: float
    standardise: Standardiser
    weights: Floats
    intercepts: Floats
    validation: float

    def predict(self, features: Features) -> Array:
        """Logits (N, C), or values (N,), of raw features (N, F)."""
        return self.standardise(features) @ self.weights + self.intercepts

    def label_shares(self, features: Features) -> Floats:
        """The logistic function of the logits."""
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * self.predict(features)))

    @classmethod
    def best(
        cls, kind: Kind, heads: Sequence[Linear], validation: Features, targets: Array
    ) -> Linear:
        """Of heads that differ in the penalty the best on the validation records; of equal ones
        the first."""
        x = heads[0].standardise(validation)
        scored = [
            replace(head, validation=validation_score(kind, targets, x @ head.weights
                                                      + head.intercepts))
            for head in heads
        ]  # fmt: skip
        return max(scored, key=lambda head: head.validation)
