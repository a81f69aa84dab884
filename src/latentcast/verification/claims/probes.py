"""Scores: what is fitted on what, and that the encoder stays as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from latentcast.errors import LatentcastError
from latentcast.evaluation import features, protocol
from latentcast.evaluation.heads import logistic, multinomial
from latentcast.evaluation.results import Row
from latentcast.evaluation.tasks import Targets
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, none, true
from latentcast.verification.observe.pictures import is_image
from latentcast.verification.observe.probe import (
    Fit,
    Foreign,
    calls_of,
    can_be_probed,
    changes_of_state,
    counted_score,
    encoder,
    features_of,
    labelled_store,
    other_test,
    rows_of,
    score,
    scored,
    state_of,
    true_labels,
)
from latentcast.verification.observe.recordings import has_twelve_leads, is_ecg, recordings
from latentcast.verification.observe.twin import Twin
from latentcast.workflows import probe as workflow

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/protocol.py"
FLOAT = 2.0**-23
SOME = (1e-4, 1e-2, 1e-1)
"""Penalties, strongest first."""


@claim("probe.frozen", "A probe changes nothing of the encoder: no weight, mode or flag.",
       source="specification, executable requirement 27", about=can_be_probed)  # fmt: skip
def frozen(twin: Twin) -> Evidence:
    moved, turned = changes_of_state(scored(twin).before, scored(twin).after)
    return all_of(
        none("weights moved", moved),
        none("modes and flags changed", turned),
        weights=len(scored(twin).before[0]),
    )


@claim("probe.eval-mode", "A network in training mode is read in evaluation mode, twice alike, "
       "and given back as it was.",
       source="specification, D21: frozen for good", about=can_be_probed)  # fmt: skip
def eval_mode(twin: Twin) -> Evidence:
    """BatchNorm and dropout, handed over in training mode."""
    source = Foreign(twin)
    before, rows = state_of(source), rows_of(twin, "train")[:12]
    first, second = (features_of(twin, source, rows)["only"] for _ in range(2))
    moved, turned = changes_of_state(before, state_of(source))
    return all_of(
        at_most("difference of two readings", float(np.abs(first - second).max()), 0.0),
        none("weights moved", moved),
        none("modes changed", turned),
    )


@claim("probe.deterministic", "Features are the same bits each time, and do not depend on who "
       "else is in the batch.", source=OURS, about=can_be_probed)  # fmt: skip
def deterministic(twin: Twin) -> Evidence:
    """Twice the same bits; alone and in company the same to the rounding of a matrix product."""
    source, rows = encoder(twin), rows_of(twin, "train")[:8]
    first, second = (features_of(twin, source, rows) for _ in range(2))
    alone = features_of(twin, source, rows[3:4])
    apart = max(
        float(np.abs(first[name][3:4] - alone[name]).max() / max(1.0, np.abs(alone[name]).max()))
        for name in first
    )
    return all_of(
        none("layers with other bits",
             [name for name in first if not np.array_equal(first[name], second[name])]),
        at_most("alone or in a batch", apart, 256 * FLOAT),
        layers=len(first),
    )  # fmt: skip


@claim("probe.windows", "A long record is read through windows of the training length, to its "
       "end, and their features are averaged.", source=OURS, about=has_twelve_leads)  # fmt: skip
def windows(twin: Twin) -> Evidence:
    """A record of 1.4 windows, through windows cut here."""
    source: Any = encoder(twin)
    cohort, length = recordings(twin).cohort, source.length
    rows = np.array([4, 7])
    read = features.extract(source, cohort.store, rows, pooling="mean")[source.layer_names[-1]]
    worst = 0.0
    for row, vector in zip(rows, read, strict=True):
        counts = cohort.counts()[row].T
        room = len(counts) - length
        starts = [*range(0, room, length // 2), room]
        parts = np.stack([counts[start : start + length] for start in starts]).astype(np.int16)
        layers, _ = source.token_layers(parts)
        expected = layers[-1].double().mean(1).mean(0).numpy()
        worst = max(worst, float(np.abs(vector - expected).max() / np.abs(expected).max()))
    return all_of(at_most("largest difference", worst, 256 * FLOAT), windows=len(starts))


@claim("probe.no-cls", "Features of the CLS token, which under a causal mask attends to itself "
       "alone, are refused.",
       source="specification, defect 9: logits identical for any ECG",
       about=can_be_probed)  # fmt: skip
def no_cls(twin: Twin) -> Evidence:
    source: Any = encoder(twin)
    samples: Any = np.zeros((1, *twin.config.input.size, twin.config.input.channels), np.uint8)
    if is_ecg(twin):
        samples = [recordings(twin).cohort.store.recording(4)]
    ways: dict[str, Callable[[], object]] = {
        "embed": lambda: source.embed(samples, pooling="cls"),
        "features": lambda: features_of(twin, source, rows_of(twin, "train")[:1], "cls"),
    }
    answers: dict[str, str] = {}
    for name, way in ways.items():
        try:
            way()
        except LatentcastError as problem:
            answers[name] = str(problem)[:90]
    return all_of(*(true(f"{name} refuses", name in answers) for name in ways), **answers)


class _Stop(Exception):
    """The sources are fixtures."""


@claim("probe.floor", "The floor is the same architecture at the initialisation from which the "
       "run began.",
       source="Reality Check 2026: a random encoder beside every score",
       about=can_be_probed)  # fmt: skip
def floor(twin: Twin) -> Evidence:
    """What ``probe`` hands to the protocol, caught on its way."""
    run, sources = twin.trained(), list[Any]()

    def catch(called: list[Any], *args: Any, **options: Any) -> Any:
        sources.extend(called)
        raise _Stop

    with suppress(_Stop), mock.patch.object(protocol, "probe", catch):
        workflow.probe(run.folder, labelled_store(twin).path)
    tested, base = (source.network.state_dict() for source in sources[:2])
    began, start = run.attempts[0].before, sources[1].objective.state_dict()
    same = [n for n in base if n in tested and torch.equal(tested[n], base[n])]
    return all_of(
        equal("same shapes", {n: t.shape for n, t in tested.items()}
              == {n: t.shape for n, t in base.items()}, True),
        none("not as the run began", [n for n in start if not torch.equal(start[n], began[n])]),
        at_most("share equal to the trained ones", len(same) / len(base), 0.5),
        sources=", ".join(str(source.name) for source in sources), weights=len(base),
    )  # fmt: skip


@claim("probe.test-unseen", "Nothing that is fitted or chosen depends on samples or labels of the "
       "test split.", source=OURS, about=can_be_probed)  # fmt: skip
def test_split(twin: Twin) -> Evidence:
    """Two probes that differ in samples and labels of the test split, and in nothing else."""
    first, other, own = scored(twin), other_test(twin), labelled_store(twin)
    test = rows_of(twin, "test")
    second = score(twin, other)
    pairs = list(zip(first.fits, second.fits, strict=True))
    reports = (first.report, second.report)
    scores = [" ".join(f"{row.score.main.value:.2f}" for row in one.rows) for one in reports]
    return all_of(
        none("heads differ in", sorted({name for a, b in pairs for name in a.differs(b)})),
        above("heads", len(pairs), 0),
        above("share of test samples that are others",
              float((other.take(test) != own.take(test)).mean()), 0.9),
        test_scores=scores[0], of_another_test_split=scores[1],
    )  # fmt: skip


def _linear(twin: Twin) -> tuple[Any, Array, Array, Array]:
    """The tested encoder's linear head in its probe, its layer's features of all rows as float64,
    and the rows of the training split, with their labels."""

    def read() -> tuple[Any, Array, Array, Array]:
        fit: Fit = next(one for one in scored(twin).fits if "weights" in one.numbers)
        labels = true_labels(twin)
        pooling = "mean+std" if is_ecg(twin) else "mean"
        # In the order in which the probe reads them: with several threads the last bits of a record
        # depend on its place in the batch.
        rows = np.concatenate([rows_of(twin, split) for split in protocol.SPLITS])
        read = features_of(twin, encoder(twin), rows, pooling)[fit.layer]
        x = np.full((len(labels), read.shape[1]), np.nan)
        x[rows] = read
        return fit.head, x, rows_of(twin, "train"), labels

    return twin.once("linear head", read)


@claim("probe.standardised-on-train", "Features are standardised by the training rows alone.",
       source=OURS, about=can_be_probed)  # fmt: skip
def standardised_on_train(twin: Twin) -> Evidence:
    head, x, train, _ = _linear(twin)
    mean = x[train].sum(0) / len(train)
    std = np.sqrt(((x[train] - mean) ** 2).sum(0) / len(train))
    finite = np.isfinite(head.standardise.std)
    bound = 1e-10 * float(np.abs(x).max())
    return all_of(
        at_most("largest difference of a mean",
                float(np.abs(head.standardise.mean - mean).max()), bound),
        at_most("of a deviation", float(np.abs(head.standardise.std - std)[finite].max()), bound),
        above("features that vary", int(finite.sum()), 0),
        rows=len(train), from_the_mean_of_all_splits=float(np.abs(x.mean(0) - mean).max()),
    )  # fmt: skip


@claim("probe.minimum", "The linear head is at the minimum of its objective over the training "
       "rows.", source="scikit-learn's LogisticRegression(C)", about=can_be_probed)  # fmt: skip
def minimum(twin: Twin) -> Evidence:
    """The gradient of the stated objective at the weights found, over the training rows, by the
    formula; |w|² / 2 bounds the curvature from below, so it bounds the distance to the minimum."""
    head, x, train, labels = _linear(twin)
    z = (x[train] - x[train].mean(0)) / head.standardise.std  # infinite where nothing varies
    solutions = [("of the probe", head.penalty, head.weights, head.intercepts)]
    path: Any
    if is_ecg(twin):
        y = labels[train]
        weights, intercepts = logistic.logistic_regression(z, y, SOME)
        path = zip(SOME, weights, intercepts, strict=True)
    else:
        classes = np.searchsorted(head.classes, labels[train])
        y = np.eye(len(head.classes), dtype=bool)[classes]
        path = multinomial.regression_path(z, classes, SOME)
    solutions += [(f"C {c:g}", c, w, b) for c, w, b in path]
    # What the solvers promise, and a half more for the rounding of its units.
    bound = 4.5e-4 if is_ecg(twin) else 1.5e-2
    return all_of(*(
        at_most(f"{name}: gradient over weights", _steepness(z, y, c, w, b, is_ecg(twin)), bound)
        for name, c, w, b in solutions
    ))  # fmt: skip


def _steepness(z: Array, y: Array, c: float, w: Array, b: Array, binary: bool) -> float:
    """The gradient of ``|w|² / 2 + c · sum of cross-entropies`` over the size of the weights, the
    intercepts in units in which their own curvature is about 1."""
    logits = z @ w + b
    if binary:
        pull = 1 / (1 + np.exp(-logits)) - y
    else:
        odds = np.exp(logits - logits.max(1, keepdims=True))
        pull = odds / odds.sum(1, keepdims=True) - y
    share = y.mean(0)
    lean = c * pull.sum(0) / np.sqrt(c * len(z) * share * (1 - share))
    slope = np.concatenate([w + c * z.T @ pull, lean[None]])
    if binary:  # a problem for each column
        return float((np.linalg.norm(slope, axis=0) / np.linalg.norm(w, axis=0)).max())
    return float(np.linalg.norm(slope) / np.linalg.norm(w))


@claim("probe.score", "The score in the table is that of the test rows.",
       source=OURS, about=can_be_probed)  # fmt: skip
def table_score(twin: Twin) -> Evidence:
    """From the head, the test rows and what the source has for them."""
    head, x, _, labels = _linear(twin)
    test = rows_of(twin, "test")
    z = (x[test] - head.standardise.mean) / head.standardise.std
    logits = z @ head.weights + head.intercepts
    predictions = logits if is_ecg(twin) else head.classes[logits.argmax(1)]
    counted = counted_score(labels[test], predictions)
    reported = _row(twin, "linear").score.main.value
    return all_of(
        at_most("difference", abs(reported - counted), 1e-12), reported=reported, counted=counted
    )


def _row(twin: Twin, head: str) -> Row:
    """Of the report, the reading of the trained encoder by a head."""
    return next(row for row in scored(twin).report.rows if row.head == head)


@claim("probe.bank", "kNN looks at the training images and no others.", source=OURS, about=is_image)
def bank(twin: Twin) -> Evidence:
    fit = next(one for one in scored(twin).fits if "bank" in one.numbers)
    train = rows_of(twin, "train")
    expected = features_of(twin, encoder(twin), train)[_row(twin, "kNN").layer]
    images, labels = fit.numbers["bank"], fit.numbers["targets"]
    shape = equal("shape", str(images.shape), str(expected.shape))
    if not shape.holds:
        return shape
    return all_of(
        shape,
        at_most("largest difference", float(np.abs(images - expected).max()), 1e-4),
        equal("labels of others", int((labels != true_labels(twin)[train]).sum()), 0),
    )


@claim("probe.leak-searched", "The probe of a run looks for leaks in the store that the run was "
       "trained on.", source=OURS, about=has_twelve_leads)  # fmt: skip
def leak_searched(twin: Twin) -> Evidence:
    """What ``probe`` hands to the protocol, of a run that says what it was trained on."""
    run, store, searched = twin.folder / "elsewhere", recordings(twin).leaking.store, list[str]()
    shutil.copytree(twin.trained().folder, run)
    data = {"store": str(store.path), "sha256": store.checksums}
    (run / "environment.json").write_text(json.dumps({"data": data}), encoding="utf-8")

    def catch(called: list[Any], *args: Any, trained_on: Any = (), **options: Any) -> Any:
        searched.extend(str(store.path) for store in trained_on)
        raise _Stop

    with suppress(_Stop), mock.patch.object(protocol, "probe", catch):
        workflow.probe(run, labelled_store(twin).path)
    return all_of(equal("searched", ", ".join(searched), str(store.path)))


@claim("probe.leak-refused", "A test recording that was pretrained on is refused a score.",
       source=OURS, about=has_twelve_leads)  # fmt: skip
def leak_refused(twin: Twin) -> Evidence:
    fixtures, answer = recordings(twin), "a score"
    tested = fixtures.leaking.store
    source: Any = encoder(twin)
    with calls_of(protocol, "choose_layer") as fitted:
        try:
            every = np.ones((len(tested), 1), dtype=np.bool_)
            targets = Targets(every, every[:, 0], ("x",), "multi-label")
            task: Any = SimpleNamespace(name="any", targets=lambda _: targets)
            protocol.probe([source], tested, task, trained_on=[fixtures.cohort.store])
        except LatentcastError as problem:
            answer = str(problem)
    return all_of(
        true("the leak is named", "two splits" in answer or "pretraining" in answer),
        equal("heads fitted", len(fitted), 0),
        answer=answer[:120],
    )
