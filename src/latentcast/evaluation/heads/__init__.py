"""Heads by name, one for each kind of task; another one is a file here and a line in HEADS."""

from __future__ import annotations

from functools import partial
from typing import Final, get_args

from latentcast.evaluation.heads import knn, logistic, multinomial, ridge
from latentcast.evaluation.heads.base import ClassHead, Fit, Head, LabelHead
from latentcast.evaluation.tasks.base import Kind

__all__ = ["HEADS", "ClassHead", "Fit", "Head", "LabelHead"]

HEADS: Final[dict[str, dict[Kind, Fit]]] = {
    "kNN": {kind: partial(knn.fit, kind=kind) for kind in get_args(Kind)},
    "linear": {
        "multi-label": logistic.fit,
        "multi-class": multinomial.fit,
        "regression": ridge.fit,
    },
}
