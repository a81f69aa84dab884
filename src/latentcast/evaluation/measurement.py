"""One task of an evaluation: its records, its draws of labels, and what it is scored on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation import metrics
from latentcast.evaluation.cross_validation import CrossValidation, division_of
from latentcast.evaluation.evaluation import Cohort
from latentcast.evaluation.low_shot import Amount, subset
from latentcast.evaluation.missing_leads import WithoutLeads
from latentcast.evaluation.protocol import SPLITS, refuse_empty, supports_of, trainable
from latentcast.evaluation.question import Question, all_test
from latentcast.evaluation.subgroups import Grouping
from latentcast.evaluation.tasks import Task
from latentcast.evaluation.tasks.base import Targets

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scored:
    """The test records of a cohort: rows of its store, targets, resamples and subgroups."""

    name: str
    store: Store
    rows: Ints
    values: Array
    names: tuple[str, ...]
    counts: metrics.Counts
    by: tuple[Grouping, ...]

    def columns(self, names: Sequence[str], kind: str) -> Array:
        """The targets of some labels; of other kinds all targets."""
        return columns_of(self.values, self.names, names, kind)


@dataclass(frozen=True, eq=False)
class Draw:
    """Training records of one amount, and what they can teach."""

    amount: Amount
    number: int
    train: Ints
    names: tuple[str, ...]
    left_out: tuple[str, ...]


class Measurement:
    """One task: its records and draws, and the cohorts that are scored."""

    def __init__(
        self,
        task: Task,
        targets: Sequence[Targets],
        read: Sequence[Bools],
        missing: Mapping[WithoutLeads, Bools],
        by: Sequence[Sequence[Grouping]],
        question: Question,
    ) -> None:
        """``read`` are the records of each store that all sources can read, ``missing`` those of
        the first one without some leads, ``by`` the groupings of the records of each store."""
        self.task, self.question, self.targets = task, question, targets[0]
        self.store = self.targets.divide(question.store)
        every = {split: self.store.rows(split) for split in SPLITS}
        of_task = {split: rows[self.targets.mask[rows]] for split, rows in every.items()}
        refuse_empty(of_task, self.store, f"no record of task {task.name}")
        self.rows_of = {split: rows[read[0][rows]] for split, rows in of_task.items()}
        lacking = f"no record of task {task.name} with a valid token"
        refuse_empty(self.rows_of, self.store, lacking)
        self.metric = metrics.METRICS[self.targets.kind][0]
        names, _ = trainable(task, self.targets, self.rows_of["train"], self.store)
        self.labelled = of_task["train"]
        self.draws = list(self._draws(read[0]))
        test = self.rows_of["test"]
        self.scored = [
            self._scored(question.name, self.store, test, self.targets.values[test],
                         self.targets.names, by[0])
        ]  # fmt: skip
        self.cross_validation = None
        if question.cross_validated:
            self.cross_validation = CrossValidation(
                self.store, self.rows_of["train"], self.targets, question.resamples, question.seed
            )
        self.cohorts = [
            self._cohort(
                self.scored[0], supports_of(self.targets, self.rows_of, names), (),
                {split: len(rows) for split, rows in self.rows_of.items()},
                {split: len(every[split]) - len(of_task[split]) for split in SPLITS},
                {split: len(of_task[split]) - len(self.rows_of[split]) for split in SPLITS},
            )
        ]  # fmt: skip
        for without, valid in missing.items():
            self._add_missing(without, test, valid, by[0])
        for (name, store), theirs, valid, groups in zip(
            question.externals.items(), targets[1:], read[1:], by[1:], strict=True
        ):
            self._add_external(name, store, theirs, valid, groups)

    def _draws(self, read: Bools) -> Iterator[Draw]:
        for amount in self.question.amounts:
            for number in range(1 if amount.everything else self.question.draws):
                train = subset(amount, self.store, self.labelled, self.targets, number)
                train = train[read[train]]
                try:
                    names, _ = trainable(self.task, self.targets, train, self.store)
                except LatentcastError:
                    raise LatentcastError(
                        f"{self.store.path}: {amount} of the labels of task {self.task.name} are "
                        f"{len(train)} records that all agree; give a larger amount"
                    ) from None
                left_out = tuple(name for name in self.targets.names if name not in names)
                yield Draw(amount, number, train, names, left_out)

    def _add_missing(
        self, store: WithoutLeads, test: Ints, read: Bools, by: Sequence[Grouping]
    ) -> None:
        """The test records once more, without some of their leads."""
        rows = test[read[test]]
        if not len(rows):
            raise LatentcastError(
                f"{store.path}: with {store.count} leads missing no test record has a valid token "
                "for every source; fewer leads can be missing"
            )
        name = f"{self.question.name}, {store.count} of {len(store.leads)} leads missing"
        values, names = self.targets.values[rows], self.targets.names
        self.scored.append(self._scored(name, store, rows, values, names, by))
        labels = supports_of(self.targets, {"train": self.rows_of["train"], "test": rows}, names)
        self.cohorts.append(
            self._cohort(self.scored[-1], labels, (), {"test": len(rows)}, {"test": 0},
                         {"test": len(test) - len(rows)})
        )  # fmt: skip

    def _add_external(
        self,
        name: str,
        store: Store,
        theirs: Targets,
        read: Bools,
        by: Sequence[Grouping],
    ) -> None:
        """Labels are matched by name; what has no match is counted."""
        store, unused = all_test(theirs.divide(store)), list[str]()
        rows, values = np.flatnonzero(theirs.mask), theirs.values
        extra = [label for label in theirs.names if label not in self.targets.names]
        if theirs.kind == "multi-class":
            place = {label: n for n, label in enumerate(self.targets.names)}
            values = np.array([place.get(label, -1) for label in theirs.names])[theirs.values]
            foreign = values[rows] < 0
            if foreign.any():
                unused.append(f"{foreign.sum():,} records of classes that were not trained")
            rows = rows[~foreign]
        elif extra:
            unused.append(f"{len(extra)} labels that were not trained")
        labelled = {"test": rows}
        rows = rows[read[rows]]
        refuse_empty({"test": rows}, store, f"no record of task {self.task.name}")
        scored = self._scored(name, store, rows, values[rows], theirs.names, by)
        self.scored.append(scored)
        self.cohorts.append(
            self._cohort(
                scored, supports_of(theirs, {"train": rows, "test": rows}, theirs.names),
                tuple(unused), {"test": len(rows)},
                {"test": len(store) - int(theirs.mask.sum())},
                {"test": len(labelled["test"]) - len(rows)},
            )
        )  # fmt: skip

    def _scored(
        self, name: str, store: Store, rows: Ints, values: Array, names: tuple[str, ...],
        by: Sequence[Grouping],
    ) -> Scored:  # fmt: skip
        patients = store.patient_ids[rows]
        resamples = metrics.resamples_of(patients, self.question.resamples)
        counts = metrics.draw(patients, resamples, self.question.seed)
        groups = tuple(Grouping(one.by, one.groups[rows]) for one in by)
        return Scored(name, store, rows, values, names, counts, groups)

    def _cohort(self, scored: Scored, labels: Any, unused: tuple[str, ...],
                records: dict[str, int], without_target: dict[str, int],
                without_token: dict[str, int]) -> Cohort:  # fmt: skip
        patients = scored.store.patient_ids[scored.rows]
        train = self.targets.values[self.rows_of["train"]]
        floors = {}
        for metric in metrics.METRICS[self.targets.kind]:
            floors[metric.name] = metric.floor(train, scored.values)
        return Cohort(
            task=self.task.name, kind=self.targets.kind, metric=self.metric.name,
            store=scored.name, path=str(scored.store.path), shards=scored.store.checksums,
            external=scored.name in self.question.externals, records=records,
            without_target=without_target, without_token=without_token,
            units=len(np.unique(metrics.patient_numbers(patients))),
            unit="patient" if (patients != "").any()
            else "image" if scored.store.modality == "image" else "record",
            labels=labels, floors=floors, unused=unused,
            cross_validation=division_of(self.cross_validation)
            if self.cross_validation and scored.name == self.question.name else "",
        )  # fmt: skip


def columns_of(values: Array, names: Sequence[str], chosen: Sequence[str], kind: str) -> Array:
    """Of labels the columns of some names; of other kinds the values as they are."""
    if kind != "multi-label":
        return values
    return values[:, [list(names).index(name) for name in chosen]]
