"""What a classifier predicts of whole records: the mean over crops, and how the crops differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from latentcast.objectives.supervised import SupervisedConfig

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of ``N`` records.

    Attributes:
        values: float64 ``(N, outputs)``: probabilities, or the value of a regression.
        spread: same shape, the standard deviation over the crops; 0 of one crop.
        crops: int64 ``(N,)``, how many.
    """

    values: Floats
    spread: Floats
    crops: Ints


def activated(outputs: Floats, config: SupervisedConfig, temperature: float = 1.0) -> Floats:
    """Outputs ``(N, outputs)`` as probabilities, or in the unit of the target."""
    if config.target == "regression":
        return outputs * config.std + config.mean
    scaled = torch.from_numpy(outputs / temperature)
    sure = scaled.sigmoid() if config.target == "multi-label" else scaled.softmax(dim=1)
    values: Floats = sure.numpy()
    return values


def joined(parts: Iterable[tuple[Ints, Floats]], records: int) -> Predictions:
    """The mean over the crops of each record, of ``(owners, values)`` of crops in any order."""
    owners, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    crops = np.bincount(owners, minlength=records)
    sums, squares = (np.zeros((records, values.shape[1])) for _ in range(2))
    np.add.at(sums, owners, values)
    mean = sums / crops[:, None]
    np.add.at(squares, owners, (values - mean[owners]) ** 2)
    return Predictions(mean, np.sqrt(squares / crops[:, None]), crops)
