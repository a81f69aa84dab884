"""What the probabilities of a head give besides a ranking: calibration and operating points.

One way for a probe, an evaluation and a fine-tuned network: temperature and thresholds are those
that validation chose, everything else is of the test records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.evaluation import calibration
from latentcast.evaluation.estimate import LISTED, Score
from latentcast.evaluation.heads import ClassHead, Head, LabelHead
from latentcast.evaluation.metrics import Counts, Floats
from latentcast.evaluation.operating import with_operating_points
from latentcast.evaluation.tasks.base import Kind

Array = npt.NDArray[Any]


def probabilities_of(head: Head, features: Any, kind: Kind, classes: int) -> Floats | None:
    """Of raw features of N records ``(N, outputs)``; None where the head has none, and of more
    than LISTED classes, which take hours."""
    if kind == "multi-label" and isinstance(head, LabelHead):
        return head.label_shares(features)
    if kind == "multi-class" and isinstance(head, ClassHead) and classes <= LISTED:
        return head.class_shares(features, classes)
    return None


def with_calibrated_head(
    score: Score,
    kind: Kind,
    names: Sequence[str],
    head: Head,
    validation: tuple[Any, Array],
    test: tuple[Any, Array],
    counts: Counts,
) -> Score:
    """The score with what a temperature and thresholds chosen on the validation records give; as
    it is where the head has no probabilities.

    Args:
        validation, test: raw features and targets of the records of each.
        counts: resamples of the test records.
    """
    chosen_on = probabilities_of(head, validation[0], kind, len(names))
    found = probabilities_of(head, test[0], kind, len(names))
    if chosen_on is None or found is None:
        return score
    labels = kind == "multi-label"
    heat = calibration.temperature_of(chosen_on, validation[1])
    chosen_on, found = (
        calibration.tempered(part, heat, labels=labels) for part in (chosen_on, found)
    )
    points = calibration.thresholds(chosen_on, validation[1]) if labels else np.zeros(0)
    return with_probabilities(score, kind, names, test[1], found, heat, points, counts)


def with_probabilities(
    score: Score,
    kind: Kind,
    names: Sequence[str],
    targets: Array,
    probabilities: Floats,
    temperature: float,
    thresholds: Sequence[float] | Floats,
    counts: Counts,
) -> Score:
    """The score with calibration and, of labels, operating points, of the test records.

    Args:
        probabilities: ``(N, outputs)``, already divided by the temperature.
        thresholds: of each label; of classes they are not read.
    """
    if kind == "regression":
        return score
    score = calibration.with_calibration(score, names, targets, probabilities, temperature)
    if kind == "multi-class":
        return score
    return with_operating_points(score, names, thresholds, targets, probabilities, counts)
