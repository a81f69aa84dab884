"""What a probe chooses, and by the score of which rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.evaluation import protocol
from latentcast.evaluation.heads import HEADS, logistic, multinomial
from latentcast.evaluation.tasks import Kind
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal
from latentcast.verification.observe.probe import counted_score
from latentcast.verification.observe.recordings import is_ecg
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/protocol.py"


def _two_layers() -> tuple[dict[str, Array], Array, list[Array]]:
    """Layers that separate the classes on train, and on validation (A) or on test (B)."""
    classes, places = np.arange(60) % 2, np.split(np.arange(60), [40, 50])
    noise = np.sin(1.0 + np.arange(120)).reshape(60, 2)
    layers = {}
    for name, wrong in (("a", places[2]), ("b", places[1])):
        sign = np.where(classes == 1, 1.0, -1.0)
        sign[wrong] *= -1
        layers[name] = (2 * sign[:, None] + 0.5 * noise).astype(np.float32)
    return layers, classes, places


def _two_features() -> tuple[npt.NDArray[np.float32], Array, list[Array]]:
    """The second feature is the noise of the first: of the training rows fully, of the validation
    rows in part, of the test rows the wrong way. The weakest penalty is best for the first, one in
    between for the second, the strongest for the third. Ten features more are noise."""
    classes, places = np.arange(160) % 2, np.split(np.arange(160), [80, 120])
    noise = np.random.Generator(np.random.PCG64(5)).normal(size=(160, 12))
    x = noise.copy()
    x[places[1], 0] *= 0.3
    x[:, 0] += np.where(classes == 1, 0.5, -0.5)
    x[:, 1] = noise[:, 0] + 0.5 * noise[:, 1]
    x[places[2], 1] *= -1
    return x.astype(np.float32), classes, places


@claim("probe.chosen-on-validation", "Layer and penalty are those with the best score on the "
       "validation split.", source=OURS)  # fmt: skip
def chosen_on_validation(twin: Twin) -> Evidence:
    """On validation layer a is best, on test layer b."""
    kind: Kind = "multi-label" if is_ecg(twin) else "multi-class"
    layers, classes, places = _two_layers()
    y = _columns(classes) if is_ecg(twin) else classes
    chosen = {
        f"{name}: layer": protocol.choose_layer(layers, y, places, HEADS[name][kind], kind, 0)[0]
        for name in ("kNN", "linear")
    }
    x, classes, places = _two_features()
    y = _columns(classes) if is_ecg(twin) else classes
    _, head = protocol.choose_layer({"only": x}, y, places, HEADS["linear"][kind], kind, 0)
    train, validation, test = places
    scores, others = (_by_penalty(twin, x, classes, train, rows) for rows in (validation, test))
    best = max(scores, key=scores.__getitem__)  # of a draw the stronger
    return all_of(
        *(equal(name, layer, "a") for name, layer in chosen.items()),
        equal("penalty", head.penalty or math.nan, best),
        at_most("its validation score, from the one counted",
                abs(head.validation - scores[best]), 1e-12),
        best_on_test=max(others, key=others.__getitem__),
    )  # fmt: skip


def _columns(classes: Array) -> Array:
    return np.stack([classes == 1, classes == 0], 1)


def _by_penalty(
    twin: Twin, x: Array, classes: Array, train: Array, rows: Array
) -> dict[float, float]:
    """What each of the penalties, strongest first, scores on some rows: macro AUROC pair by pair,
    or accuracy. That each is at its minimum is ``probe.minimum``."""
    z = (x - x[train].mean(0, dtype=np.float64)) / x[train].std(0, dtype=np.float64)
    if is_ecg(twin):
        strengths, y = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0), _columns(classes)
        heads = zip(*logistic.logistic_regression(z[train], y[train], strengths), strict=True)
        scores = [counted_score(y[rows], z[rows] @ w + b) for w, b in heads]
        return dict(zip(strengths, scores, strict=True))
    path = multinomial.regression_path(z[train], classes[train], (1e-4, 1e-3, 1e-2, 1e-1, 1.0))
    return {c: counted_score(classes[rows], (z[rows] @ w + b).argmax(1)) for c, w, b in path}
