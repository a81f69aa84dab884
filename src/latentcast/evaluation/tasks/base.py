"""What a task is: a target for each record that has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store

Kind = Literal["multi-label", "multi-class", "regression"]


@dataclass(frozen=True)
class Targets:
    """The targets of all records of a store.

    Attributes:
        values: multi-label: bool ``(N, labels)``; multi-class: int64 ``(N,)``, a place in
            ``names``; regression: float64 ``(N,)``.
        mask: bool ``(N,)``, the records of the task; the values of the others mean nothing.
        names: of the labels or classes; of a regression the one quantity.
        kind: decides metric and heads.
        folds: int16 ``(N,)``, 1 to 10 and 0 for none, where the labels divide the records in
            another way than the store; None otherwise.
        patients: text ``(N,)``, where the labels name patients and the store does not.
    """

    values: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]
    names: tuple[str, ...]
    kind: Kind
    folds: npt.NDArray[np.int16] | None = None
    patients: npt.NDArray[np.str_] | None = None

    def divide(self, store: Store) -> Store:
        """The store with the splits and patients of these targets."""
        if self.folds is None and self.patients is None:
            return store
        return store.divided(self.folds, self.patients)


class Task(Protocol):
    """A question to the features: what is to be predicted of each record."""

    @property
    def name(self) -> str: ...

    def targets(self, store: Store) -> Targets:
        """The targets of a store; LatentcastError, with the fix, where it has none."""
        ...
