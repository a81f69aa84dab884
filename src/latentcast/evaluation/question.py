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
from latentcast.evaluation.concatenation import Concatenation
from latentcast.evaluation.evaluation import Kind
from latentcast.evaluation.features import FeatureSource, Windows
from latentcast.evaluation.low_shot import Amount

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Member:
    """One training, or a baseline.

    Attributes:
        reads: frozen features, of one source or of two; or a classifier, whose predictions are
            scored as they are.
        run: folder or file; "" of a baseline.
        seed: of the training; None of a baseline.
        pretraining: the stores that it was trained on, where they are at hand.
        record: what identifies it, for the result.
    """

    reads: FeatureSource | Concatenation | Classifier
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
    """What every row is measured by.

    Attributes:
        by: keys of the metadata whose values make subgroups of the test records.
        cross_validated: whether heads are scored within the training records besides.
        drop_leads: numbers of leads that the test records are read without, besides.
    """

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
    by: Sequence[str] = ()
    cross_validated: bool = False
    drop_leads: Sequence[int] = ()

    def features(
        self, source: FeatureSource | Concatenation, store: Store, rows: Ints, cache: FeatureCache
    ) -> Layers:
        """Pooled features of every layer of a source."""
        if isinstance(source, Concatenation):
            parts = (self.features(part, store, rows, cache) for part in source.parts)
            return source.features(*parts)
        return cache.extract(source, store, rows, pooling=self.pooling, windows=self.windows)

    def seconds(
        self, source: FeatureSource | Concatenation, store: Store, cache: FeatureCache
    ) -> float:
        """That reading the features from samples took, then or now."""
        if isinstance(source, Concatenation):
            return sum(self.seconds(part, store, cache) for part in source.parts)
        return cache.seconds(source, store, self.pooling, self.windows)


def all_test(store: Store) -> Store:
    """A store of which every record is tested: nothing is fitted on it."""
    (fold, *_) = store.manifest.splits["test"]
    return store.divided(np.full(len(store), fold, dtype=np.int16), store.patient_ids)
