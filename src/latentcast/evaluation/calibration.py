"""Temperature and operating points, chosen on the validation split alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.predictions import activated, joined
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
    losses = [
        log_loss(joined([(owner, activated(outputs, config, t))], len(targets)).values, targets)
        for t in TEMPERATURES
    ]
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
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    errors = np.zeros(probabilities.shape[1])
    for label in range(probabilities.shape[1]):
        for place in np.unique(bins[:, label]):
            inside = bins[:, label] == place
            gap = probabilities[inside, label].mean() - targets[inside, label].mean()
            errors[label] += abs(gap) * inside.mean()
    return errors


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
