"""Few labels: nested subsets of the training records, drawn by patient and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.supervision import first_patients, patient_ranks
from latentcast.evaluation.tasks.base import Targets

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Amount:
    """How many of the labelled training patients a head is fitted on.

    Attributes:
        fraction: of the patients; 1 where ``shots`` are given.
        shots: patients of each label or class, and of records without any label; of a regression
            patients in all. None: the fraction.
    """

    fraction: float = 1.0
    shots: int | None = None

    @property
    def everything(self) -> bool:
        return self.shots is None and self.fraction == 1

    def __str__(self) -> str:
        if self.shots is None:
            return f"{self.fraction:g}"
        return f"{self.shots} shot" + "s" * (self.shots > 1)


def amounts_of(fractions: Sequence[float], shots: Sequence[int]) -> list[Amount]:
    """The smallest first; all labels where nothing is given.

    Raises:
        LatentcastError: a fraction that is not above 0 and at most 1, or fewer than one shot.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise LatentcastError(f"labels_fraction {fraction:g}: give one above 0 and at most 1")
    for count in shots:
        if count < 1:
            raise LatentcastError(f"shots {count}: give one or more")
    by_shots = [Amount(shots=count) for count in sorted(set(shots))]
    chosen = sorted(set(fractions)) or ([] if by_shots else [1.0])
    return [*by_shots, *(Amount(fraction) for fraction in chosen)]


def subset(amount: Amount, store: Store, train: Ints, targets: Targets, seed: int) -> Ints:
    """The records of ``train`` that belong to the first patients of an order that ``seed`` draws.

    Of one seed a smaller amount is a subset of a larger one, and ``latentcast finetune
    --labels-fraction`` draws the same patients.
    """
    patients = store.patient_ids[train]
    if amount.shots is None:
        return train[first_patients(patients, amount.fraction, seed)]
    rank, values = patient_ranks(patients, seed), targets.values[train]
    if targets.kind == "regression":
        groups = np.ones((len(train), 1), dtype=bool)
    elif targets.kind == "multi-class":
        groups = values[:, None] == np.arange(len(targets.names))
    else:
        groups = np.column_stack([values, ~values.any(axis=1)])
    chosen = np.zeros(len(train), dtype=bool)
    for members in groups.T:
        first = np.unique(rank[members])[: amount.shots]
        chosen |= members & (rank <= (first[-1] if len(first) else -math.inf))
    return train[chosen]
