"""What a supervised run trains on: the labelled records of each split, and a target for each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.config import Config, ObjectiveConfig
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.fit import reading
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.data.loader import Loader
from latentcast.data.manifest import SPLITS
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.metrics import METRICS, macro
from latentcast.evaluation.tasks import task as task_of
from latentcast.evaluation.tasks.base import Targets
from latentcast.objectives.supervised import SupervisedConfig

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Supervision:
    """The labelled records of a store.

    Attributes:
        store: with the splits of the labels.
        targets: of all its records.
        rows: the labelled ones of each split; of train the share that is used.
    """

    store: Store
    targets: Targets
    rows: Mapping[str, Ints]

    def tensors(self) -> npt.NDArray[Any]:
        """One row a record, as :class:`~latentcast.objectives.supervised.Supervised` reads them:
        float32 ``(N, labels)``, int64 ``(N,)`` or float32 ``(N, 1)``."""
        if self.targets.kind == "multi-class":
            return self.targets.values.astype(np.int64)
        return self.targets.values.astype(np.float32).reshape(len(self.targets.mask), -1)

    def balance(self) -> tuple[float, ...]:
        """Weights under which each label's positives count as much as its negatives, or each class
        as much as the others, on the training records; a label without positives has 1."""
        values = self.targets.values[self.rows["train"]]
        if self.targets.kind == "multi-class":
            values = values[:, None] == np.arange(len(self.targets.names))
            positives = values.sum(axis=0)
            weights = len(values) / (len(self.targets.names) * np.maximum(positives, 1))
        else:
            positives = values.sum(axis=0)
            weights = (len(values) - positives) / np.maximum(positives, 1)
        usable = np.where((positives > 0) & (weights > 0), weights, 1.0)
        return tuple(float(weight) for weight in usable)


def supervision(
    store: Store, task: str | None, fraction: float = 1.0, seed: int = 0
) -> Supervision:
    """The labelled records of a task, of the training patients the first ``fraction``.

    Patients are put in an order by ``seed``; a smaller fraction is a subset of a larger one. A
    patient without an id is one for each record.

    Raises:
        LatentcastError: the store has no such labels; a split has none; the validation split has
            positives and negatives of no label.
    """
    targets = task_of(task, store).targets(store)
    store = targets.divide(store)
    rows = {}
    for split in SPLITS:
        of_split = store.rows(split)
        rows[split] = of_split[targets.mask[of_split]]
        if not len(rows[split]):
            raise LatentcastError(
                f"{store.path}: no record of task {task} in the {split} split; name this split for "
                "some records, where the source or its table names splits, or label more records"
            )
    decisive = targets.values[rows["validation"]]
    perfect = METRICS[targets.kind][0].columns(decisive, decisive, None)
    if not np.isfinite(macro(perfect)):
        lacking = (
            "has one value only" if targets.kind == "regression" else "lacks positives or negatives"
        )
        raise LatentcastError(
            f"{store.path}: the validation split of task {task} {lacking}, so no checkpoint can be "
            "chosen; label more validation records"
        )
    rows["train"] = rows["train"][first_patients(store.patient_ids[rows["train"]], fraction, seed)]
    return Supervision(store, targets, rows)


def of_config(config: ObjectiveConfig, store: Store) -> Supervision | None:
    """The labelled records of a supervised run; None of any other.

    Raises:
        LatentcastError: the labels of the store are not those of the run.
    """
    if not isinstance(config, SupervisedConfig):
        return None
    found = supervision(store, config.task, config.labels_fraction, config.labels_seed)
    ours, theirs = (config.target, config.names), (found.targets.kind, found.targets.names)
    if ours != theirs:
        raise LatentcastError(
            f"{store.path}: task {config.task} is {theirs[0]} with {', '.join(theirs[1][:5])}, the "
            f"run learns {ours[0]} with {', '.join(ours[1][:5])}; name the store it was made for, "
            "or another --out"
        )
    return found


def reading_of(
    store: Store, config: Config, labels: Supervision | None, share: tuple[int, int] = (0, 1)
) -> tuple[Loader, EcgPreprocess | ImagePreprocess]:
    """What :func:`~latentcast.data.fit.reading` gives: of the training split, or, of a supervised
    run, of its labelled records with their targets."""
    if labels is None:
        return reading(store, config, share)
    divided = labels.targets.divide(store)
    return reading(divided, config, share, labels.tensors(), labels.rows["train"])


def first_patients(
    patients: npt.NDArray[np.str_], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Which records belong to the first patients."""
    rank = patient_ranks(patients, seed)
    return np.asarray(rank < math.ceil(fraction * len(np.unique(rank))))


def patient_ranks(patients: npt.NDArray[np.str_], seed: int) -> Ints:
    """The place ``(N,)`` of each record's patient in an order that ``seed`` draws."""
    unnamed = np.array([f"record {n}" for n in range(len(patients))])
    owners = np.where(patients == "", unnamed, patients)
    names, owner = np.unique(owners, return_inverse=True)
    order = randomness.permutation(randomness.key(seed, "labels"), len(names))
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    return rank[owner]
