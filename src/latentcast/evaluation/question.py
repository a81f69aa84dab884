"""What an evaluation compares, and by what: sources, stores, heads and amounts of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.classifier import Classifier
from latentcast.data.store import Store
from latentcast.evaluation.cache import FeatureCache, Layers
from latentcast.evaluation.evaluation import Kind
from latentcast.evaluation.features import FeatureSource, Windows
from latentcast.evaluation.low_shot import Amount

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Member:
    """One training, or a baseline.

    Attributes:
        reads: frozen features; or a classifier, whose predictions are scored as they are.
        run: folder or file; "" of a baseline.
        seed: of the training; None of a baseline.
        pretraining: the stores that it was trained on, where they are at hand.
        record: what identifies it, for the result.
    """

    reads: FeatureSource | Classifier
    run: str
    seed: int | None
    pretraining: tuple[Store, ...]
    record: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Group:
    """Trainings that differ in the seed alone: one line of the table."""

    name: str
    kind: Kind
    members: tuple[Member, ...]


@dataclass(frozen=True, eq=False)
class Question:
    """What every row is measured by."""

    name: str
    store: Store
    externals: Mapping[str, Store]
    heads: Sequence[str]
    layer: str
    pooling: str
    windows: Windows
    amounts: Sequence[Amount]
    draws: int
    resamples: int
    seed: int
    reference: str

    def features(
        self, source: FeatureSource, store: Store, rows: Ints, cache: FeatureCache
    ) -> Layers:
        """Pooled features of every layer of a source."""
        return cache.extract(source, store, rows, pooling=self.pooling, windows=self.windows)


def all_test(store: Store) -> Store:
    """A store of which every record is tested: nothing is fitted on it."""
    (fold, *_) = store.manifest.splits["test"]
    return store.divided(np.full(len(store), fold, dtype=np.int16), store.patient_ids)
