"""Scores: what is fitted on what, what is counted, and that the encoder stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from latentcast.errors import LatentcastError
from latentcast.evaluation import features, protocol
from latentcast.evaluation.heads import logistic, multinomial
from latentcast.evaluation.tasks import CodeGroups
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.claims import choosing, counting
from latentcast.verification.observe.data import is_ecg, is_image, recordings
from latentcast.verification.observe.network import within
from latentcast.verification.observe.probe import (
    Fit,
    Foreign,
    encoder,
    mean_of_defined,
    naive_auroc,
    other_test,
    readings,
    rows_of,
    score,
    scored,
    state_of,
    store,
    truth,
    watched,
)
from latentcast.verification.observe.rehearsal import once
from latentcast.verification.observe.twin import Subject
from latentcast.workflows import probe as probing

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/protocol.py"
FLOAT = 2.0**-23
SOME = (1e-4, 1e-2, 1e-1)
"""Penalties, strongest first."""


# The encoder


def _frozen(subject: Subject) -> Evidence:
    """Everything of a loaded encoder before and after a whole probe."""
    done = scored(subject)
    (tensors, flags), (after, modes) = done.before, done.after
    moved = [name for name in tensors if not torch.equal(tensors[name], after[name])]
    turned = [name for name in flags if flags[name] != modes[name]]
    told: dict[str, Number] = {
        "weights": len(tensors), "moved": ", ".join(moved[:3]) or "none",
        "modes and flags changed": ", ".join(turned[:3]) or "none",
    }  # fmt: skip
    return Evidence(not moved and not turned and set(after) == set(tensors), told)


def _foreign(subject: Subject) -> Evidence:
    """BatchNorm and dropout, handed over in training mode: read twice, and given back as it was."""
    source = Foreign(subject)
    tensors, flags = state_of(source)
    rows = rows_of(subject, "train")[:12]
    first, second = (readings(subject, source, rows)["only"] for _ in range(2))
    after, modes = state_of(source)
    moved = [name for name in tensors if not torch.equal(tensors[name], after[name])]
    turned = [name for name in flags if flags[name] != modes[name]]
    noise = float(np.abs(first - second).max())
    told: dict[str, Number] = {
        "difference of two readings": noise, "moved": ", ".join(moved[:3]) or "none",
        "modes changed": ", ".join(turned[:3]) or "none",
    }  # fmt: skip
    return Evidence(noise == 0 and not moved and not turned, told)


def _deterministic(subject: Subject) -> Evidence:
    """Twice the same bits; alone and in company the same to the rounding of a matrix product."""
    source, rows = encoder(subject), rows_of(subject, "train")[:8]
    first, second = (readings(subject, source, rows) for _ in range(2))
    alone = readings(subject, source, rows[3:4])
    same = all(np.array_equal(first[name], second[name]) for name in first)
    apart = max(
        float(np.abs(first[name][3:4] - alone[name]).max() / max(1.0, np.abs(alone[name]).max()))
        for name in first
    )
    told: dict[str, Number] = {"layers": len(first), "same bits": same,
                               "alone or in a batch": apart, "bound": 256 * FLOAT}  # fmt: skip
    return Evidence(same and apart <= 256 * FLOAT, told)


def _windows(subject: Subject) -> Evidence:
    """A record of 1.4 windows, through windows cut here."""
    source: Any = encoder(subject)
    held, length = recordings(subject).cohort, source.length
    rows = np.array([4, 7])
    given = features.extract(source, held.store, rows, pooling="mean")[source.layer_names[-1]]
    worst = 0.0
    for row, vector in zip(rows, given, strict=True):
        counts = held.counts()[row].T
        room = len(counts) - length
        starts = [*range(0, room, length // 2), room]
        parts = np.stack([counts[start : start + length] for start in starts]).astype(np.int16)
        layers, _ = source.token_layers(parts)
        wanted = layers[-1].double().mean(1).mean(0).numpy()
        worst = max(worst, float(np.abs(vector - wanted).max() / np.abs(wanted).max()))
    return within({"largest difference": (worst, 256 * FLOAT)}, windows=len(starts))


def _no_cls(subject: Subject) -> Evidence:
    source: Any = encoder(subject)
    said = dict[str, Number]()
    images = np.zeros((1, *subject.config.input.size, subject.config.input.channels), np.uint8)
    asked = [] if not is_ecg(subject) else [recordings(subject).cohort.store.recording(4)]
    ways: dict[str, Callable[[], object]] = {
        "embed": lambda: source.embed(asked if is_ecg(subject) else images, pooling="cls"),
        "features": lambda: readings(subject, source, rows_of(subject, "train")[:1], "cls"),
    }
    for name, way in ways.items():
        try:
            way()
            said[name] = "given"
        except LatentcastError as problem:
            said[name] = f"refused: {problem}"[:90]
    return Evidence(all(str(told).startswith("refused") for told in said.values()), said)


class _Stop(Exception):
    """The sources are known."""


def _floor(subject: Subject) -> Evidence:
    """What ``probe`` hands to the protocol, caught on its way."""
    run, caught = subject.trained(), list[Any]()

    def catch(sources: list[Any], *args: Any, **said: Any) -> Any:
        caught.extend(sources)
        raise _Stop

    name = "probe"
    live = getattr(protocol, name)
    setattr(protocol, name, catch)
    try:
        probing.probe(run.folder, store(subject).path)
    except _Stop:
        pass
    finally:
        setattr(protocol, name, live)
    tested, floor = (one.network.state_dict() for one in caught[:2])
    began = {key: run.start[key] for key in caught[1].objective.state_dict()}
    held = caught[1].objective.state_dict()
    moved = [key for key in held if not torch.equal(held[key], began[key])]
    shapes = {key: value.shape for key, value in tested.items()}
    alike = shapes == {key: value.shape for key, value in floor.items()}
    same = [key for key in shapes if torch.equal(tested[key], floor[key])]
    told: dict[str, Number] = {
        "sources": ", ".join(str(one.name) for one in caught), "same shapes": alike,
        "weights of the floor": len(floor), "not as the run began": len(moved),
        "equal to the trained ones": len(same),
    }  # fmt: skip
    return Evidence(alike and not moved and len(same) < len(shapes) / 2, told)


# What is fitted on what


def _unseen(subject: Subject) -> Evidence:
    """Two probes that differ in samples and labels of the test split, and in nothing else."""
    first, other, own = scored(subject), other_test(subject), store(subject)
    test = rows_of(subject, "test")
    changed = bool((other.take(test) != own.take(test)).mean() > 0.9)
    second = score(subject, other)
    pairs = list(zip(first.fits, second.fits, strict=True))
    differing = sorted({name for a, b in pairs for name in a.differs(b)})
    scores = [[row.score.main.value for row in one.report.rows] for one in (first, second)]
    told: dict[str, Number] = {
        "heads": len(pairs), "that differ in": ", ".join(differing) or "nothing",
        "test scores": " ".join(f"{v:.2f}" for v in scores[0]),
        "of another test split": " ".join(f"{v:.2f}" for v in scores[1]),
    }  # fmt: skip
    return Evidence(bool(pairs) and not differing and changed, told)


def _linear(subject: Subject) -> tuple[Any, Array, Array, Array]:
    """The tested encoder's linear head in its probe, its layer's features of all rows as float64,
    and the rows of the training split, with their truth."""

    def made() -> tuple[Any, Array, Array, Array]:
        fit: Fit = next(one for one in scored(subject).fits if "weights" in one.numbers)
        rows = np.arange(len(truth(subject)))
        pooling = "mean+std" if is_ecg(subject) else "mean"
        by_layer = readings(subject, encoder(subject), rows, pooling)
        layer = fit.layer
        if not layer:
            layer = next(row.layer for row in scored(subject).report.rows if row.head == "linear")
        return (
            fit.head,
            by_layer[layer].astype(np.float64),
            rows_of(subject, "train"),
            truth(subject),
        )

    return once(subject, "known head", made)


def _standardised(subject: Subject) -> Evidence:
    head, x, train, _ = _linear(subject)
    mean = x[train].sum(0) / len(train)
    std = np.sqrt(((x[train] - mean) ** 2).sum(0) / len(train))
    everyone = x.sum(0) / len(x)
    finite = np.isfinite(head.standardise.std)
    size = float(np.abs(x).max())
    off = max(float(np.abs(head.standardise.mean - mean).max()),
              float(np.abs(head.standardise.std - std)[finite].max()))  # fmt: skip
    told: dict[str, Number] = {
        "rows": len(train), "features": int(finite.sum()), "largest difference": off,
        "bound": 1e-10 * size,
        "from the mean of all splits": float(np.abs(everyone - mean).max()),
    }  # fmt: skip
    return Evidence(off <= 1e-10 * size, told)


def _minimum(subject: Subject) -> Evidence:
    """The gradient of the stated objective at the weights found, over the training rows, by the
    formula; |w|² / 2 bounds the curvature from below, so it bounds the distance to the minimum."""
    head, x, train, labels = _linear(subject)
    z = (x[train] - x[train].mean(0)) / head.standardise.std  # infinite where nothing varies
    found = [("of the probe", head.penalty, head.weights, head.intercepts)]
    if is_ecg(subject):
        y = labels[train]
        weights, intercepts = logistic.logistic_regression(z, y, SOME)
        found += [(f"C {c:g}", c, w, b) for c, w, b in zip(SOME, weights, intercepts, strict=True)]
    else:
        classes = np.searchsorted(head.classes, labels[train])
        y = np.eye(len(head.classes), dtype=bool)[classes]
        path = multinomial.regression_path(z, classes, SOME)
        found += [(f"C {c:g}", c, w, b) for c, w, b in path]
    # What the solvers promise, and a half more for the rounding of its units.
    bound = 4.5e-4 if is_ecg(subject) else 1.5e-2
    return within({
        f"{name}: gradient over weights": (_steepness(z, y, c, w, b, is_ecg(subject)), bound)
        for name, c, w, b in found
    })  # fmt: skip


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


# What is counted


def _score(subject: Subject) -> Evidence:
    """The number in the table, from the head, the test rows and what the source says of them."""
    head, x, _, labels = _linear(subject)
    test = rows_of(subject, "test")
    std = np.where(np.isfinite(head.standardise.std), head.standardise.std, np.inf)
    logits = (x[test] - head.standardise.mean) / std @ head.weights + head.intercepts
    rows = scored(subject).report.rows
    if is_ecg(subject):
        wanted = mean_of_defined(
            [naive_auroc(labels[test, c], logits[:, c]) for c in range(labels.shape[1])]
        )
    else:
        wanted = float((head.classes[logits.argmax(1)] == labels[test]).mean())
    told = next(float(row.score.main.value) for row in rows if row.head == "linear")
    return within({"difference": (abs(told - wanted), 1e-12)}, told=told, counted=wanted)


def _bank(subject: Subject) -> Evidence:
    """kNN looks at the training images and no others."""
    fit = next(one for one in scored(subject).fits if "bank" in one.numbers)
    layer = next(row.layer for row in scored(subject).report.rows if row.head == "kNN")
    train = rows_of(subject, "train")
    wanted = readings(subject, encoder(subject), train)[layer]
    held, labels = fit.numbers["bank"], fit.numbers["targets"]
    same = held.shape == wanted.shape and bool((np.abs(held - wanted) <= 1e-4).all())
    right = same and bool((labels == truth(subject)[train]).all())
    return Evidence(right, {"images": len(held), "of the training split": len(train)})


def _leak_refused(subject: Subject) -> Evidence:
    """A test recording that was pretrained on: there is no score."""
    held = recordings(subject)
    tested = held.leaking.store
    assert tested.modality == "ecg"
    try:
        with watched(protocol, "_read") as fitted:
            source: Any = encoder(subject)
            protocol.probe(
                [source], tested, CodeGroups("any", {"x": ("x",)}),
                pretraining=held.cohort.store,
            )  # fmt: skip
    except LatentcastError as problem:
        said = str(problem)
        right = "two splits" in said or "pretraining" in said
        return Evidence(right and not fitted, {"said": said[:120]})
    return Evidence(False, {"said": "nothing"})


CLAIMS: tuple[Claim, ...] = (
    Claim("probe.frozen", "A probe changes nothing of the encoder: no weight, mode or flag.",
          "specification, executable requirement 27", _frozen),
    Claim("probe.eval-mode", "A network in training mode is read in evaluation mode, twice alike, "
          "and given back as it was.", "specification, D21: frozen for good", _foreign),
    Claim("probe.deterministic", "Features are the same bits each time, and do not depend on who "
          "else is in the batch.", OURS, _deterministic),
    Claim("probe.windows", "A long record is read through windows of the training length, to its "
          "end, and their features are averaged.", OURS, _windows, is_ecg),
    Claim("probe.no-cls", "The CLS token, which under a causal mask sees only itself, cannot be "
          "asked for.", "specification, defect 9: logits identical for any ECG", _no_cls),
    Claim("probe.floor", "The floor is the same architecture at the initialisation from which the "
          "run began.", "Reality Check 2026: a random encoder beside every score", _floor),
    Claim("probe.test-unseen", "Nothing that is fitted or chosen depends on samples or labels of "
          "the test split.", OURS, _unseen),
    *choosing.CLAIMS,
    Claim("probe.standardised-on-train", "Features are standardised by the training rows alone.",
          OURS, _standardised),
    Claim("probe.minimum", "The linear head is at the minimum of its objective over the training "
          "rows.", "scikit-learn's LogisticRegression(C)", _minimum),
    Claim("probe.score", "The score in the table is that of the test rows.", OURS, _score),
    Claim("probe.bank", "kNN looks at the training images and no others.", OURS, _bank, is_image),
    Claim("probe.leak-refused", "A test recording that was pretrained on is refused a score.",
          OURS, _leak_refused, is_ecg),
    *counting.CLAIMS,
)  # fmt: skip
