"""From uint8 pixels to what the encoder sees; the same function in training and in use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import ImageInput
from latentcast.errors import LatentcastError
from latentcast.images.decode import Canvas
from latentcast.randomness import Draw


class ImagePreprocess:
    """``(pixel / 255 − mean) / std`` per channel of a crop, on the device of the batch."""

    def __init__(self, config: ImageInput) -> None:
        if config.normalisation is None:
            raise LatentcastError(
                "input.normalisation: is not set; train from a store (its statistics are used) "
                "or give mean and std of each channel, of values in [0, 1]"
            )
        self.config = config
        self.mean = torch.tensor(config.normalisation.mean)
        self.std = torch.tensor(config.normalisation.std)

    def __call__(self, samples: Tensor, draw: Draw | None = None) -> Inputs:
        """uint8 ``(B, H, W, channels)`` to values float32 ``(B, channels, height, width)``.

        With ``draw``: a random-resized crop and a flip, where the configuration has them, each a
        function of (seed, step, sample). Without: the whole image, as it is, or the middle of the
        canvas, resized.

        Raises:
            LatentcastError: the images are no uint8, have other channels, or another size than
                :attr:`ImageInput.store_size`.
        """
        config, device = self.config, samples.device
        self._check(samples)
        if self.mean.device != device:
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        count, height, width, _ = samples.shape
        mirrored = None
        if draw is not None and config.flip:
            mirrored = draw.for_samples("flip") < 0.5
        if draw is not None and config.crop_scale is not None:
            boxes = crops(draw, height, width, config.crop_scale, config.crop_aspect)
            still = torch.zeros(count, dtype=torch.bool, device=device)
            pixels = sample_boxes(
                samples, boxes, still if mirrored is None else mirrored, *config.size
            )
        else:
            pixels = resized(samples, *config.size)
            if mirrored is not None:
                pixels = torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)
        values = pixels.div_(255).sub_(self.mean).div_(self.std)  # of a copy: ours to overwrite
        return Inputs(values.permute(0, 3, 1, 2))

    def _check(self, samples: Tensor) -> None:
        config = self.config
        if samples.dtype != torch.uint8 or samples.ndim != 4:
            raise LatentcastError(
                f"images of {str(samples.dtype)[6:]} {tuple(samples.shape)}: are not uint8 "
                "(images, height, width, channels); give whole numbers from 0 to 255, channels last"
            )
        _, height, width, channels = samples.shape
        if channels != config.channels:
            if samples.shape[1] == config.channels:
                advice = "the channels lie first: give x.permute(0, 2, 3, 1)"
            else:
                advice = (
                    "give images of those channels, or train with --set "
                    f"input.channels={channels} input.normalisation=null"
                )
            raise LatentcastError(
                f"input.channels: is {config.channels}, the images have {channels}; {advice}"
            )
        if (height, width) != config.store_size:
            rows, columns = config.store_size
            size = f"ingest them with --size {rows}, or " if rows == columns else ""
            raise LatentcastError(
                f"images of {height} × {width} pixels: the encoder reads {rows} × {columns}; "
                f"{size}give them to Encoder.embed, which resizes the middle of each"
            )


def resized(samples: Tensor, height: int, width: int) -> Tensor:
    """uint8 ``(B, H, W, C)`` to float32 ``(B, height, width, C)``, 0 to 255.

    The largest middle of that shape, in whole pixels, resized as ingest does it: bicubic and
    antialiased. Images that have the size come back as they are.
    """
    shape = samples.shape[1:3]
    pixels = samples.to(torch.float32)
    if shape == (height, width):
        return pixels
    left, top, right, bottom = map(round, Canvas(height, width, 0, resize=True).middle(*shape))
    middle = pixels[:, top:bottom, left:right].permute(0, 3, 1, 2)
    scaled = F.interpolate(
        middle, (height, width), mode="bicubic", align_corners=False, antialias=True
    )
    return scaled.clamp_(0, 255).permute(0, 2, 3, 1).contiguous()


def crops(
    draw: Draw, height: int, width: int, scale: tuple[float, float], aspect: tuple[float, float]
) -> Tensor:
    """Random-resized crops: boxes ``(B, 4)`` of top, left, height, width, in pixels.

    The share of the area is uniform in ``scale``, the aspect (width over height) log-uniform in
    what of ``aspect`` fits into the image at that share, the place uniform in the image: every
    draw fits, so none is thrown away. In an image so narrow that no aspect of the interval fits at
    a share, the share is lowered to the largest one that fits.
    """
    low, high = aspect
    image = width / height
    fits = min(1.0, high / image, image / low)
    smallest, largest = min(scale[0], fits), min(scale[1], fits)
    share = smallest + (largest - smallest) * draw.for_samples("crop area")
    # At width = √(share · H · W · aspect) the width fits up to the aspect image / share, and the
    # height from image · share on.
    bottom = (share * image).clamp(min=low).log()
    top = (image / share).clamp(max=high).log()
    ratio = (bottom + (top - bottom) * draw.for_samples("crop aspect")).exp()
    area = share * (height * width)
    tall = (area / ratio).sqrt().clamp(max=height)
    wide = (area * ratio).sqrt().clamp(max=width)
    down = draw.for_samples("crop row") * (height - tall)
    right = draw.for_samples("crop column") * (width - wide)
    return torch.stack([down, right, tall, wide], dim=1)


def sample_boxes(
    samples: Tensor, boxes: Tensor, mirrored: Tensor, height: int, width: int
) -> Tensor:
    """Bilinear samples of boxes: uint8 ``(B, H, W, C)`` to float32 ``(B, height, width, C)``.

    The convention is that of ``align_corners=False``, with the border repeated: pixel k covers
    [k, k + 1]. Rows and columns are looked up and mixed one after the other: a whole image at its
    own size comes back to the last bit, which a sampling grid in [−1, 1] does not give.

    Args:
        boxes: ``(B, 4)`` top, left, height, width, in pixels of ``samples``.
        mirrored: ``(B,)`` bool, which to flip.
    """
    top, left, tall, wide = boxes.unbind(1)
    rows = _centres(top, tall, height, samples.shape[1])
    columns = _centres(left, wide, width, samples.shape[2])
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    mixed = _mix(samples, rows)
    return _mix(mixed.transpose(1, 2), columns).transpose(1, 2)


def _centres(start: Tensor, extent: Tensor, count: int, limit: int) -> Tensor:
    """Positions ``(B, count)`` of sample centres along an axis, 0 at the centre of pixel 0."""
    steps = torch.arange(count, device=start.device) + 0.5
    positions = start[:, None] + steps * (extent / count)[:, None] - 0.5
    return positions.clamp(0, limit - 1)


def _mix(values: Tensor, positions: Tensor) -> Tensor:
    """Linear interpolation of ``(B, n, m, C)`` at ``(B, k)`` along its second axis, float32."""
    count, n, m, channels = values.shape
    low = positions.floor()
    weight = (positions - low)[:, :, None]
    # Whole rows of one table: copying them is many times faster than looking pixels up.
    table = values.reshape(count * n, m * channels)
    first = (low.long() + n * torch.arange(count, device=values.device)[:, None]).flatten()
    second = torch.where(low < n - 1, 1, 0).flatten() + first
    before, after = (
        table.index_select(0, which).to(torch.float32).view(count, -1, m * channels)
        for which in (first, second)
    )
    return before.lerp_(after, weight).view(count, -1, m, channels)
