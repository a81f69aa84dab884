"""The classes of a store: each record is of one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.tasks.base import Targets


@dataclass(frozen=True)
class Classes:
    """A record without a class is left out."""

    name: str

    def targets(self, store: Store) -> Targets:
        """Raises LatentcastError for a store without classes, or with several codes a record."""
        mask = np.asarray(store.class_ids >= 0)
        if (np.diff(store.labels.indptr) > 1).any():
            raise LatentcastError(
                f"{store.path}: has records of several codes, and a class excludes all others; "
                "probe --task labels"
            )
        if not store.classes or not mask.any():
            raise LatentcastError(
                f"{store.path}: holds no labels; ingest images in one folder a class, or arrays "
                "with labels beside them"
            )
        return Targets(store.class_ids.astype(np.int64), mask, tuple(store.classes), "multi-class")
