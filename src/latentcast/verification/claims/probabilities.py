"""What probabilities are held against: temperatures, bins, thresholds, and weights of labels."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.data.store import Store
from latentcast.evaluation import calibration, supervision
from latentcast.evaluation.estimate import Estimate, Score
from latentcast.evaluation.heads.knn import Neighbours
from latentcast.evaluation.probabilities import (
    probabilities_of,
    with_calibrated_head,
    with_probabilities,
)
from latentcast.evaluation.tasks.base import Kind, Targets
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, none
from latentcast.verification.observe import plain_scores as plain
from latentcast.verification.observe.answers import KINDS, NAMES, SPLITS, answers
from latentcast.verification.observe.compared import differences, refusal
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/calibration.py"


def _shares(records: int, outputs: int, sharpness: float) -> tuple[Array, Array, Array]:
    """Logits, and the probabilities of labels and of classes."""
    logits = sharpness * np.sin(np.arange(records * outputs) ** 1.3).reshape(records, outputs)
    odds = np.exp(logits)
    return logits, 1 / (1 + np.exp(-logits)), odds / odds.sum(1, keepdims=True)


@claim("probe.temperature", "A temperature is the one of 81 from a tenth to ten with the least "
       "log-loss, 1 where that is an end, and of a regression; it divides the logits.",
       source="Guo et al. 2017")  # fmt: skip
def temperature(twin: Twin) -> Evidence:
    """Of labels and classes, from outputs of crops and from probabilities; probabilities of 0 and
    1; records that are all right and all wrong, for which an end is best."""
    wrong, rows = list[str](), np.arange(60)
    for sharpness in (0.6, 3.0, 20.0):
        logits, of_labels, of_classes = _shares(60, 3, sharpness)
        present = (np.cos(rows[:, None] * 1.7 + np.arange(3)) * 1.2 + logits / sharpness) > 0
        classes = (np.cos(rows[:, None] * 1.7 + np.arange(3)) + logits / sharpness).argmax(1)
        crops = np.repeat(rows, 2)[::-1]
        for kind, shares, y in (("multi-label", of_labels, present),
                                ("multi-class", of_classes, classes)):  # fmt: skip
            at = f"{kind}, {sharpness:g}"
            wrong += differences(calibration.temperature_of(shares, y),
                                 plain.temperature(shares, y), at=at)  # fmt: skip
            for heat in (1.0, 0.3, 4.0):
                found = calibration.tempered(shares, heat, labels=kind == "multi-label")
                expected = plain.divided(shares, heat, kind == "multi-label")
                wrong += differences(found, expected, at=f"{at} divided by {heat:g}")
            wrong += differences(calibration.log_loss(shares, y), plain.loss(shares, y), at=at)
            config: Any = SupervisedConfig(task="x", target=kind, names=("a", "b", "c"))  # type: ignore[arg-type]
            outputs = np.stack([logits + 0.5, logits - 0.5], 1)[::-1].reshape(120, 3)
            chosen = calibration.temperature(crops, outputs, y, config)
            wrong += differences(chosen, _of_crops(outputs, crops, y, kind), at=f"{at}, crops")
    number: Any = SupervisedConfig(task="x", target="regression", names=("a",))
    wrong += differences(calibration.temperature(rows, logits, rows, number), 1.0, at="numbers")
    wrong += _extremes()
    return all_of(none("differs", wrong))


def _of_crops(outputs: Array, owner: Array, y: Array, kind: str) -> float:
    """The mean over crops of their probabilities, at each temperature."""
    losses = []
    for n in range(81):
        scaled = outputs / (0.1 * 100 ** (n / 80))
        shares = 1 / (1 + np.exp(-scaled))
        if kind == "multi-class":
            odds = np.exp(scaled - scaled.max(1, keepdims=True))
            shares = odds / odds.sum(1, keepdims=True)
        losses.append(plain.loss(np.stack([shares[owner == r].mean(0) for r in range(60)]), y))
    best = losses.index(min(losses))
    return 1.0 if best in (0, 80) else float(0.1 * 100 ** (best / 80))


def _extremes() -> list[str]:
    """Probabilities of 0 and 1, and temperatures at the ends."""
    certain = np.array([[0.0, 1.0], [1.0, 0.0], [1e-310, 0.5], [1 - 1e-17, 1e-13]])
    right = np.array([[False, True], [True, False], [False, True], [True, False]])
    wrong = list[str]()
    for heat in (0.2, 3.0, 10.0):
        found = calibration.tempered(certain, heat, labels=True)
        wrong += differences(found, plain.divided(certain, heat, True), at=f"certain, {heat:g}")
        of_classes = np.array([[0.0, 1.0], [1e-310, 1.0], [0.5, 0.5]])
        found = calibration.tempered(of_classes, heat, labels=False)
        wrong += differences(found, plain.divided(of_classes, heat, False), at=f"sure, {heat:g}")
    nine = np.arange(10)[:, None] > 0
    for place in (1, 2, 78, 79):  # beside an end
        logit = 0.1 * 100 ** (place / 80) * math.log(9)
        chosen = calibration.temperature_of(np.full((10, 1), 1 / (1 + math.exp(-logit))), nine)
        wrong += differences(chosen, 0.1 * 100 ** (place / 80), at=f"the temperature {place} of 81")
    for y in (right, ~right):
        wrong += differences(calibration.log_loss(certain, y), plain.loss(certain, y), at="certain")
        mild = np.where(right, 0.8, 0.2)
        wrong += differences(calibration.temperature_of(mild, y), 1.0, at="an end")
        sure = np.array([[0.2, 0.8], [1.0, 0.0], [1e-14, 1.0]])
        own = y[:3, 1].astype(int)
        wrong += differences(calibration.log_loss(sure, own), plain.loss(sure, own), at="classes")
    return wrong


@claim("probe.bins", "Calibration errors and bins, and thresholds, are those that counting gives, "
       "at the borders of bins too; a head without probabilities has none.",
       source="Naeini, Cooper & Hauskrecht 2015")  # fmt: skip
def bins(twin: Twin) -> Evidence:
    """Probabilities at the borders of bins, 0 and 1; thresholds with ties, of one label without a
    positive; one, none and all of the records positive."""
    wrong, rows = list[str](), np.arange(46)
    p = np.stack([rows / 45, (rows % 7) / 6, np.sqrt(rows / 45), np.round(rows / 45, 1)], 1)
    y = np.stack([rows % 3 == 0, rows % 7 > 3, rows < 0, rows >= 0], 1)
    names, counts = (
        ("a", "b", "c", "d"),
        np.stack([rows % 3, 0 * rows + 1, rows % 2]).astype(np.int32),
    )
    errors = [plain.calibration_error(own, of) for own, of in zip(p.T, y.T, strict=True)]
    wrong += differences(calibration.expected_calibration_error(p, y), errors, at="errors")
    wrong += differences(calibration.reliability(p, y), plain.bins(p.ravel(), y.ravel()), at="bins")
    chosen = [plain.threshold(own, of) for own, of in zip(p.T, y.T, strict=True)]
    wrong += differences(calibration.thresholds(p, y), chosen, at="thresholds")
    score = Score(Estimate(0.5, 0.4, 0.6))
    base: dict[str, Any] = {
        "main": {"value": 0.5, "low": 0.4, "high": 0.6}, "supported": None, "labels": [],
        "others": {}, "supported_others": {}, "points": [], "calibration": None, "subgroups": [],
        "curves": [],
    }  # fmt: skip
    found = with_probabilities(score, "multi-label", names, y, p, 2.0, chosen, counts)
    expected = base | {"calibration": {
        "temperature": 2.0, "error": float(np.mean(errors)),
        "labels": dict(zip(names, errors, strict=True)), "bins": plain.bins(p.ravel(), y.ravel()),
    }}  # fmt: skip
    expected = plain.with_points(expected, names, chosen, y, p, counts)
    wrong += differences(found, expected, at="labels")
    wrong += differences(
        with_probabilities(score, "regression", ("a",), p[:, 0], p, 1.0, (), counts),
        base,
        at="numbers",
    )
    one = with_probabilities(score, "multi-class", names, rows % 4, p, 1.0, (), counts).calibration
    present = (rows % 4)[:, None] == np.arange(4)
    of_classes = [plain.calibration_error(own, of) for own, of in zip(p.T, present.T, strict=True)]
    assert one is not None
    wrong += differences(one.labels, dict(zip(names, of_classes, strict=True)), at="classes")
    return all_of(none("differs", wrong + _who_has_probabilities(score, base)))


def _who_has_probabilities(score: Score, base: dict[str, Any]) -> list[str]:
    """A head of up to twenty classes; none of numbers, and none without the method."""
    rows, wrong = np.arange(40), list[str]()
    x = np.stack([np.sin(rows), np.cos(rows)], 1).astype(np.float32)
    bare: Any = SimpleNamespace(penalty=None, validation=0.0, predict=lambda x: x)
    targets: dict[Kind, Array] = {
        "multi-label": np.stack([rows % 2 == 0, rows % 3 == 0], 1), "multi-class": rows % 20,
        "regression": np.sin(rows),
    }  # fmt: skip
    for kind, y in targets.items():
        head: Any = Neighbours(x, y, kind)
        for classes in (20, 21):
            found = probabilities_of(head, x, kind, classes)
            has = kind == "multi-label" or (kind == "multi-class" and classes == 20)
            wrong += differences(found is not None, has, at=f"{kind} of {classes}")
        wrong += differences(probabilities_of(bare, x, kind, 2) is None, True, at=f"bare {kind}")
        names = tuple("abcdefghijklmnopqrstuvwxyz"[: 2 if kind == "multi-label" else 21])
        counts = np.ones((1, 40), dtype=np.int32)
        for reads, own in ((bare, names[:2]), (head, names if kind != "multi-label" else ())):
            if own:
                same = with_calibrated_head(score, kind, own, reads, (x, y), (x, y), counts)
                wrong += differences(same, base, at=f"{kind} without probabilities")
    return wrong


@claim("finetune.targets", "A supervised run learns the labelled records of its task: their "
       "values, of the training patients a share, and weights under which positives count as much "
       "as negatives.", source="our protocol, docs of evaluation/supervision.py")  # fmt: skip
def targets(twin: Twin) -> Evidence:
    """Of three kinds of tasks, on a store whose labels are written here."""
    own, wrong = answers(twin), list[str]()
    for kind in KINDS:
        values, task = own.values(kind), own.task(kind)
        with _task_named(task):
            for share in (1.0, 0.5, 0.07):
                found = supervision.supervision(own.store, "answers", share, seed=6)
                train = _labelled(own, "train")
                kept = _first(own.patients[train], share, 6)
                expected = {split: _labelled(own, split) for split in SPLITS}
                expected["train"] = train[kept]
                wrong += differences(found.rows, expected, at=f"{kind}, {share}: rows")
                if kind != "regression":  # numbers are not counted
                    wrong += differences(found.balance(), _balance(values[train[kept]], kind),
                                         at=f"{kind}, {share}: weights")  # fmt: skip
            tensors = found.tensors()
            shape = {"multi-label": (len(values), 5), "multi-class": (len(values),),
                     "regression": (len(values), 1)}[kind]  # fmt: skip
            of = "int64" if kind == "multi-class" else "float32"
            wrong += differences(
                (tensors.shape, str(tensors.dtype)), (shape, of), at=f"{kind}: form"
            )
            wrong += differences(tensors, values.reshape(shape).astype(of), at=f"{kind}: tensors")
            wrong += _of_config(own.store, kind)
        wrong += _undecided(own, kind)
    return all_of(none("differs", wrong))


def _task_named(task: Any) -> AbstractContextManager[Any]:
    """The task of the store while the context lasts."""

    def task_of(name: Any, store: Any) -> Any:
        if name != "answers" or not isinstance(store, Store):
            raise ValueError("the name of a task, then the store")
        return task

    return mock.patch.object(supervision, "task_of", task_of)


def _labelled(own: Any, split: str) -> Array:
    return np.array([row for row in own.rows(split) if row not in own.without_target])


def _first(patients: Array, share: float, seed: int) -> list[bool]:
    """Records of the first patients in an order that the seed draws; an unnamed one is its own."""
    names = plain.owners(patients)
    every = sorted(set(names))
    order = randomness.permutation(randomness.key(seed, "labels"), len(every))
    first = {every[place] for place in order[: math.ceil(share * len(every))]}
    return [name in first for name in names]


def _balance(values: Array, kind: Kind) -> list[float]:
    """Negatives beside positives; of classes the mean number of records beside their own."""
    found = []
    if kind == "multi-class":
        for c in range(3):
            own = int((values == c).sum())
            found.append(len(values) / 3 / own if own else 1.0)
        return found
    for column in values.T:
        positives = float(column.sum())
        weight = (len(values) - positives) / positives if positives > 0 else 1.0
        found.append(weight if weight > 0 else 1.0)
    return found


def _of_config(store: Store, kind: Kind) -> list[str]:
    """The labels of a run, which are not those of every store."""
    settings: dict[str, Any] = {"task": "answers", "labels_fraction": 0.5, "labels_seed": 6}
    own: Any = SupervisedConfig(target=kind, names=NAMES[kind], **settings)
    found = supervision.of_config(own, store)
    assert found is not None
    half = supervision.supervision(store, "answers", 0.5, 6)
    wrong = differences(found.rows, half.rows, at=f"{kind}: rows of a run")
    other: Any = SupervisedConfig(target=kind, names=("x",), **settings)
    answer = refusal(lambda: supervision.of_config(other, store))
    listed = ", ".join(NAMES[kind][:5])
    expected = f"{store.path}: task answers is {kind} with {listed}, the run learns {kind} with x;"
    wrong += [] if answer.startswith(expected) else [f"{answer[:150]!r} and not {expected!r}"]
    return wrong


def _undecided(own: Any, kind: Kind) -> list[str]:
    """Validation labels that decide nothing, and splits without a label."""
    values, wrong = own.values(kind).copy(), list[str]()
    values[own.rows("validation")] = values[own.rows("validation")[0]]
    lacks = "has one value only" if kind == "regression" else "lacks positives or negatives"
    even = f"{own.store.path}: the validation split of task answers {lacks}, so no checkpoint can"
    expected = {"even": even if kind != "multi-class" else "a result"}
    expected |= {
        split: f"{own.store.path}: no record of task answers in the {split} split"
        for split in SPLITS
    }
    for what, words in expected.items():
        mask = own.targets(kind).mask.copy()
        if what != "even":
            mask[own.rows(what)] = False
        answers_even = Targets(values, mask, NAMES[kind], kind)
        with _task_named(SimpleNamespace(targets=lambda _, of=answers_even: of)):
            answer = refusal(lambda: supervision.supervision(own.store, "answers"))
        wrong += [] if answer.startswith(words) else [f"{kind}: {answer[:90]!r} and not {words!r}"]
    return wrong
