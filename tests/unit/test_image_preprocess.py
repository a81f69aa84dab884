"""Crops, flips and normalisation on the device: against naive loops, and by their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from latentcast.config import ImageInput
from latentcast.config.inputs import Normalisation
from latentcast.data.image_preprocess import ImagePreprocess, crops, sample_boxes
from latentcast.errors import LatentcastError
from latentcast.randomness import Draw

UNIT = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pixels(count: int = 4, height: int = 9, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def draw(count: int, step: int = 0, seed: int = 0) -> Draw:
    return Draw(seed, step, torch.arange(count))


def naive(image: np.ndarray, box: list[float], flip: bool, height: int, width: int) -> np.ndarray:
    """Bilinear samples at the centres of the cells of a box, one at a time, in float64."""
    top, left, tall, wide = box
    out = np.zeros((height, width, image.shape[2]))
    for i in range(height):
        for j in range(width):
            y = min(max(top + (i + 0.5) * tall / height - 0.5, 0), image.shape[0] - 1)
            x = min(max(left + (j + 0.5) * wide / width - 0.5, 0), image.shape[1] - 1)
            y0, x0 = math.floor(y), math.floor(x)
            for dy, wy in ((0, 1 - (y - y0)), (1, y - y0)):
                for dx, wx in ((0, 1 - (x - x0)), (1, x - x0)):
                    if wy * wx:
                        out[i, j] += wy * wx * image[y0 + dy, x0 + dx]
    return out[:, ::-1] if flip else out


def test_boxes_are_sampled_as_a_naive_loop_does() -> None:
    images = pixels()
    boxes = crops(draw(4), 9, 12, (0.1, 0.9), (3 / 4, 4 / 3))
    flips = torch.tensor([True, False, False, True])
    sampled = sample_boxes(images, boxes, flips, 6, 5)
    assert sampled.dtype == torch.float32
    for b in range(4):
        expected = naive(images[b].numpy().astype(float), boxes[b].tolist(), bool(flips[b]), 6, 5)
        np.testing.assert_allclose(sampled[b].numpy(), expected, atol=1e-3)  # of 255


def test_what_is_not_cropped_is_the_middle_without_aliasing() -> None:
    """As Pillow resizes it, which rounds to whole values after each of its two passes."""
    image = pixels(1, 36, 60)
    config = ImageInput(height=9, width=12, canvas=(36, 60), normalisation=UNIT)
    values = ImagePreprocess(config)(image).values[0].permute(1, 2, 0) * 255
    middle = Image.fromarray(image[0].numpy()).crop((6, 0, 54, 36))
    expected = middle.resize((12, 9), Image.Resampling.BICUBIC)
    assert np.abs(values.numpy() - np.asarray(expected)).max() < 2  # squashed: 60


def test_a_crop_of_everything_at_the_same_size_is_the_image_to_the_last_bit() -> None:
    """A sampling grid in [-1, 1] mixes in a millionth of the neighbours."""
    for height, width in ((224, 224), (9, 12), (37, 91)):
        images = pixels(2, height, width)
        square = (width / height,) * 2
        config = ImageInput(height=height, width=width, crop_scale=(1, 1), crop_aspect=square)
        preprocess = ImagePreprocess(config)
        assert torch.equal(preprocess(images, draw(2)).values, preprocess(images).values)


def test_a_flip_is_the_mirror_image_to_the_last_bit_and_hits_half() -> None:
    images = pixels(2000, 3, 4)
    preprocess = ImagePreprocess(ImageInput(height=3, width=4, flip=True))
    still, maybe = preprocess(images).values, preprocess(images, draw(2000)).values
    mirrored = torch.tensor([torch.equal(m, s.flip(2)) for m, s in zip(maybe, still, strict=True)])
    same = torch.tensor([torch.equal(m, s) for m, s in zip(maybe, still, strict=True)])
    assert (mirrored ^ same).all()
    assert abs(float(mirrored.float().mean()) - 0.5) < 0.04


@pytest.mark.parametrize(("height", "width"), [(32, 32), (224, 160), (20, 200), (200, 20)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.3, 1.0), (1.0, 1.0), (0.01, 0.02)])
def test_every_crop_fits_and_has_the_area_and_the_aspect_asked_for(
    height: int, width: int, scale: tuple[float, float]
) -> None:
    top, left, tall, wide = crops(draw(20_000), height, width, scale, (3 / 4, 4 / 3)).unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert (top + tall).max() <= height * (1 + 1e-6) and (left + wide).max() <= width * (1 + 1e-6)
    aspect, share = wide / tall, tall * wide / (height * width)
    # Of a narrow image no aspect fits at a large share: the share gives way and not the aspect.
    most = min(1.0, 4 / 3 * height / width, width / height / (3 / 4))
    if most >= scale[0]:
        assert abs(float(share.max()) - min(scale[1], most)) < 0.02
        assert share.min() >= scale[0] * (1 - 1e-4)
        middle = (scale[0] + min(scale[1], most)) / 2
        assert abs(float(share.mean()) - middle) < 0.01  # uniform
    assert aspect.min() >= 3 / 4 * (1 - 1e-4) and aspect.max() <= 4 / 3 * (1 + 1e-4)


def test_small_crops_have_log_uniform_aspects_and_lie_everywhere() -> None:
    top, left, tall, wide = crops(draw(50_000), 64, 64, (0.1, 0.3), (0.5, 2.0)).unbind(1)
    logs = (wide / tall).log2()
    for low in (-1.0, -0.5, 0.0, 0.5):
        share = ((logs >= low) & (logs < low + 0.5)).float().mean()
        assert abs(float(share) - 0.25) < 0.01
    for place in (top / (64 - tall), left / (64 - wide)):
        assert (
            abs(float(place.mean()) - 0.5) < 0.01 and place.max() > 0.999 > 1 - 0.999 > place.min()
        )
    correlations = torch.corrcoef(
        torch.stack([top / (64 - tall), left / (64 - wide), logs, tall * wide])
    )
    assert (correlations - torch.eye(4)).abs().max() < 0.02


def test_a_sample_is_cropped_alike_in_every_batch_and_anew_at_every_step() -> None:
    images = pixels(8)
    config = ImageInput(height=9, width=12, crop_scale=(0.2, 1), flip=True)
    preprocess = ImagePreprocess(config)
    batch = preprocess(images, draw(8)).values
    part = preprocess(images[3:6], Draw(0, 0, torch.arange(3, 6))).values
    assert torch.equal(batch[3:6], part)
    for other in (draw(8, step=1), draw(8, seed=1)):
        assert not torch.equal(batch, preprocess(images, other).values)
    assert torch.equal(batch, preprocess(images, draw(8)).values)


@pytest.mark.parametrize("width", [12, 10])
def test_evaluation_sees_the_whole_image_whatever_training_does(width: int) -> None:
    images = pixels()
    plain = ImageInput(height=9, width=width, canvas=(9, 12))
    augmented = plain.model_copy(update={"crop_scale": (0.3, 1.0), "flip": True})
    assert torch.equal(
        ImagePreprocess(augmented)(images).values, ImagePreprocess(plain)(images).values
    )


def test_values_are_normalised_per_channel_after_the_crop() -> None:
    own = Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    images = pixels()
    crop = {"height": 6, "width": 6, "canvas": (9, 12), "crop_scale": (0.3, 0.6)}
    raw = ImagePreprocess(ImageInput(**crop, normalisation=UNIT))(images, draw(4)).values
    values = ImagePreprocess(ImageInput(**crop, normalisation=own))(images, draw(4)).values
    for channel in range(3):
        expected = (raw[:, channel] - own.mean[channel]) / own.std[channel]
        torch.testing.assert_close(values[:, channel], expected)


def test_missing_statistics_and_other_channels_stop() -> None:
    with pytest.raises(LatentcastError, match="input.normalisation: is not set"):
        ImagePreprocess(ImageInput(normalisation=None))
    small = ImagePreprocess(ImageInput(height=9, width=12))
    for images, words in (
        (pixels()[..., :1], "the images have 1; .* --set input.channels=1 input.norm"),
        (pixels().permute(0, 3, 1, 2), r"channels lie first: give x.permute\(0, 2, 3, 1\)"),
        (pixels(4, 8, 8), "8 × 8 pixels: the encoder reads 9 × 12; give them to Encoder.embed"),
        (pixels() / 255, "are not uint8"),
    ):
        with pytest.raises(LatentcastError, match=words):
            small(images)
