"""Heads by name, one for each kind of task; another one is a file here and a line in HEADS."""

from __future__ import annotations

from functools import partial
from typing import Final, get_args

from latentcast.evaluation.heads import attentive, knn, logistic, multinomial, ridge
from latentcast.evaluation.heads.base import ClassHead, Fit, Head, LabelHead, PenaltyPath
from latentcast.evaluation.tasks.base import Kind

__all__ = ["HEADS", "PATHS", "READ_TOKENS", "ClassHead", "Fit", "Head", "LabelHead", "PenaltyPath"]

HEADS: Final[dict[str, dict[Kind, Fit]]] = {
    "kNN": {kind: partial(knn.fit, kind=kind) for kind in get_args(Kind)},
    "linear": {
        "multi-label": logistic.fit,
        "multi-class": multinomial.fit,
        "regression": ridge.fit,
    },
    "attentive": {kind: partial(attentive.fit, kind=kind) for kind in get_args(Kind)},
}
PATHS: Final[dict[str, dict[Kind, PenaltyPath]]] = {
    "kNN": {kind: partial(knn.path, kind=kind) for kind in get_args(Kind)},
    "linear": {
        "multi-label": logistic.path,
        "multi-class": multinomial.path,
        "regression": ridge.path,
    },
}
"""Heads whose fit looks at the training records alone: those that are cross-validated. The
attentive head keeps the best of its looks at other records."""
READ_TOKENS: Final = frozenset({"attentive"})
"""Heads that are fitted to :class:`~latentcast.evaluation.tokens.TokenFeatures`, the others to
pooled features ``(N, F)``; both are indexed by records alike. These take a ``seed``, too."""
