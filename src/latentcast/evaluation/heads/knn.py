"""kNN on frozen features: the nearest training records by cosine similarity have a weighted vote.

Each of the k nearest adds ``exp(similarity / temperature)`` to its class (Wu et al. 2018,
arXiv 1805.01978; k = 20 and temperature 0.07 as DINO and DINOv2 use them). Nothing is trained,
so the number is one of how the features themselves are arranged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from latentcast.errors import LatentcastError
from latentcast.evaluation.heads.base import Array, Features, Floats, validation_score
from latentcast.evaluation.tasks.base import Kind
from latentcast.evaluation.threads import one_thread

K = 20
TEMPERATURE = 0.07
CELLS = 1 << 24  # similarities held at a time, 64 MiB; the result does not depend on it

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """A head that remembers the training records; there is no penalty to choose."""

    bank: Features
    targets: Array
    kind: Kind
    validation: float = float("nan")
    penalty: float | None = None

    def predict(self, features: Features) -> Array:
        """The share of each label in the votes, the class with most votes, or the mean value."""
        if self.kind == "multi-class":
            return predict(self.bank, self.targets, features)
        rows, similarities = neighbours(self.bank, features)
        if self.kind == "regression":
            weights = _weights(similarities, TEMPERATURE)
            mean: Floats = (weights * self.targets[rows]).sum(axis=1) / weights.sum(axis=1)
            return mean
        shares = []
        for label in self.targets.astype(np.int64).T:
            votes = vote(label[rows], similarities, 2)
            shares.append(votes[:, 1] / votes.sum(axis=1))
        return np.stack(shares, axis=1)

    def label_shares(self, features: Features) -> Floats:
        """The share of each label in the votes, ``(N, labels)``."""
        shares: Floats = self.predict(features)
        return shares

    def class_shares(self, features: Features, classes: int) -> Floats:
        """The share of each class in the votes, ``(N, classes)``."""
        rows, similarities = neighbours(self.bank, features)
        votes = vote(self.targets[rows], similarities, classes)
        shares: Floats = votes / votes.sum(axis=1, keepdims=True)
        return shares


def fit(
    train: Features, targets: Array, validation: Features, validation_targets: Array, kind: Kind
) -> Neighbours:
    """K neighbours among the training records; raw features (N, F), targets as the task's."""
    head = Neighbours(train, targets, kind)
    value = validation_score(kind, validation_targets, head.predict(validation))
    return replace(head, validation=value)


def path(train: Features, targets: Array, kind: Kind) -> tuple[Neighbours, ...]:
    """The one head that there is; arguments as those of :func:`fit`."""
    return (Neighbours(train, targets, kind),)


def neighbours(bank: Features, queries: Features, k: int = K) -> tuple[Integers, Features]:
    """Rows of ``bank`` (N, F) nearest to each of ``queries`` (M, F), and their cosine similarity.

    Both results are (M, min(k, N)), nearest first. Of equally near rows the earlier ones are
    taken, and come first. A zero vector has similarity 0 to everything.

    Raises LatentcastError for k < 1 and for an empty bank.
    """
    if k < 1:
        raise LatentcastError(f"kNN: k is {k}; ask for one neighbour or more")
    if not len(bank):
        raise LatentcastError("kNN: there is no training record to compare with; give some")
    k = min(k, len(bank))
    with torch.no_grad(), one_thread():
        columns = _unit(bank).T.contiguous()
        blocks = [
            _nearest(_unit(block) @ columns, k)
            for block in np.array_split(queries, -(-len(queries) * len(bank) // CELLS) or 1)
        ]
    rows, similarities = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return rows.numpy(), similarities.numpy()


def vote(
    labels: Integers, similarities: Features, classes: int, temperature: float = TEMPERATURE
) -> Floats:
    """Votes (M, classes) of neighbours with these labels and similarities, both (M, k).

    The votes of a query are known up to a factor, which makes the nearest neighbour's vote 1: its
    weight would overflow, or all weights vanish, at a low temperature.
    """
    weights = _weights(similarities, temperature)
    votes = np.zeros((len(labels), classes))
    np.add.at(votes, (np.arange(len(labels))[:, None], labels), weights)
    return votes


def predict(
    bank: Features,
    labels: Integers,
    queries: Features,
    *,
    k: int = K,
    temperature: float = TEMPERATURE,
) -> Integers:
    """The class (M,) that the k nearest training records vote for; a draw goes to the lower class.

    ``labels`` (N,) are those of ``bank``.
    """
    rows, similarities = neighbours(bank, queries, k)
    votes = vote(labels[rows], similarities, int(labels.max()) + 1, temperature)
    predicted: Integers = votes.argmax(axis=1)
    return predicted


def _weights(similarities: Features, temperature: float) -> Floats:
    near = similarities.astype(np.float64)
    weights: Floats = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)
    return weights


def _unit(features: Features) -> Tensor:
    return F.normalize(torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)), dim=1)


def _nearest(similarities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Columns and values of the k largest in each row; of equal ones the first, in order."""
    values, columns = similarities.topk(min(k + 1, similarities.shape[1]), dim=1)
    last = values[:, k - 1 : k]
    # topk takes any of those that tie for the last place: take the first of them instead.
    tied = (values[:, k:] == last).any(dim=1)
    columns = columns[:, :k]
    if tied.any():
        row = similarities[tied]
        above, level = row > last[tied], row == last[tied]
        places = k - above.sum(dim=1, keepdim=True)
        taken = above | (level & (level.cumsum(dim=1) <= places))
        columns[tied] = taken.nonzero()[:, 1].reshape(-1, k)
    columns = columns.sort(dim=1).values
    values, order = similarities.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return columns.gather(1, order), values
