"""What a probe chooses, and by the score of which rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.evaluation import protocol
from latentcast.evaluation.heads import knn, logistic, multinomial
from latentcast.evaluation.tasks import Kind
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.observe.data import is_ecg
from latentcast.verification.observe.probe import mean_of_defined, naive_auroc
from latentcast.verification.observe.twin import Subject

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/protocol.py"


def _two_layers(n: int = 60) -> tuple[dict[str, Array], Array, list[Array]]:
    """Of layer A the validation rows tell the class, of layer B the test rows; train both."""
    classes = np.arange(n) % 2
    places = [np.arange(0, 40), np.arange(40, 50), np.arange(50, 60)]
    noise = np.sin(1.0 + np.arange(2 * n)).reshape(n, 2)
    layers = {}
    for name, wrong in (("a", places[2]), ("b", places[1])):
        sign = np.where(classes == 1, 1.0, -1.0)
        sign[wrong] *= -1
        layers[name] = (2 * sign[:, None] + 0.5 * noise).astype(np.float32)
    return layers, classes, places


def _two_features(n: int = 160) -> tuple[npt.NDArray[np.float32], Array, list[Array]]:
    """The second feature says how noisy the first is: of the training rows fully, of the validation
    rows in part, of the test rows the wrong way. The weakest penalty is best for the first, one in
    between for the second, the strongest for the third. Ten features more are noise."""
    classes = np.arange(n) % 2
    places = [np.arange(0, 80), np.arange(80, 120), np.arange(120, 160)]
    noise = np.random.Generator(np.random.PCG64(5)).normal(size=(n, 12))
    x = noise.copy()
    x[places[1], 0] *= 0.3
    x[:, 0] += np.where(classes == 1, 0.5, -0.5)
    x[:, 1] = noise[:, 0] + 0.5 * noise[:, 1]
    x[places[2], 1] *= -1
    return x.astype(np.float32), classes, places


def _on_validation(subject: Subject) -> Evidence:
    layers, classes, (train, validation, test) = _two_layers()
    told: dict[str, Number] = {"best on validation": "a", "best on test": "b"}
    places = [train, validation, test]
    kind: Kind = "multi-label" if is_ecg(subject) else "multi-class"
    linear: Any = logistic.fit if is_ecg(subject) else multinomial.fit
    heads = {"linear: layer": linear, "kNN: layer": partial(knn.fit, kind=kind)}
    y = _columns(classes) if is_ecg(subject) else classes
    chosen = {
        name: protocol._read(layers, y, places, fit, kind, 0)[0] for name, fit in heads.items()
    }
    x, classes, places = _two_features()
    train, validation, test = places
    y = _columns(classes) if is_ecg(subject) else classes
    head: Any = protocol._read({"only": x}, y, places, linear, kind, 0)[1]
    scores = [_by_penalty(subject, x, classes, train, rows) for rows in (validation, test)]
    wanted, other = (max(by, key=by.__getitem__) for by in scores)  # of a draw the stronger
    told |= chosen | {
        "penalty": head.penalty, "best penalty on validation": wanted, "on test": other,
        "its score on validation": head.validation, "counted": scores[0][wanted],
    }  # fmt: skip
    right = abs(head.validation - scores[0][wanted]) < 1e-12 and head.penalty == wanted
    return Evidence(set(chosen.values()) == {"a"} and right, told)


def _columns(classes: Array) -> Array:
    return np.stack([classes == 1, classes == 0], 1)


def _by_penalty(
    subject: Subject, x: Array, classes: Array, train: Array, rows: Array
) -> dict[float, float]:
    """What each of the penalties, strongest first, scores on some rows: macro AUROC pair by pair,
    or accuracy. That each is at its minimum is ``probe.minimum``."""
    z = (x - x[train].mean(0, dtype=np.float64)) / x[train].std(0, dtype=np.float64)
    y = _columns(classes)
    if is_ecg(subject):
        strengths: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
        found = zip(*logistic.logistic_regression(z[train], y[train], strengths), strict=True)
        logits = [z[rows] @ w + b for w, b in found]
        scores = [
            mean_of_defined([naive_auroc(y[rows, c], one[:, c]) for c in range(2)])
            for one in logits
        ]
        return dict(zip(strengths, scores, strict=True))
    path = multinomial.regression_path(z[train], classes[train], (1e-4, 1e-3, 1e-2, 1e-1, 1.0))
    return {c: float(((z[rows] @ w + b).argmax(1) == classes[rows]).mean()) for c, w, b in path}


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "probe.chosen-on-validation",
        "Layer and penalty are those with the best score on the validation split.",
        OURS,
        _on_validation,
    ),
)
