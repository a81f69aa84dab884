"""Scores within the training records, by which one chooses where the test records are read once.

The training patients are four groups. A head is fitted to three of them and predicts the fourth, in
turn; all predictions together, each of a head that never read its record, are scored once. Layer
and penalty are those with the best such score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation import metrics
from latentcast.evaluation.heads import PenaltyPath
from latentcast.evaluation.supervision import patient_ranks
from latentcast.evaluation.tasks.base import Targets

GROUPS = 4

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The best of the layers and penalties.

    Attributes:
        redrawn: the task's metric (macro average), then that of each resample of the patients.
    """

    layer: str
    penalty: float | None
    redrawn: metrics.Floats


class CrossValidation:
    """The groups of the training records, and the resamples of their patients.

    Attributes:
        train: rows of the store.
        groups: of each the group, 0 to 3.
        division: what the groups are, in words.
        left_out: labels that lack positives or negatives in three of the groups, and are in no
            average.
    """

    def __init__(
        self, store: Store, train: Ints, targets: Targets, resamples: int, seed: int
    ) -> None:
        """Raises LatentcastError: there is too little to learn from in three of the groups."""
        self.train, self.kind = train, targets.kind
        self.groups, self.division = groups_of(store, train)
        y = targets.values[train]
        fitted = [y[self.groups != group] for group in range(GROUPS)]
        self.left_out: tuple[str, ...] = ()
        if self.kind == "multi-label":
            both = np.all([part.any(axis=0) & ~part.all(axis=0) for part in fitted], axis=0)
            self.left_out = tuple(np.array(targets.names)[~both].tolist())
            y, usable = y[:, both], both.any()
        else:
            usable = all(len(np.unique(part)) > 1 for part in fitted)
        if not usable or len(np.unique(self.groups)) < GROUPS:
            raise LatentcastError(
                f"{store.path}: {len(train)} training records are too few to be cross-validated "
                f"(in {GROUPS} groups of patients); leave out --cv"
            )
        self.targets = y
        patients = store.patient_ids[train]
        self.counts = metrics.draw(patients, metrics.resamples_of(patients, resamples), seed)

    def choose(self, layers: Mapping[str, Array], path: PenaltyPath) -> OutOfFold:
        """Of layers and penalties the best; of equal ones the first.

        Args:
            layers: features by layer, a row for each record of the store.
        """
        best, chosen = -np.inf, None
        metric = metrics.METRICS[self.kind][0]
        for layer, features in layers.items():
            for penalty, predictions in self._predictions(features[self.train], path):
                value = float(metrics.macro(metric.columns(self.targets, predictions, None)))
                if value > best or chosen is None:
                    best, chosen = value, (layer, penalty, predictions)
        assert chosen is not None
        layer, penalty, predictions = chosen
        found = metrics.Resampled.of(metric, self.targets, predictions, self.counts)
        values = [metrics.macro(found.columns), *metrics.macro(found.redrawn)]
        return OutOfFold(layer, penalty, np.array(values, dtype=np.float64))

    def _predictions(self, features: Array, path: PenaltyPath) -> list[tuple[float | None, Array]]:
        """For each penalty the out-of-fold predictions of all training records."""
        parts: dict[float | None, list[Array]] = {}
        for group in range(GROUPS):
            inside = self.groups == group
            for head in path(features[~inside], self.targets[~inside]):
                parts.setdefault(head.penalty, []).append(head.predict(features[inside]))
        order = np.argsort(np.argsort(self.groups, kind="stable"), kind="stable")
        return [(penalty, np.concatenate(found)[order]) for penalty, found in parts.items()]


def groups_of(store: Store, train: Ints) -> tuple[Ints, str]:
    """The group ``(N,)`` of each training record, and what the groups are.

    Neighbouring folds together, as folds 1 and 2 of PTB-XL, where there are at least four and no
    patient is in two groups; elsewhere the patients in an order drawn by their names.
    """
    folds, place = np.unique(store.folds[train], return_inverse=True)
    patients = metrics.patient_numbers(store.patient_ids[train])
    if len(folds) >= GROUPS:
        parts = np.array_split(np.arange(len(folds)), GROUPS)
        groups = np.concatenate([np.full(len(part), n) for n, part in enumerate(parts)])[place]
        if len(np.unique(np.stack([patients, groups]), axis=1).T) == len(np.unique(patients)):
            names = ", ".join("+".join(map(str, folds[part].tolist())) for part in parts)
            return groups.astype(np.int64), f"folds {names}"
    ranks = patient_ranks(store.patient_ids[train], 0)
    return ranks % GROUPS, f"{GROUPS} groups of patients"


def division_of(found: CrossValidation) -> str:
    """A sentence for tables."""
    left_out = f"; without {', '.join(found.left_out)}" if found.left_out else ""
    return (
        f"CV: {len(found.train):,} training records, each predicted by a head that was fitted "
        f"without its group ({found.division}){left_out}"
    )


def mean_of(found: Sequence[OutOfFold]) -> metrics.Floats:
    """Over trainings: the value, then that of each resample."""
    mean: metrics.Floats = np.mean([one.redrawn for one in found], axis=0)
    return mean
