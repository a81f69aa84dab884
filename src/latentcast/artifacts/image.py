"""A trained encoder of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from latentcast.artifacts.encoder import Encoder
from latentcast.config import Config, ImageInput
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.nn.pooling import BATCH, check_pooling, pool
from latentcast.objectives.base import Objective, Role

Pixels = npt.NDArray[np.uint8]


class ImageEncoder(Encoder):
    """Features of images; see :class:`~latentcast.artifacts.encoder.Encoder`."""

    def __init__(
        self, config: Config, objective: Objective, role: Role, name: str, step: int = 0
    ) -> None:
        assert isinstance(config.input, ImageInput)
        super().__init__(config, objective, ImagePreprocess(config.input), role, name, step)

    @torch.no_grad()
    def embed(
        self, images: Pixels, layer: str = "norm", pooling: str = "mean"
    ) -> npt.NDArray[np.float32]:
        """One vector an image, ``(n, features)``: what the probe reads of it.

        Args:
            images: uint8 ``(n, height, width, channels)``, of any height and width: they are
                resized to those of training.
            layer: one of :attr:`layer_names`.
            pooling: mean, std, mean+std or last.

        Raises:
            LatentcastError: an unknown layer or pooling, or another number of channels.
        """
        index, how = self._layer(layer), check_pooling(pooling, causal=self.causal)
        vectors = []
        for start in range(0, len(images), BATCH):
            layers, valid = self.token_layers(images[start : start + BATCH])
            vectors.append(pool(layers[index], valid, how).numpy())
        return np.concatenate(vectors)
