"""The features of two sources side by side, as those of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast.evaluation.features import FeatureSource
from latentcast.nn.pooling import JOINED

Layers = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Concatenation:
    """Two sources whose pooled features are joined.

    It has the layers of the first; each is followed by all layers of the second. A head that
    reads tokens cannot read it: tokens of two sources are of two widths.
    """

    first: FeatureSource
    second: FeatureSource

    @property
    def parts(self) -> tuple[FeatureSource, FeatureSource]:
        return self.first, self.second

    @staticmethod
    def features(first: Mapping[str, npt.NDArray[np.float32]], second: Layers) -> Layers:
        """Features ``(N, F)`` by layer and ``(N, G)`` by layer to ``(N, F + G')``, where G' are all
        of the second."""
        (last, *_) = [second[JOINED]] if JOINED in second else second.values()
        return {layer: np.concatenate([own, last], axis=1) for layer, own in first.items()}
