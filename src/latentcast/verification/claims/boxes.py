"""Images as they are cropped, resized and coloured: each pixel from its draw, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import ImageAugmentation, ImageInput
from latentcast.config.inputs import Normalisation
from latentcast.data.image_augment import ImageAugment
from latentcast.data.image_preprocess import ImagePreprocess, crops, resized, sample_boxes
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest, true
from latentcast.verification.observe.pictures import is_image
from latentcast.verification.observe.recordings import Floats
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 1: the state is the step"
COUNT = 12
NEEDS = is_image


def _draw(twin: Twin) -> Draw:
    return Draw(twin.seed, 11, torch.arange(COUNT) * 3 + 7)


def _noise(twin: Twin, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(twin.seed))


def _image(channels: int = 3, **changed: Any) -> ImageInput:
    own: dict[str, Any] = {
        "height": 12, "width": 10, "channels": channels,
        "normalisation": Normalisation(mean=(0.3, 0.4, 0.5)[:channels],
                                       std=(0.2, 0.25, 0.3)[:channels]),
    }  # fmt: skip
    return ImageInput(**(own | changed))


def _boxes(
    draw: Draw, height: int, width: int, scale: tuple[float, float], aspect: tuple[float, float]
) -> Floats:
    """Of each sample from its four numbers: area, aspect, row and column."""
    names = ("crop area", "crop aspect", "crop row", "crop column")
    rows, image = [], width / height
    for area, turn, down, right in zip(*(draw.for_samples(n).double().tolist() for n in names),
                                       strict=True):  # fmt: skip
        most = min(1.0, aspect[1] / image, image / aspect[0])
        low, high = min(scale[0], most), min(scale[1], most)
        share = low + (high - low) * area
        narrow = math.log(max(share * image, aspect[0]))
        broad = math.log(min(image / share, aspect[1]))
        ratio = math.exp(narrow + (broad - narrow) * turn)
        tall = min(math.sqrt(share * height * width / ratio), height)
        wide = min(math.sqrt(share * height * width * ratio), width)
        rows.append((down * (height - tall), right * (width - wide), tall, wide))
    return np.array(rows)


def _sampled(images: Floats, boxes: Floats, mirrored: Any, height: int, width: int) -> Floats:
    """A pixel at a time between its four neighbours, the border repeated."""
    out = np.zeros((len(images), height, width, images.shape[3]))
    for n, (top, left, tall, wide) in enumerate(boxes.tolist()):
        for i in range(height):
            for j in range(width):
                across = width - 1 - j if mirrored[n] else j
                y = min(max(top + (i + 0.5) * tall / height - 0.5, 0.0), images.shape[1] - 1)
                x = min(max(left + (across + 0.5) * wide / width - 0.5, 0.0), images.shape[2] - 1)
                a, b = int(y), int(x)
                c, d = min(a + 1, images.shape[1] - 1), min(b + 1, images.shape[2] - 1)
                v, u, im = y - a, x - b, images[n]
                out[n, i, j] = (1 - v) * ((1 - u) * im[a, b] + u * im[a, d]) + v * (
                    (1 - u) * im[c, b] + u * im[c, d]
                )
    return out


def _resized(image: Floats, height: int, width: int) -> Floats:
    """The largest middle of a shape, by the cubic kernel of Keys (a = -0.5), widened to shrink."""
    tall, wide = image.shape[:2]
    if wide * height > tall * width:
        keep = tall * width / height
        image = image[:, round((wide - keep) / 2) : round((wide - keep) / 2 + keep)]
    else:
        keep = wide * height / width
        image = image[round((tall - keep) / 2) : round((tall - keep) / 2 + keep)]

    def kernel(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    for axis, size in ((0, height), (1, width)):
        step = image.shape[axis] / size
        matrix = np.array(
            [
                [
                    kernel((k + 0.5 - (n + 0.5) * step) / max(step, 1.0))
                    for k in range(image.shape[axis])
                ]
                for n in range(size)
            ]
        )
        matrix /= matrix.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis)
    return np.clip(image, 0, 255)


@claim("image.boxes", "What a network reads of an image is the box that was drawn, bilinear and "
       "mirrored by its draw, or the middle of the image resized as ingest does it; then value / "
       "255 less the mean over the deviation; other images are refused by their fix.",
       source=OURS)  # fmt: skip
def boxes(twin: Twin) -> Evidence:
    """Image by image and pixel by pixel in float64, for wide, high and square images."""
    draw, parts = _draw(twin), list[Evidence]()
    generator = np.random.default_rng(twin.seed)
    off = 0.0
    for height, width in ((12, 10), (5, 40), (33, 7), (16, 16)):
        for scale in ((0.3, 1.0), (0.05, 0.1), (1.0, 1.0)):
            found = crops(draw, height, width, scale, (0.75, 4 / 3)).double().numpy()
            own = _boxes(draw, height, width, scale, (0.75, 4 / 3))
            off = greatest(off, float(np.abs(found - own).max()))
    images = generator.integers(0, 256, (COUNT, 12, 10, 3)).astype(np.uint8)
    mirrored = draw.for_samples("flip").numpy() < 0.5
    never = np.zeros(COUNT, bool)
    uncut = np.tile([0.0, 0.0, 12.0, 10.0], (COUNT, 1))
    drawn = _boxes(draw, 12, 10, (0.3, 1.0), (0.75, 4 / 3))
    ways: dict[str, tuple[dict[str, Any], Draw | None, Floats, npt.NDArray[np.bool_]]] = {
        "cropped and mirrored": ({"crop_scale": (0.3, 1.0), "flip": True}, draw, drawn, mirrored),
        "cropped": ({"crop_scale": (0.3, 1.0), "flip": False}, draw, drawn, never),
        "mirrored": ({"crop_scale": None, "flip": True}, draw, uncut, mirrored),
        "as it is": ({"crop_scale": None, "flip": False}, draw, uncut, never),
        "in evaluation": ({"crop_scale": (0.3, 1.0), "flip": True}, None, uncut, never),
    }  # fmt: skip
    for name, (settings, chosen, box, flipped) in ways.items():
        shape = _image(**settings)
        assert shape.normalisation is not None
        read = ImagePreprocess(shape)(torch.from_numpy(images.copy()), chosen).values
        sampled = _sampled(images.astype(np.float64), box, flipped, 12, 10) / 255
        normal = (sampled - shape.normalisation.mean) / shape.normalisation.std
        gap = np.abs(read.permute(0, 2, 3, 1).double().numpy() - normal).max()
        parts.append(at_most(f"{name}: largest difference", float(gap), 1e-4))
    smaller = sample_boxes(torch.from_numpy(images), torch.tensor(drawn).float(),
                           torch.tensor(mirrored), 5, 7)  # fmt: skip
    gap = np.abs(
        smaller.double().numpy() - _sampled(images.astype(np.float64), drawn, mirrored, 5, 7)
    )
    middles = 0.0
    for height, width, to in (
        (20, 31, (12, 10)),
        (31, 20, (12, 10)),
        (6, 5, (12, 10)),
        (24, 40, (8, 8)),
    ):
        photo = generator.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
        scaled = resized(torch.from_numpy(photo), *to).double().numpy()
        own = np.stack([_resized(one.astype(np.float64), *to) for one in photo])
        middles = greatest(middles, float(np.abs(scaled - own).max()))
    cropped = ImagePreprocess(_image(crop_scale=(0.3, 1.0)))
    read_whole = ImagePreprocess(_image(crop_scale=None))
    bytes_of = torch.from_numpy(images)
    cases: dict[str, Case] = {
        "no statistics": (lambda: ImagePreprocess(_image(normalisation=None)), "is not set"),
        "floats": (lambda: read_whole(bytes_of.float()), "are not uint8"),
        "one image": (lambda: read_whole(bytes_of[0]), "are not uint8"),
        "channels first": (
            lambda: read_whole(bytes_of.permute(0, 3, 1, 2)),
            "the channels lie first",
        ),
        "grey": (lambda: read_whole(bytes_of[..., :1]), "input.channels=1"),
        "a row less": (
            lambda: read_whole(bytes_of[:, 1:]),
            "images of 11 × 10 pixels: the encoder",
        ),
        "a column less": (lambda: read_whole(bytes_of[:, :, 1:]), "images of 12 × 9 pixels"),
    }
    return all_of(
        at_most("boxes, pixels apart", off, 1e-4),
        *parts,
        at_most("to another size, of 255", float(gap.max()), 1e-2),
        at_most("resized, of 255", middles, 1e-2),
        refusals(
            cases, {"whole": lambda: read_whole(bytes_of), "cropped": lambda: cropped(bytes_of)}
        ),
    )


@claim(
    "views.pictures",
    "A view of an image is the box and the mirror of its draw, at the size of a view; the clean "
    "crop beside it is the same without other colours.",
    source=OURS,
)
def view_of_images(twin: Twin) -> Evidence:
    """Pixel by pixel, of one and of three channels, mirrored and not."""
    draw, parts = _draw(twin), list[Evidence]()
    for channels, flip, grey, size in (
        (3, True, 0.3, None),
        (1, False, 0.0, 7),
        (2, True, 0.3, 15),
    ):
        shape = _image(min(channels, 3), normalisation=None)
        settings = ImageAugmentation(flip=flip, grey=grey, crop_scale=(0.4, 0.9), size=size)
        augment = ImageAugment(settings, shape)
        pixels = _noise(twin, COUNT, channels, 12, 10).mul(0.2).add(0.5).clamp(0, 1)
        found = augment(Inputs(pixels, torch.ones_like(pixels, dtype=torch.bool)), draw)
        mirrored = (draw.for_samples("view flip") < (0.5 if flip else 0)).numpy()
        box = _boxes(draw, 12, 10, (0.4, 0.9), (0.75, 4 / 3))
        tall, wide = (12, 10) if size is None else (size, size)
        clean = _sampled(pixels.permute(0, 2, 3, 1).double().numpy(), box, mirrored, tall, wide)
        drawn = [draw.for_samples(f"view {name}").double().tolist() for name in
                 ("brightness", "contrast", "saturation", "grey")]  # fmt: skip
        weights = np.array([0.299, 0.587, 0.114] if channels == 3 else [1 / channels] * channels)
        expected = clean.copy()
        for one, light, contrast, colour, chance in zip(expected, *drawn, strict=True):
            one *= 1 + 0.2 * (2 * light - 1)
            middle = float((one * weights).sum(-1).mean())
            one[:] = middle + (1 + 0.2 * (2 * contrast - 1)) * (one - middle)
            luma = (one * weights).sum(-1, keepdims=True)
            kept = 0.0 if chance < grey else 1 + 0.2 * (2 * colour - 1)
            one[:] = np.clip(luma + kept * (one - luma), 0, 1)
        assert found.clean is not None
        if found.values.shape[2:] != (tall, wide):
            return all_of(equal("size of a view", str(tuple(found.values.shape[2:])),
                                str((tall, wide))))  # fmt: skip
        gaps = [float(np.abs(a.permute(0, 2, 3, 1).double().numpy() - b).max()) for a, b in
                ((found.clean, clean), (found.values, expected))]  # fmt: skip
        parts.append(at_most(f"{channels} channels: largest difference", greatest(*gaps), 1e-5))
        parts.append(true(f"{channels} channels: all is valid", found.valid is None))
    scaled = ImageAugment(ImageAugmentation(), _image(3))
    own = _image(3).normalisation
    assert own is not None
    gap = float((scaled.mean - torch.tensor(own.mean)).abs().max())
    return all_of(*parts, at_most("mean that is taken off", gap, 1e-7))
