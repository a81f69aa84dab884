"""Multi-label tasks of the codes that records carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.tasks.base import Targets


@dataclass(frozen=True)
class CodeGroups:
    """Each label is present when any of its codes is, whatever the likelihood beside the code.

    A record that has none of the codes is left out, because their absence may as well mean that
    nobody looked; ``keeps_unlabelled`` counts it as a negative of every label.
    """

    name: str
    members: Mapping[str, tuple[str, ...]]
    keeps_unlabelled: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.members)

    def targets(self, store: Store) -> Targets:
        """Raises LatentcastError when no record of the store carries one of the codes."""
        labels = store.labels
        carried = sorted({c for codes in self.members.values() for c in codes} & set(labels.codes))
        if not carried:
            present = ", ".join(labels.codes[:5]) if labels.codes else "no labels at all"
            raise LatentcastError(
                f"task {self.name}: the store has none of its codes (it has {present}); score the "
                "codes that a store has with --task labels, or, for a task of PTB-XL, ingest a "
                "folder that holds ptbxl_database.csv"
            )
        indicator = labels.indicator(carried)
        groups = [np.isin(carried, codes) for codes in self.members.values()]
        values = np.stack([indicator[:, group].any(axis=1) for group in groups], axis=1)
        mask = np.asarray(values.any(axis=1) | self.keeps_unlabelled)
        return Targets(values, mask, self.classes, "multi-label")


@dataclass(frozen=True)
class AllCodes:
    """Every code that the store has is a label."""

    name: str

    def targets(self, store: Store) -> Targets:
        """Raises LatentcastError for a store without codes."""
        if not store.labels.codes:
            raise LatentcastError(
                f"{store.path}: holds no labels; ingest recordings that have some, such as a "
                "column labels in the table beside an array, or probe --task metadata:NAME"
            )
        return CodeGroups(self.name, {code: (code,) for code in store.labels.codes}).targets(store)
