"""A floor without any network: the pixels themselves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from latentcast.data.store import Store

VALUES = 256  # about as many as a small encoder's features have


class PixelSource:
    """An :class:`~latentcast.evaluation.features.ImageFeatureSource` of one layer and one token.

    The token is the image, its sides halved by averaging until it has at most VALUES values. That
    is a higher floor than all pixels, and a cheaper one: on CIFAR-10 (45,000 training images), kNN
    reaches 0.355 on 32 × 32 pixels, 0.384 on 16 × 16 and 0.415 on 8 × 8; the linear probe reaches
    0.41 on either of the last two. Images of at most VALUES values are read as they are.
    """

    name = "pixels"
    layer_names = ("pixels",)
    causal = False

    def __init__(self, height: int, width: int, channels: int) -> None:
        while height * width * channels > VALUES and max(height, width) > 1:
            height, width = -(-height // 2), -(-width // 2)
        self.size = height, width

    @classmethod
    def from_store(cls, store: Store) -> PixelSource:
        """For the canvas of a store."""
        return cls(store.height, store.width, store.channels)

    @property
    def pooling(self) -> str:
        """Height × width of what is read."""
        return f"{self.size[0]} × {self.size[1]}"

    def token_layers(self, samples: npt.NDArray[np.uint8]) -> tuple[list[Tensor], Tensor]:
        """Images (B, height, width, channels) to one token (B, 1, F) in [0, 1], always valid."""
        images = torch.from_numpy(np.ascontiguousarray(samples.transpose(0, 3, 1, 2))).float()
        small = F.adaptive_avg_pool2d(images / 255, self.size)
        return [small.flatten(1)[:, None]], torch.ones(len(images), 1, dtype=torch.bool)
