"""From uint8 pixels to what the encoder sees."""

from __future__ import annotations

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import ImageInput


class ImagePreprocess:
    """``(pixel / 255 − mean) / std`` per channel, on the device of the batch."""

    def __init__(self, config: ImageInput) -> None:
        normalisation = config.normalisation
        self.mean = torch.tensor(normalisation.mean if normalisation else (0.0,) * config.channels)
        self.std = torch.tensor(normalisation.std if normalisation else (1.0,) * config.channels)

    def __call__(self, pixels: Tensor) -> Inputs:
        """uint8 ``(B, height, width, channels)`` to values ``(B, channels, height, width)``."""
        values = pixels.to(torch.float32) / 255
        values = (values - self.mean.to(pixels.device)) / self.std.to(pixels.device)
        return Inputs(values.permute(0, 3, 1, 2))
