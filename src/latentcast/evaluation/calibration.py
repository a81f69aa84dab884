"""Temperature and operating points, chosen on the validation split alone; reliability on test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.predictions import activated, joined
from latentcast.evaluation.estimate import Calibration, ReliabilityBin, Score
from latentcast.objectives.supervised import SupervisedConfig

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
TEMPERATURES = np.exp(np.linspace(np.log(0.1), np.log(10), 81))
"""Looked through: a twentieth finer would change a probability by less than 0.01."""
BINS = 15


def temperature(owner: Ints, outputs: Floats, targets: Any, config: SupervisedConfig) -> float:
    """The divisor of the outputs with the least log-loss of the records (Guo et al. 2017); 1 of a
    regression, and where the best lies at the end of what is looked through.

    Args:
        owner: the record of each crop.
        outputs: of the crops.
        targets: of the records, bool ``(N, labels)`` or class ``(N,)``.
    """
    if config.target == "regression":
        return 1.0
    return _coolest(
        lambda t: joined([(owner, activated(outputs, config, t))], len(targets)).values, targets
    )


def temperature_of(probabilities: Floats, targets: Any) -> float:
    """The divisor of the logits of records' probabilities ``(N, outputs)``, see
    :func:`temperature`; targets bool ``(N, labels)`` or class ``(N,)``."""
    return _coolest(lambda t: tempered(probabilities, t, labels=targets.ndim == 2), targets)


def tempered(probabilities: Floats, temperature: float, *, labels: bool) -> Floats:
    """Probabilities ``(N, outputs)`` whose logits are divided: of each label on its own, or of
    classes that exclude each other."""
    if temperature == 1:
        return probabilities
    # Probabilities of 0 stay within rounding of it: their logit is taken at the smallest number.
    p = probabilities.clip(1e-300, 1.0)
    if labels:
        logits = np.log(p) - np.log1p(-probabilities.clip(0.0, 1 - 1e-16))
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits / temperature))
    logits = np.log(p) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _coolest(probabilities_at: Callable[[float], Floats], targets: Any) -> float:
    losses = [log_loss(probabilities_at(t), targets) for t in TEMPERATURES]
    best = int(np.argmin(losses))
    return float(TEMPERATURES[best]) if 0 < best < len(TEMPERATURES) - 1 else 1.0


def log_loss(probabilities: Floats, targets: Any) -> float:
    """Mean cross-entropy in nats, of labels or of classes."""
    p = probabilities.clip(1e-12, 1 - 1e-12)
    if targets.ndim == 1:
        return float(-np.log(p[np.arange(len(p)), targets]).mean())
    return float(-np.where(targets, np.log(p), np.log1p(-p)).mean())


def expected_calibration_error(probabilities: Floats, targets: npt.NDArray[np.bool_]) -> Floats:
    """Of each label ``(labels,)``: the mean distance of the predicted probability from the share
    of positives, over BINS bins of equal width, weighted by their records (Naeini et al. 2015)."""
    columns = zip(probabilities.T, targets.T, strict=True)
    return np.array([
        sum(abs(own.predicted - own.positive) * own.count for own in reliability(p, y)) / len(p)
        for p, y in columns
    ])  # fmt: skip


def reliability(
    probabilities: Floats, targets: npt.NDArray[np.bool_]
) -> tuple[ReliabilityBin, ...]:
    """The bins that have a prediction, of predictions of any shape and their targets."""
    p, y = probabilities.ravel(), targets.ravel()
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return tuple(
        ReliabilityBin(place / BINS, (place + 1) / BINS, int(inside.sum()),
                       float(p[inside].mean()), float(y[inside].mean()))
        for place in np.unique(bins).tolist()
        for inside in [bins == place]
    )  # fmt: skip


def with_calibration(
    score: Score, names: Sequence[str], targets: Any, probabilities: Floats, temperature: float
) -> Score:
    """A score with the calibration of test probabilities ``(N, outputs)`` that have been divided
    by a temperature; targets bool ``(N, labels)`` or class ``(N,)``."""
    present = targets if targets.ndim == 2 else targets[:, None] == np.arange(len(names))
    errors = expected_calibration_error(probabilities, present)
    by_name = {name: float(error) for name, error in zip(names, errors, strict=True)}
    return replace(
        score,
        calibration=Calibration(
            temperature, float(errors.mean()), by_name, reliability(probabilities, present)
        ),
    )


def thresholds(probabilities: Floats, targets: npt.NDArray[np.bool_]) -> Floats:
    """Of each label ``(labels,)`` the probability from which on it is called, with the highest F1;
    NaN of a label without positives."""
    chosen = np.full(probabilities.shape[1], np.nan)
    for label in range(probabilities.shape[1]):
        positives = int(targets[:, label].sum())
        if not positives:
            continue
        order = np.argsort(-probabilities[:, label], kind="stable")
        sorted_p, hits = probabilities[order, label], np.cumsum(targets[order, label])
        # Only where the next probability is another one: equal ones are called together.
        ends = np.flatnonzero(np.append(np.diff(sorted_p) < 0, True))
        f1 = 2 * hits[ends] / (ends + 1 + positives)
        chosen[label] = sorted_p[ends[int(np.argmax(f1))]]
    return chosen
