"""The predictions of a classifier for the records of a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.artifacts.predictions import Floats, Ints, Predictions, activated, joined
from latentcast.data.store import Store
from latentcast.evaluation.tasks.base import Kind
from latentcast.nn.modes import evaluating
from latentcast.nn.pooling import BATCH
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.signals.windows import window_starts

Classify = Callable[[npt.NDArray[Any]], Tensor]
"""Integers as a store gives them to outputs ``(B, outputs)``, one crop or image each."""


def of_metric(found: Predictions, kind: Kind) -> npt.NDArray[Any]:
    """What the metrics of a kind of task take: probabilities ``(N, labels)``, or the class or the
    one value ``(N,)``."""
    if kind == "multi-class":
        return np.asarray(found.values.argmax(axis=1))
    return found.values[:, 0] if kind == "regression" else found.values


def outputs_of(
    classify: Classify, network: object, store: Store, rows: Ints, length: int
) -> tuple[Ints, Floats]:
    """Outputs of all crops ``(crops, outputs)`` and the place in ``rows`` of each.

    A recording is read through windows of ``length`` samples that step by half of one, the last
    flush with its end, as :mod:`latentcast.signals.windows` has it; an image once.

    Args:
        network: put in evaluation mode meanwhile.
    """
    owners, starts = list[int](), list[int]()
    for place, row in enumerate(rows.tolist()):
        begins = [0] if store.modality == "image" else window_starts(
            int(store.lengths[row]), length
        )  # fmt: skip
        owners += [place] * len(begins)
        starts += begins
    owner, outputs = np.array(owners, dtype=np.int64), []
    with torch.no_grad(), evaluating(network):
        for begin in range(0, len(owner), BATCH):
            part = slice(begin, begin + BATCH)
            chosen = rows[owner[part]]
            if store.modality == "image":
                samples = store.take(chosen)
            else:
                samples = store.take(chosen, np.array(starts[part]), length)
            outputs.append(classify(samples).double().cpu().numpy())
    return owner, np.concatenate(outputs)


def predict(
    classify: Classify,
    network: object,
    store: Store,
    rows: Ints,
    length: int,
    config: SupervisedConfig,
    temperature: float = 1.0,
) -> Predictions:
    """Probabilities of each record, the mean of those of its crops."""
    owner, outputs = outputs_of(classify, network, store, rows, length)
    return joined([(owner, activated(outputs, config, temperature))], len(rows))
