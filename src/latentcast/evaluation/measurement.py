"""One task of an evaluation: its records, its draws of labels, and a row for every source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.classifier import Classifier
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation import metrics
from latentcast.evaluation.cache import FeatureCache
from latentcast.evaluation.estimate import FEWEST, LISTED, Score
from latentcast.evaluation.evaluation import Cohort, Kind, Reading, Row, Spread
from latentcast.evaluation.features import FeatureSource
from latentcast.evaluation.heads import HEADS, READ_TOKENS, ClassHead, Head
from latentcast.evaluation.low_shot import Amount, subset
from latentcast.evaluation.predictions import of_metric, predict
from latentcast.evaluation.protocol import (
    SPLITS,
    choose_layer,
    refuse_empty,
    supports_of,
    trainable,
)
from latentcast.evaluation.question import Group, Member, Question, all_test
from latentcast.evaluation.tasks import Task
from latentcast.evaluation.tasks.base import Targets
from latentcast.evaluation.threads import side_by_side
from latentcast.evaluation.tokens import TokenLayers

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Key = tuple[str, str, str, str]
"""Of a row: source, head, store, amount."""


@dataclass(frozen=True, eq=False)
class _Scored:
    """The test records of a cohort: rows of its store, targets and resamples."""

    name: str
    store: Store
    rows: Ints
    values: Array
    names: tuple[str, ...]
    counts: metrics.Counts


@dataclass(frozen=True, eq=False)
class _Draw:
    """Training records of one amount, and what they can teach."""

    amount: Amount
    number: int
    train: Ints
    names: tuple[str, ...]
    left_out: tuple[str, ...]


class Measurement:
    """One task: its records and draws, then its rows."""

    def __init__(
        self,
        task: Task,
        targets: Sequence[Targets],
        read: Sequence[npt.NDArray[np.bool_]],
        question: Question,
    ) -> None:
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
                         self.targets.names)
        ]  # fmt: skip
        self.cohorts = [
            self._cohort(
                self.scored[0], supports_of(self.targets, self.rows_of, names), (),
                {split: len(rows) for split, rows in self.rows_of.items()},
                {split: len(every[split]) - len(of_task[split]) for split in SPLITS},
                {split: len(of_task[split]) - len(self.rows_of[split]) for split in SPLITS},
            )
        ]  # fmt: skip
        for (name, store), theirs, valid in zip(
            question.externals.items(), targets[1:], read[1:], strict=True
        ):
            self._add_external(name, store, theirs, valid)

    def _draws(self, read: npt.NDArray[np.bool_]) -> Iterator[_Draw]:
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
                yield _Draw(amount, number, train, names, left_out)

    def _add_external(
        self,
        name: str,
        store: Store,
        theirs: Targets,
        read: npt.NDArray[np.bool_],
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
        scored = self._scored(name, store, rows, values[rows], theirs.names)
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
        self, name: str, store: Store, rows: Ints, values: Array, names: tuple[str, ...]
    ) -> _Scored:
        resamples = self.question.resamples if len(rows) >= FEWEST else 0
        counts = metrics.draw(store.patient_ids[rows], resamples, self.question.seed)
        return _Scored(name, store, rows, values, names, counts)

    def _cohort(self, scored: _Scored, labels: Any, unused: tuple[str, ...],
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
            external=scored.name != self.question.name, records=records,
            without_target=without_target, without_token=without_token,
            units=len(np.unique(metrics.patient_numbers(patients))),
            unit="patient" if (patients != "").any()
            else "image" if scored.store.modality == "image" else "record",
            labels=labels, floors=floors, unused=unused,
        )  # fmt: skip

    def rows(self, groups: Sequence[Group], cache: FeatureCache) -> list[Row]:
        """A row for each group, head, cohort and amount."""
        readings = defaultdict[Key, list[tuple[Reading, metrics.Floats]]](list)
        kinds: dict[str, Kind] = {}
        pairs = [(group, member) for group in groups for member in group.members]
        for (group, _), found in zip(
            pairs, side_by_side(lambda pair: self._readings(pair, cache), pairs), strict=True
        ):
            kinds[group.name] = group.kind
            for head, store, amount, reading, redrawn in found:
                readings[group.name, head, store, amount].append((reading, redrawn))
        heads = [head for head in self.question.heads if head == "linear"] or self.question.heads
        rows = []
        for (source, head, store, amount), own in readings.items():
            against = next(
                (readings[key] for name in (head, *heads)
                 if (key := (self.question.reference, name, store, amount)) in readings),
                None,
            )  # fmt: skip
            main = _mean(own)
            difference = None
            if against is not None and source != self.question.reference:
                other = _mean(against)
                difference = metrics.estimate(main[0] - other[0], main[1] - other[1])
            rows.append(
                Row(
                    source, kinds[source], head, self.task.name, store, amount,
                    metrics.estimate(*main), _spread(own, "seed"), _spread(own, "draw"),
                    difference, tuple(reading for reading, _ in own),
                )
            )  # fmt: skip
        return rows

    def _readings(
        self, of: tuple[Group, Member], cache: FeatureCache
    ) -> list[tuple[str, str, str, Reading, metrics.Floats]]:
        """Head, store, amount and what was found, of everything that a member is read by."""
        group, member = of
        if isinstance(member.reads, Classifier):
            return list(self._classified(group, member, member.reads))
        return list(self._fitted(member, member.reads, cache))

    def _fitted(
        self, member: Member, source: FeatureSource, cache: FeatureCache
    ) -> Iterator[tuple[str, str, str, Reading, metrics.Floats]]:
        """Of each head and draw the readings of all cohorts."""
        everything = np.arange(len(self.store))
        pooled: Mapping[str, Any] = self.question.features(source, self.store, everything, cache)
        elsewhere: list[Mapping[str, Any]] = [
            self.question.features(source, scored.store, scored.rows, cache)
            for scored in self.scored[1:]
        ]
        kind, validation, test = self.targets.kind, self.rows_of["validation"], self.rows_of["test"]
        for name in self.question.heads:
            fit, layers = HEADS[name][kind], pooled
            others: Sequence[Mapping[str, Any]] = elsewhere
            if name in READ_TOKENS:
                fit = partial(fit, seed=self.question.seed)
                layers, *others = (
                    TokenLayers(source, store, rows, self.question.windows)
                    for store, rows in (
                        (self.store, everything),
                        *((scored.store, scored.rows) for scored in self.scored[1:]),
                    )
                )
            if self.question.layer in layers:
                layers = {self.question.layer: layers[self.question.layer]}
            for draw in self.draws:
                y = _columns(self.targets.values, self.targets.names, draw.names, kind)
                places = [draw.train, validation, test]
                layer, head = choose_layer(layers, y, places, fit, kind, self.question.seed)
                tested = [layers[layer][test], *(other[layer] for other in others)]
                for scored, features in zip(self.scored, tested, strict=True):
                    score, macro = self._score(
                        scored, draw.names, head.predict(features),
                        _shares(head, features, kind, len(draw.names)),
                    )  # fmt: skip
                    reading = Reading(
                        member.run, member.seed, draw.number, layer, head.penalty,
                        head.validation, len(draw.train), draw.left_out, score,
                    )  # fmt: skip
                    yield name, scored.name, str(draw.amount), reading, macro

    def _classified(
        self, group: Group, member: Member, classifier: Classifier
    ) -> Iterator[tuple[str, str, str, Reading, metrics.Floats]]:
        """The predictions of a fine-tuned network for all cohorts; none of another task."""
        settings, kind = classifier.settings, self.targets.kind
        if settings.task != self.task.name:
            return
        length = classifier.encoder.config.input.size[0]
        names, _ = trainable(self.task, self.targets, self.rows_of["train"], self.store)
        left_out = tuple(name for name in self.targets.names if name not in names)
        for scored in self.scored:
            found = predict(
                classifier.outputs, classifier.network, scored.store, scored.rows, length,
                settings, classifier.choice.temperature,
            )  # fmt: skip
            predictions = of_metric(found, kind)
            if kind == "multi-label":
                predictions = _columns(predictions, settings.names, names, kind)
            few = kind == "multi-class" and len(names) <= LISTED
            shares = found.values if few else None
            score, macro = self._score(scored, names, predictions, shares)
            amount = Amount(settings.labels_fraction)
            train = subset(amount, self.store, self.labelled, self.targets, settings.labels_seed)
            reading = Reading(
                member.run, member.seed, 0, "", None, classifier.choice.score, len(train),
                left_out, score,
            )  # fmt: skip
            yield group.kind, scored.name, str(amount), reading, macro

    def _score(
        self, scored: _Scored, names: tuple[str, ...], predictions: Array, shares: Array | None
    ) -> tuple[Score, metrics.Floats]:
        """The score, and the macro average: its value, then that of each resample."""
        kind = self.targets.kind
        y = _columns(scored.values, scored.names, names, kind)
        score, drawn = metrics.score(kind, y, predictions, names, scored.counts, shares)
        values = [metrics.macro(drawn.columns), *metrics.macro(drawn.redrawn)]
        return score, np.array(values, dtype=np.float64)


def _columns(values: Array, names: Sequence[str], chosen: Sequence[str], kind: str) -> Array:
    """Of labels the columns of some names; of other kinds the values as they are."""
    if kind != "multi-label":
        return values
    return values[:, [list(names).index(name) for name in chosen]]


def _shares(head: Head, features: Any, kind: str, classes: int) -> metrics.Floats | None:
    if kind != "multi-class" or classes > LISTED:  # more take hours
        return None
    assert isinstance(head, ClassHead)
    return head.class_shares(features, classes)


def _mean(found: Sequence[tuple[Reading, metrics.Floats]]) -> tuple[float, metrics.Floats]:
    """Over the readings of a row: the value, and that of each resample of the patients."""
    means = np.mean([redrawn for _, redrawn in found], axis=0)
    return float(means[0]), means[1:]


def _spread(found: Sequence[tuple[Reading, metrics.Floats]], over: str) -> Spread | None:
    """Of the value over seeds, or over draws, each the mean over the other."""
    values = defaultdict[Any, list[float]](list)
    for reading, redrawn in found:
        values[getattr(reading, over)].append(float(redrawn[0]))
    return Spread.of([float(np.mean(part)) for part in values.values()])
