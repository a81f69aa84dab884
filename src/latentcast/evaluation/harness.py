"""One harness for many sources: the same records, heads, resamples and labels for every row.

Heads are fitted on the training split of one store, layer and penalty chosen on its validation
split, and scored on its test split and on whole stores from elsewhere. A record in which one of
the sources finds no valid token is left out for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.classifier import Classifier
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation import leaks, rows
from latentcast.evaluation.cache import FeatureCache
from latentcast.evaluation.concatenation import Concatenation
from latentcast.evaluation.estimate import LEVEL
from latentcast.evaluation.evaluation import Evaluation, Source
from latentcast.evaluation.features import readable
from latentcast.evaluation.measurement import Measurement
from latentcast.evaluation.missing_leads import WithoutLeads
from latentcast.evaluation.protocol import refuse_leaks, trainable
from latentcast.evaluation.question import Group, Question, all_test
from latentcast.evaluation.results import Finding
from latentcast.evaluation.subgroups import groupings
from latentcast.evaluation.tasks import Targets, Task

Ints = npt.NDArray[np.int64]


def evaluate(
    groups: Sequence[Group],
    tasks: Sequence[Task],
    question: Question,
    cache: FeatureCache,
    allow_leaks: bool = False,
) -> Evaluation:
    """Score every group on every task; of the result's provenance nothing is filled in.

    ``allow_leaks`` scores in spite of a leak, which then stands in the result.

    Raises:
        LatentcastError: a task that a store cannot serve, a leak, features that are not finite.
    """
    stores = [question.store, *question.externals.values()]
    # What is missing and what leaks is found before hours are spent on features.
    targets = {task.name: [task.targets(store) for store in stores] for task in tasks}
    leaking = _Leaks(groups, allow_leaks)
    for task in tasks:
        own, *others = targets[task.name]
        divided = own.divide(question.store)
        leaking.search(divided, task)
        for store, theirs in zip(question.externals.values(), others, strict=True):
            _check_labels(task, own, divided, theirs, store)
            leaking.search(all_test(theirs.divide(store)), task, divided)
    by = [groupings(store, question.by) for store in stores]
    missing = {
        task.name: [
            WithoutLeads(question.store, count, question.seed, divided.rows("test"))
            for divided in [targets[task.name][0].divide(question.store)]
            for count in sorted(set(question.drop_leads))
        ]
        for task in tasks
    }
    read = [_readable(groups, store, np.arange(len(store)), question, cache) for store in stores]
    measured: list[Measurement] = []
    for task in tasks:
        without = {
            store: _readable(groups, store, store.about, question, cache)
            for store in missing[task.name]
        }
        measured.append(Measurement(task, targets[task.name], read, without, by, question))
    found = rows.read(measured, groups, cache)
    of_tasks = zip(measured, found, strict=True)
    return Evaluation(
        cohorts=tuple(cohort for one in measured for cohort in one.cohorts),
        sources=tuple(
            Source(group.name, group.kind, tuple(member.record for member in group.members))
            for group in groups
        ),
        rows=tuple(row for one, own in of_tasks for row in rows.rows_of(one, groups, own)),
        reference=question.reference,
        layer=question.layer,
        pooling=question.pooling,
        windows=question.windows,
        leaks=tuple(leaking.findings),
        bootstrap={"resamples": question.resamples, "level": LEVEL, "seed": question.seed},
        provenance={},
    )


def _check_labels(task: Task, own: Targets, store: Store, theirs: Targets, external: Store) -> None:
    """Raises LatentcastError: a store from elsewhere lacks labels that heads are fitted to."""
    if theirs.kind != own.kind:
        raise LatentcastError(
            f"{external.path}: task {task.name} is {theirs.kind} there and {own.kind} in "
            f"{store.path}; give both the same labels"
        )
    train = store.rows("train")
    names, _ = trainable(task, own, train[own.mask[train]], store)
    missing = [label for label in names if label not in theirs.names]
    if missing:
        raise LatentcastError(
            f"{external.path}: has no label {', '.join(missing[:5])} of task {task.name}; "
            "label it, or leave the store out"
        )


class _Leaks:
    """Searches each pair of stores once; raises an error unless it is allowed."""

    def __init__(self, groups: Sequence[Group], allow: bool) -> None:
        self.findings: list[Finding] = []
        self._allow = allow
        self._members = [member for group in groups for member in group.members]
        self._done: set[tuple[bytes, ...]] = set()

    def search(self, store: Store, task: Task, training: Store | None = None) -> None:
        """Within a store, and between it and what heads and the sources of a task saw."""
        others: list[Store | None] = [
            pretraining
            for member in self._members
            if not isinstance(member.reads, Classifier) or member.reads.settings.task == task.name
            for pretraining in member.pretraining
        ]
        if training is not None:
            others.insert(0, training)
        for other in others or [None]:
            self._search(store, other)

    def _search(self, store: Store, pretraining: Store | None) -> None:
        pair = tuple(
            part
            for of in (store, pretraining)
            if of is not None
            for part in (str(of.path).encode(), of.folds.tobytes(), of.patient_ids.tobytes())
        )
        if pair in self._done:
            return
        self._done.add(pair)
        findings = leaks.check(store, pretraining)
        if not self._allow:
            refuse_leaks(findings, store)
        self.findings += [finding for finding in findings if finding not in self.findings]


def _readable(
    groups: Sequence[Group], store: Store, rows: Ints, question: Question, cache: FeatureCache
) -> npt.NDArray[np.bool_]:
    """Which records of the store are among some rows, and every source finds a valid token."""
    found = np.zeros(len(store), dtype=bool)
    found[rows] = True
    for group in groups:
        for member in group.members:
            if not isinstance(member.reads, Classifier | Concatenation):
                found[rows] &= readable(question.features(member.reads, store, rows, cache))
    return found
