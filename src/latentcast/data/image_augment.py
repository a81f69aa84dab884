"""Random-resized crops and changes of colour of preprocessed images, made on the device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import ImageAugmentation, ImageInput
from latentcast.data.image_preprocess import crops, sample_boxes
from latentcast.randomness import Draw

GREY = (0.299, 0.587, 0.114)
"""Share of red, green and blue in a grey (ITU-R BT.601)."""


class ImageAugment:
    """A crop of each image, resized and perhaps mirrored, and its colours changed.

    Everything is a function of (seed, step, sample) through the draw.

    Args:
        settings: the size of a view, and strengths; 0 is off.
        image: its size, and the normalisation that pixel values in [0, 1] got; without one they
            are pixel values.
    """

    def __init__(self, settings: ImageAugmentation, image: ImageInput) -> None:
        self.settings, self.image, self.size = settings, image, settings.size_of_view(image)
        channels, scale = image.channels, image.normalisation
        cpu = torch.device("cpu")  # also where a model is built on meta
        mean = [0.0] * channels if scale is None else scale.mean
        std = [1.0] * channels if scale is None else scale.std
        grey = GREY if channels == 3 else [1 / channels] * channels
        self.mean, self.std, self.grey = (torch.tensor(x, device=cpu) for x in (mean, std, grey))

    def __call__(self, inputs: Inputs, draw: Draw) -> Inputs:
        """Values ``(B, channels, height, width)`` to crops of ``size``, the clean ones beside."""
        settings, pixels = self.settings, inputs.values.permute(0, 2, 3, 1)
        height, width = pixels.shape[1:3]
        boxes = crops(draw, height, width, settings.crop_scale, settings.crop_aspect)
        mirrored = draw.for_samples("view flip") < (0.5 if settings.flip else 0.0)
        cut = sample_boxes(pixels.contiguous(), boxes, mirrored, *self.size).to(pixels.dtype)
        changed = self.change(cut, draw)
        clean, values = cut.permute(0, 3, 1, 2), changed.permute(0, 3, 1, 2)
        return replace(inputs, values=values, valid=None, clean=clean)

    def change(self, values: Tensor, draw: Draw) -> Tensor:
        """``(B, H, W, channels)`` with other brightness, contrast and saturation, or in greys."""
        settings, mean, std = self.settings, self.mean.to(values), self.std.to(values)
        pixels = values * std + mean
        pixels = pixels * _factor(draw, "view brightness", settings.brightness).to(values)
        grey = (pixels * self.grey.to(values)).sum(-1, keepdim=True)
        middle = grey.mean((1, 2), keepdim=True)
        contrast = _factor(draw, "view contrast", settings.contrast).to(values)
        pixels, grey = (middle + contrast * (part - middle) for part in (pixels, grey))
        saturation = _factor(draw, "view saturation", settings.saturation)
        if settings.grey:
            colourless = draw.for_samples("view grey") < settings.grey
            saturation = torch.where(colourless[:, None, None, None], 0.0, saturation)
        pixels = grey + saturation * (pixels - grey)
        return (pixels.clamp(0, 1) - mean) / std


def _factor(draw: Draw, stream: str, strength: float) -> Tensor:
    """``(B, 1, 1, 1)`` about 1."""
    return (1 + strength * (2 * draw.for_samples(stream) - 1))[:, None, None, None]
