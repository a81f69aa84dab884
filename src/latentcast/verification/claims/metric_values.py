"""Metrics at their edges, settings, and what is refused a score: each counted plainly."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from latentcast.data import manifest
from latentcast.evaluation import (
    baselines,
    calibration,
    comparisons,
    estimate,
    features,
    leaks,
    metrics,
    near_duplicates,
    operating,
    protocol,
    ranking,
    same_recordings,
    supervision,
    tokens,
)  # fmt: skip
from latentcast.evaluation.heads import attentive, knn, logistic, multinomial, ridge
from latentcast.evaluation.results import Finding
from latentcast.evaluation.tasks.base import Kind
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, none
from latentcast.verification.observe import plain_scores as plain
from latentcast.verification.observe.answers import KINDS
from latentcast.verification.observe.compared import differences, refusal
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/metrics.py"
RECORDS = 33


@claim("probe.metrics", "Every metric, of all records, of each resample and as a macro average "
       "with its interval, is what counting gives, and undefined where there is nothing to count.",
       source="Mann & Whitney 1947; scikit-learn's definitions")  # fmt: skip
def metric_values(twin: Twin) -> Evidence:
    """Scores with ties; labels of 0, 1, 9, 10, all but one and all records; classes that occur
    nowhere, or are never predicted; a target that is the same in a resample; resamples of hand."""
    counts, parts = _resamples(), list[Evidence]()
    for kind in KINDS:
        targets, predictions, others, shares = _example(kind)
        names = [f"label {n}" for n in range(targets.shape[1])] if targets.ndim == 2 else ["x"]
        found, resampled = metrics.score(kind, targets, predictions, names, counts, shares)
        expected, counted = plain.score(kind, targets, predictions, names, counts, shares)
        wrong = differences(found, expected)
        wrong += differences(resampled.columns, counted.columns, at="columns")
        wrong += differences(resampled.redrawn, counted.redrawn, at="redrawn")
        _, second = metrics.score(kind, targets, others, names, counts)
        gap, gaps = counted.beside(plain.score(kind, targets, others, names, counts)[1])
        wrong += differences(metrics.difference(resampled, second), gap, at="difference")
        wrong += differences(comparisons.p_value(resampled, second), plain.p_value(gaps), at="p")
        few = metrics.score(kind, targets, predictions, names, counts[:0])[0].main
        wrong += differences(few, plain.interval(expected["main"]["value"], []), at="no resample")
        for metric in metrics.METRICS[kind]:
            floor = plain.floors(kind, targets[:20], targets)[metric.name]
            wrong += differences(metric.floor(targets[:20], targets), floor, at=metric.name)
        better = [f"{one.name} {one.higher_is_better}" for one in metrics.METRICS[kind]]
        listed = [f"{name} {name != 'MAE'}" for name in plain.METRICS[kind]]
        parts.append(none(f"{kind}: differs", wrong + differences(better, listed, at="metrics")))
    return all_of(*parts, resamples=len(counts))


def _resamples() -> Array:
    """Every record once; one record alone; the even ones; two draws of the library."""
    rows = np.arange(RECORDS)
    patients = ["" if n % 7 == 0 else f"p{n // 3}" for n in rows]
    drawn = metrics.draw(patients, 5, 4)
    alike = (np.round(np.sin(rows), 1) == np.round(np.sin(1), 1)) * (1 + rows % 2)
    hand = np.stack([np.ones(RECORDS, int), 5 * (rows == 4), 2 * (rows % 2 == 0), rows % 3, alike])
    return np.concatenate([hand, drawn]).astype(np.int32)


def _example(kind: Kind) -> tuple[Array, Array, Array, Array | None]:
    """Targets, two sets of predictions, and shares of classes."""
    rows = np.arange(RECORDS)
    if kind == "regression":
        y = 1e6 + np.round(np.sin(rows), 1)
        return y, y + 0.3 * np.cos(3 * rows), y + 0.4 * np.cos(5 * rows), None
    noise = np.stack([np.sin(3.0 * rows + n) for n in range(8)], 1).round(1)
    if kind == "multi-class":
        classes = (rows * rows) % 5 % 4  # 0, 1 and 4 of the squares: none is 2 or 3
        classes[5] = 3
        predicted = np.where(rows % 3, classes, 2)
        return classes, predicted, np.where(rows % 4, classes, 0), np.abs(noise[:, :4])
    sizes = (16, 10, 9, 1, 0, RECORDS - 1, RECORDS, RECORDS - 10)
    order = np.argsort(np.cos(7.0 * rows))
    targets = np.stack([np.isin(rows, np.roll(order, 3 * n)[:k]) for n, k in enumerate(sizes)], 1)
    return targets, targets + 2 * noise, targets + 2 * np.roll(noise, 2, 0), None


@claim("probe.intervals", "A score without a label of two positives and two negatives has no "
       "interval, nor has its difference; p-values are corrected as Holm has it.",
       source="Davison & Hinkley 1997; Holm 1979")  # fmt: skip
def intervals(twin: Twin) -> Evidence:
    """Labels that hang on one record, alone and beside others; p-values with ties and gaps."""
    rows, counts, wrong = np.arange(RECORDS), _resamples(), list[str]()
    single = np.stack([rows == 3, rows != 8, rows < 0], 1)
    scores = np.stack([np.sin(rows), np.cos(rows), np.sin(2.0 * rows)], 1)
    for name, targets in (
        ("single", single),
        ("mixed", np.concatenate([single, _half()], 1)[:, 1:]),
    ):
        wide = np.resize(scores, targets.shape)
        names = [str(n) for n in range(targets.shape[1])]
        found, one = metrics.score("multi-label", targets, wide, names, counts)
        expected, counted = plain.score("multi-label", targets, wide, names, counts)
        _, other = metrics.score("multi-label", targets, -wide, names, counts)
        gap, _ = counted.beside(plain.score("multi-label", targets, -wide, names, counts)[1])
        wrong += differences(found, expected, at=name)
        wrong += differences(metrics.difference(one, other), gap, at=f"{name} difference")
    ps = [0.04, 0.01, math.nan, 0.03, 0.01, 0.6, 0.9]
    wrong += differences(comparisons.holm(ps), plain.holm(ps), at="holm")
    wrong += differences(comparisons.p_value_of(np.full(3, np.nan)), math.nan, at="p of nothing")
    even = np.array([0.0, 0.0, 0.2, -0.1, np.nan])
    wrong += differences(comparisons.p_value_of(even), plain.p_value(even.tolist()), at="p of 0")
    for low, high, said in ((0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "undecided"),
                            (0.0, 0.1, "undecided"), (-0.1, 0.0, "undecided"),
                            (math.nan, 0.1, "undefined"),
                            (0.1, math.nan, "undefined")):  # fmt: skip
        found_outcome = estimate.Estimate(0.1, low, high).outcome
        wrong += differences(found_outcome, said, at=f"from {low} to {high}")
    return all_of(none("differs", wrong + _words()))


def _half() -> Array:
    return np.asarray(np.arange(RECORDS) % 2 == 0)[:, None]


def _words() -> list[str]:
    """Numbers as they are printed."""
    nan, of = math.nan, estimate.Estimate
    label = {n: estimate.LabelScore("x", n, 40, of(0.5, 0.4, 0.6)) for n in (1, 2, 39)}
    printed = [
        (of(0.71251, 0.6, 0.8).text(), "0.713 [0.600, 0.800]"),
        (of(-0.1, -0.25, 0.05).text(signed=True), "−0.100 [−0.250, +0.050]"),
        (of(0.7, nan, 0.8).text(), "0.700"), (of(0.7, 0.6, nan).text(), "0.700"),
        (of(nan, nan, nan).text(), "–"), (estimate.number(None), "–"),
        (estimate.number(math.inf), "–"), (estimate.number(-0.5), "-0.500"),
        (label[1].text(label[1].auroc), "0.500 (1 positive: no interval)"),
        (label[39].text(label[39].auroc), "0.500 (1 negative: no interval)"),
        (label[2].text(label[2].auroc), "0.500 [0.400, 0.600]"),
        (label[1].text(estimate.UNDEFINED), "–"),
    ]  # fmt: skip
    return [f"{found} and not {expected}" for found, expected in printed if found != expected]


@claim("probe.settings", "The settings of the protocol are those that are published.",
       source="docs/evaluation.md and the papers of the heads")  # fmt: skip
def settings(twin: Twin) -> Evidence:
    """Every number that a score depends on, against a table."""
    published: list[tuple[Any, str, Any]] = [
        (logistic, "PENALTIES", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)),
        (multinomial, "PENALTIES", (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
        (ridge, "PENALTIES", (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
        (logistic, "TOLERANCE", 3e-4), (logistic, "ROUNDING", 1e-10),
        (logistic, "ITERATIONS", 1000), (logistic, "MEMORY", 10), (logistic, "BLOCK", 256),
        (multinomial, "TOLERANCE", 1e-2), (multinomial, "ROUNDING", 1e-12),
        (multinomial, "STRIDE", 10), (multinomial, "ITERATIONS", 5000),
        (knn, "K", 20), (knn, "TEMPERATURE", 0.07), (knn, "CELLS", 2**24),
        (attentive, "EPOCHS", 20), (attentive, "LEAST_STEPS", 600), (attentive, "LOOKS", 20),
        (attentive, "WARMUP", 0.1), (attentive, "BATCH", 64), (attentive, "RATE", 2e-3),
        (attentive, "DECAY", 0.05), (tokens, "BUDGET", 2**30),
        (estimate, "SUPPORT", 10), (estimate, "FEWEST", 10), (estimate, "LISTED", 20),
        (estimate, "LEVEL", 0.95), (calibration, "BINS", 15),
        (calibration, "TEMPERATURES", [0.1 * 100 ** (n / 80) for n in range(81)]),
        (baselines, "TAPS", (7, 9, 11)), (baselines, "VALUES", 256),
        (protocol, "COMPARED", 10_000), (protocol, "SPLITS", ("train", "validation", "test")),
        (leaks, "EXAMPLES", 5), (leaks, "MOST", (1_000, 20_000)), (leaks, "SURE", 0.98),
        (leaks, "BATCH", 256), (ranking, "POINTS", 60), (ranking, "CURVES", 8),
        (operating, "F1", plain.AT_THRESHOLDS), (near_duplicates, "SIDE", 16),
        (near_duplicates, "ALIKE", 0.99), (near_duplicates, "SHARE", 0.01),
        (same_recordings, "SAME", 0.95), (same_recordings, "LONGEST", 60),
        (manifest, "SPLITS", {"train": (*range(1, 9),), "validation": (9,), "test": (10,)}),
    ]  # fmt: skip
    wrong = [
        one for module, name, value in published
        for one in differences(getattr(module, name), value, 1e-12 * (name == "TEMPERATURES"),
                               f"{module.__name__.rpartition('.')[2]}.{name}")
    ]  # fmt: skip
    kernels = baselines.RandomConvolutions(
        leads=("I",), sampling_rate=100.0, scale=1.0, length=30, mean=[0.0], std=[1.0]
    )
    wrong += differences((kernels.kernels, kernels.seed), (600, 0), at="random convolutions")
    wrong += _defaults()
    return all_of(none("not as published", wrong + _titles()), settings=len(published) + 2)


def _defaults() -> list[str]:
    """What is done where the caller says nothing."""
    wrong = list[str]()
    for function, defaults in (
        (protocol.probe, {
            "heads": None, "layer": "all", "pooling": None, "windows": "strided", "resamples": 1000,
            "seed": 0, "by": [], "provenance": None, "cache": None, "allow_leaks": False,
            "trained_on": [],
        }),
        (features.extract, {"pooling": "mean+std", "windows": "strided"}),
        (supervision.supervision, {"fraction": 1.0, "seed": 0}),
        (attentive.fit, {"seed": 0}), (knn.neighbours, {"k": 20}),
        (knn.vote, {"temperature": 0.07}),
        (knn.predict, {"k": 20, "temperature": 0.07}),
        (tokens.TokenLayers.__init__, {"windows": "strided"}),
        (baselines.RandomConvolutions.from_store, {"kernels": 600, "seed": 0}),
        (estimate.Estimate.text, {"signed": False}), (estimate.number, {"signed": False}),
        (leaks.check, {"pretraining": None}),
    ):  # fmt: skip
        parameters = inspect.signature(function).parameters.values()
        found = {one.name: one.default for one in parameters if one.default is not one.empty}
        wrong += differences(found, defaults, at=function.__qualname__)
    return wrong


def _titles() -> list[str]:
    """How a protocol is called: by folds, by the splits of ours, and by who made the task."""
    ours = {"train": (*range(1, 9),), "validation": (9,), "test": (10,)}
    theirs = {"train": (2, 1), "validation": (3,), "test": (7, 5)}
    wrong = list[str]()
    for name, splits, heads, table, title in (
        ("superdiagnostic", ours, ["linear"], False,
         "PTB-XL superdiagnostic, folds 1–8/9/10, linear probe"),
        ("labels", ours, ["kNN"], True,
         "labels, splits train/validation/test of the label table, kNN (k = 20)"),
        ("labels", theirs, ["attentive", "linear"], False,
         "labels, folds 1–2/3/5+7, attentive probe and linear probe"),
    ):  # fmt: skip
        store: Any = SimpleNamespace(manifest=SimpleNamespace(splits=splits))
        task: Any = SimpleNamespace(name=name)
        wrong += differences(protocol._protocol(store, task, heads, table), title, at="title")
    return wrong


@claim("probe.refused", "What has no score is refused by a sentence that says why: shapes, numbers "
       "that are not finite, labels that decide nothing, heads, layers and leaks.",
       source=OURS)  # fmt: skip
def refused(twin: Twin) -> Evidence:
    rows, flags = np.arange(12), np.arange(12)[:, None] % 2 == 0
    z, bad = np.sin(rows)[:, None], np.stack([np.sin(rows), np.where(rows == 3, np.inf, 0.0)], 1)
    two = np.repeat(flags, 2, 1)
    path: Any = "STORE"
    store: Any = SimpleNamespace(path=path)
    task: Any = SimpleNamespace(name="T")

    def learn(kind: Kind, values: Array, names: tuple[str, ...]) -> object:
        targets: Any = SimpleNamespace(kind=kind, values=values, names=names)
        learned, kept = protocol.trainable(task, targets, rows, store)
        return learned, kept.shape

    three = np.stack([rows < 0, rows < 4, rows >= 0], 1)
    heads, one = protocol.heads_of, np.zeros(12, np.int64)
    calls: list[tuple[str, Any]] = [
        ("auroc: targets (12, 1) and scores (12, 2) differ",
         lambda: metrics.auroc(flags, bad)),
        ("auroc: targets (12,) and scores (12,) differ",
         lambda: metrics.auroc(rows > 3, np.sin(rows))),
        ("auroc: labels [1] have scores that are not finite", lambda: metrics.auroc(two, bad)),
        ("average precision: labels [1] have", lambda: metrics.average_precision(two, bad)),
        ("a result: 0.5", lambda: float(metrics.macro(metrics.auroc(flags, np.zeros((12, 1)))))),
        ("kNN: k is 0", lambda: knn.neighbours(z, z, 0)),
        ("kNN: there is no training record", lambda: knn.neighbours(z[:0], z)),
        ("a result: ((12, 1)", lambda: tuple(a.shape for a in knn.neighbours(z, z, 1))),
        ("logistic regression: a label has no positive or no negative",
         lambda: logistic.logistic_regression(z, flags & False, [1.0])),
        ("logistic regression: a label has no positive or no negative",
         lambda: logistic.logistic_regression(z, np.concatenate([flags, flags | True], 1), [1.0])),
        ("a result: (1, 1, 1)", lambda: logistic.logistic_regression(
            z, rows[:, None] == 3, [1.0])[0].shape),
        ("linear probe: all training records are of one class", lambda: next(
            multinomial.regression_path(z, one, [1.0]))),
        ("probe: the validation split lacks positives or negatives",
         lambda: knn.fit(z, flags, z, flags | True, kind="multi-label")),
        ("probe: the validation split has one value only",
         lambda: knn.fit(z, np.sin(rows), z, np.ones(12), kind="regression")),
        ("a result: ['kNN', 'linear', 'kNN']", lambda: heads(["KNN", "Linear", "knn"])),
        ("head ridge: does not exist; ", lambda: heads(["linear", "ridge"])),
        ("a result: None", lambda: protocol.check_layer("all", ("a",), ["linear"])),
        ("a result: None", lambda: protocol.check_layer("joined", ("a", "b"), ["linear"])),
        ("layer joined: does not exist; known: all, a",
         lambda: protocol.check_layer("joined", ("a",), ["linear"])),
        ("layer joined: head attentive reads the tokens of one layer",
         lambda: protocol.check_layer("joined", ("a", "b"), ["linear", "attentive"])),
        ("a result: None",
         lambda: protocol.check_layer("joined", ("joined",), ["attentive"])),
        ("STORE: lacks it in the test split",
         lambda: protocol.refuse_empty({"train": rows, "test": rows[:0]}, store, "lacks it")),
        ("a result: None", lambda: protocol.refuse_empty({"train": rows}, store, "lacks it")),
        ("STORE: no label of task T has both positives and negatives",
         lambda: learn("multi-label", three[:, ::2], ("x", "y"))),
        ("a result: (('y',), (12, 1))",
         lambda: learn("multi-label", three, ("x", "y", "z"))),
        ("STORE: all records of task T in the train split are of class 'y'",
         lambda: learn("multi-class", one + 1, ("x", "y"))),
        ("STORE: all records of task T in the train split are of 2.5",
         lambda: learn("regression", one + 2.5, ("x",))),
        ("a result: (('x', 'y'), (12,))",
         lambda: learn("multi-class", rows % 2, ("x", "y"))),
        ("STORE: patient in two splits: 2 cases (a, b); re-ingest (--allow-leaks",
         lambda: protocol.refuse_leaks([_finding("warning"), _finding("error")], store)),
        ("a result: None", lambda: protocol.refuse_leaks([_finding("warning")], store)),
        ("a result: 2", lambda: _last_penalty([0.5, 0.7, 0.7, 0.6, 0.9])),
        ("a result: 3", lambda: _last_penalty([0.5, 0.6, 0.7])),
        ("FloatingPointError", lambda: _unfinished(multinomial, lambda: next(
            multinomial.regression_path(z, rows % 2, [1.0])))),
        ("FloatingPointError", lambda: _unfinished(logistic, lambda: logistic.logistic_regression(
            z, flags, [1.0]))),
    ]  # fmt: skip
    answers = [(words, refusal(call)) for words, call in calls]
    wrong = [f"{found[:90]!r} and not {words!r}" for words, found in answers
             if not found.startswith(words)]  # fmt: skip
    named = sum(not words.startswith("a result") for words, _ in calls)
    return all_of(
        none("answers that are others", wrong), refusals=named, results=len(calls) - named
    )


@dataclass(frozen=True)
class _Penalised:
    """A head of classes that is right so often."""

    penalty: int
    right: float
    validation: float = math.nan

    def predict(self, x: Array) -> Array:
        return (np.arange(len(x)) >= round(self.right * len(x))).astype(np.int64)


def _last_penalty(accuracies: Sequence[float]) -> int:
    """That is chosen of penalties that are so good, tried from the strongest on."""
    heads = [_Penalised(n + 1, right) for n, right in enumerate(accuracies)]
    none_is_one = np.zeros(10, np.int64)
    with mock.patch.object(multinomial, "path", lambda *_: iter(heads)):
        chosen: Any = multinomial.fit(np.zeros((10, 1), np.float32), none_is_one,
                                      np.zeros((10, 1), np.float32), none_is_one)  # fmt: skip
    return int(chosen.penalty)


def _unfinished(solver: Any, solve: Any) -> object:
    """A solver that is given no step."""
    with mock.patch.object(solver, "ITERATIONS", 0):
        return solve()


def _finding(severity: Any) -> Finding:
    return Finding("patient in two splits", severity, 2, ("a", "b"), "re-ingest")
