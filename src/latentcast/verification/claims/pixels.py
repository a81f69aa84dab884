"""Images, from files to what an encoder sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch

from latentcast.batch import Inputs
from latentcast.config import Config, ImageInput
from latentcast.data import image_preprocess
from latentcast.data.fit import fitted
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.data.loader import Loader
from latentcast.evaluation import leaks
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest, true
from latentcast.verification.observe.network import furthest
from latentcast.verification.observe.pictures import Pixels, is_image, pictures
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 4: physical until the last moment"
MANY = 48
"""Images that are cropped to learn how crops are drawn."""
TOSSES = 512
"""Images that are mirrored or not to learn how often."""
SLACK = 0.02
"""Relative; a box is found from pixels of 8 bits."""
Floats = npt.NDArray[np.float64]


def _input(twin: Twin) -> ImageInput:
    """The twin's input, normalised by the fixtures."""
    shape = _config(twin).input
    assert isinstance(shape, ImageInput)
    return shape


def _config(twin: Twin) -> Config:
    changes = {"input.normalisation": None, "train.micro_batches": 1}
    return fitted(twin.config.updated(changes), pictures(twin).store)


@claim("image.exact", "Pixels are kept as they are, from the file to the batch.",
       source=OURS, about=is_image)  # fmt: skip
def exact(twin: Twin) -> Evidence:
    fixtures, parts = pictures(twin), list[Evidence]()
    for split, images in fixtures.images.items():
        parts.append(_same_pixels(split, fixtures.store.take(fixtures.rows(split)), images))
    loader = Loader(fixtures.store, fixtures.rows("train"), _config(twin))
    written = {image.tobytes() for image in fixtures.images["train"]}
    strange = sum(image.tobytes() not in written for image in loader.batch(0).samples.numpy())
    return all_of(*parts, equal("images of a batch that no file has", strange, 0))


def _same_pixels(name: str, taken: Pixels, written: Pixels) -> Evidence:
    if taken.shape != written.shape:
        return equal(f"{name}: shape", str(taken.shape), str(written.shape))
    return equal(f"{name}: values that differ", int((taken != written).sum()), 0)


@claim("image.files", "An image file comes out as its pixels, red first.",
       source=OURS, about=lambda twin: is_image(twin) and find_spec("PIL") is not None)  # fmt: skip
def files(twin: Twin) -> Evidence:
    fixtures = pictures(twin)
    written, taken = fixtures.images["train"][:6], fixtures.files.take(range(6))
    means = [" ".join(f"{v:.1f}" for v in p.mean((0, 1, 2))) for p in (taken, written)]
    return all_of(
        _same_pixels("files", taken, written),
        means_of_the_channels=means[0], of_the_files=means[1],
    )  # fmt: skip


@claim("image.splits", "Splits and labels are those of the source; none is left out.",
       source=OURS, about=is_image)  # fmt: skip
def splits(twin: Twin) -> Evidence:
    fixtures, parts, every = pictures(twin), list[Evidence](), list[int]()
    for own, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = fixtures.store.rows(split)
        every += rows.tolist()
        labels = np.array_equal(fixtures.store.class_ids[fixtures.rows(own)], fixtures.labels[own])
        strange = set(rows.tolist()) ^ set(fixtures.rows(own).tolist())
        parts.append(equal(f"{split}: images of another", len(strange), 0))
        parts.append(true(f"{split}: labels", labels))
    return all_of(*parts, true("none left out", sorted(every) == list(range(len(fixtures.store)))))


@claim("image.copies", "A test image that was pretrained on is found.",
       source="specification, defect 15", about=is_image)  # fmt: skip
def copies(twin: Twin) -> Evidence:
    fixtures = pictures(twin)
    # Some of the fixtures resemble each other, which is a warning and no copy.
    leaking, clean = (
        [finding for finding in leaks.check(*stores) if finding.severity == "error"]
        for stores in ((fixtures.leaking, fixtures.store), (fixtures.store,))
    )
    found = ", ".join(f"{finding.kind}: {finding.count}" for finding in leaking)
    return all_of(
        equal("found", found, "test image in pretraining: 1"),
        equal("found in a clean store", len(clean), 0),
    )


def _naive(images: Pixels) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel, of values from 0 to 1, by the formula."""
    values = images.astype(np.float64) / 255
    mean = values.sum((0, 1, 2)) / (values.size // values.shape[-1])
    spread = ((values - mean) ** 2).sum((0, 1, 2)) / (values.size // values.shape[-1])
    return mean, np.sqrt(spread)


@claim("image.statistics", "Mean and deviation are those of all pixels of the training split, and "
       "of no others.", source="specification, defect 12", about=is_image)  # fmt: skip
def statistics(twin: Twin) -> Evidence:
    fixtures, used = pictures(twin), _input(twin).normalisation
    assert used is not None
    mean, std = _naive(fixtures.images["train"])
    every = _naive(np.concatenate([*fixtures.images.values()]))[0]
    return all_of(
        at_most("largest difference of a mean", float(np.abs(np.array(used.mean) - mean).max()),
                1e-12),
        at_most("of a deviation", float(np.abs(np.array(used.std) - std).max()), 1e-12),
        mean_of_the_first_channel=used.mean[0], of_all_images=float(every[0]),
    )  # fmt: skip


@claim("image.whole", "In evaluation an encoder sees the whole image, upright, as (pixel / 255 − "
       "mean) / std per channel.",
       source="I-JEPA: no augmentation in evaluation", about=is_image)  # fmt: skip
def evaluated(twin: Twin) -> Evidence:
    """Twice, and whatever is drawn elsewhere."""
    images = pictures(twin).images["test"]
    preprocess = ImagePreprocess(_input(twin))
    twice = [preprocess(torch.from_numpy(images.copy())).values.double() for _ in range(2)]
    mean, std = _naive(pictures(twin).images["train"])
    normal = ((images.astype(np.float64) / 255 - mean) / std).transpose(0, 3, 1, 2)
    expected = torch.from_numpy(np.ascontiguousarray(normal))
    return at_most(
        "largest difference", greatest(*(furthest(one, expected) for one in twice)), 2e-6
    )


def _ramps(twin: Twin, count: int) -> Pixels:
    """Images whose channels are row and column. Bilinear sampling maps a ramp to a ramp, and its
    slope and start give the box that was cropped."""
    fixtures = pictures(twin)
    rows = np.arange(fixtures.height)[:, None].repeat(fixtures.width, 1) * (240 // fixtures.height)
    columns = np.arange(fixtures.width)[None].repeat(fixtures.height, 0) * (240 // fixtures.width)
    image = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    return np.repeat(image[None], count, 0)


def _augmented(twin: Twin, images: Pixels, draw: Draw | None) -> Floats:
    """What preprocessing makes of images, back in 0 to 255, ``(n, H, W, C)``."""
    shape = _input(twin)
    assert shape.normalisation is not None
    mean, std = np.array(shape.normalisation.mean), np.array(shape.normalisation.std)
    inputs: Inputs = ImagePreprocess(shape)(torch.from_numpy(images.copy()), draw)
    return np.asarray((inputs.values.double().permute(0, 2, 3, 1).numpy() * std + mean) * 255)


def _draw(twin: Twin, ids: list[int] | range, step: int = 3, seed: int = 0) -> Draw:
    return Draw(twin.config.train.seed + seed, step, torch.tensor(list(ids)))


def _boxes(twin: Twin, ids: list[int] | range) -> Floats:
    """Top, left, height, width in pixels, and 1 where mirrored, found in augmented ramps."""
    fixtures = pictures(twin)
    found = []
    for image in _augmented(twin, _ramps(twin, len(ids)), _draw(twin, ids)):
        # Position of each output row in the image; the border, which is repeated, is left out.
        rows = image[..., 0].mean(1) / (240 // fixtures.height)
        columns = image[..., 1].mean(0) / (240 // fixtures.width)
        box = []
        for places, extent in ((rows, fixtures.height), (columns, fixtures.width)):
            inner = slice(len(places) // 4, len(places) - len(places) // 4)
            here = np.arange(len(places))[inner]
            slope, start = np.polyfit(here + 0.5, places[inner] + 0.5, 1)
            size = abs(slope) * extent
            box.append((start if slope > 0 else start - size, size, slope))
        (top, tall, _), (left, wide, slope) = box
        found.append([top, left, tall, wide, float(slope < 0)])
    return np.array(found)


def _many(twin: Twin) -> Floats:
    return twin.once("boxes", lambda: _boxes(twin, range(MANY)))


def _where(chosen: Callable[[ImageInput], bool]) -> Callable[[Twin], bool]:
    """Twins of images whose input is configured so."""
    return lambda twin: isinstance(twin.config.input, ImageInput) and chosen(twin.config.input)


_is_cropped = _where(lambda shape: shape.crop_scale is not None and shape.channels == 3)


@claim("image.crop", "Crops lie inside the image, with the shares of its area and the aspects "
       "that the configuration gives.",
       source="I-JEPA: random-resized crops of 0.3 to 1", about=_is_cropped)  # fmt: skip
def crop(twin: Twin) -> Evidence:
    shape, fixtures = _input(twin), pictures(twin)
    assert shape.crop_scale is not None
    top, left, tall, wide, _ = _many(twin).T
    share, ratio = tall * wide / (fixtures.height * fixtures.width), wide / tall
    outside = max(-top.min(), -left.min(), (top + tall).max() - fixtures.height,
                  (left + wide).max() - fixtures.width)  # fmt: skip
    (low, high), (least, most) = shape.crop_scale, shape.crop_aspect
    parts = [
        at_most("pixels outside the image", float(outside), SLACK * fixtures.height),
        above("least share", float(share.min()), low - SLACK),
        at_most("largest share", float(share.max()), high + SLACK),
        above("least aspect", float(ratio.min()), least * (1 - SLACK)),
        at_most("largest aspect", float(ratio.max()), most * (1 + SLACK)),
        above("share beside the middle of its range",
              float(min((low + high) / 2 - share.min(), share.max() - (low + high) / 2)), 0.0),
    ]  # fmt: skip
    for name, place, room in (
        ("top", top, fixtures.height - tall),
        ("left", left, fixtures.width - wide),
    ):
        where = (place / room)[room > 1]
        parts.append(at_most(f"least {name}, of the room", float(where.min()), 0.3))
        parts.append(above(f"largest {name}, of the room", float(where.max()), 0.7))
    return all_of(*parts)


@claim("image.bilinear", "A crop is what bilinear sampling of its box gives.",
       source=OURS, about=_is_cropped)  # fmt: skip
def bilinear(twin: Twin) -> Evidence:
    """Pixel by pixel from the box that was drawn; ramps give the same box."""
    fixtures, shape, ids = pictures(twin), _input(twin), range(6)
    boxes = _boxes(twin, ids)
    assert shape.crop_scale is not None
    drawn = image_preprocess.crops(
        _draw(twin, ids), fixtures.height, fixtures.width, shape.crop_scale, shape.crop_aspect
    )
    off = float(np.abs(boxes[:, :4] - drawn.double().numpy()).max())
    boxes[:, :4] = drawn.double().numpy()
    images = fixtures.images["train"][:6]
    augmented = _augmented(twin, images, _draw(twin, ids))
    worst = 0.0
    for image, out, (top, left, tall, wide, mirrored) in zip(images, augmented, boxes, strict=True):
        for row in range(0, fixtures.height, max(1, fixtures.height // 6)):
            for column in range(0, fixtures.width, max(1, fixtures.width // 6)):
                across = fixtures.width - 1 - column if mirrored else column
                y = top + (row + 0.5) * tall / fixtures.height - 0.5
                x = left + (across + 0.5) * wide / fixtures.width - 0.5
                worst = greatest(worst, float(np.abs(out[row, column] - _at(image, y, x)).max()))
    return all_of(
        at_most("largest difference, of 255", worst, 0.2),
        at_most("box off by, pixels", off, 0.02),
    )


def _at(image: Pixels, y: float, x: float) -> Floats:
    """Linear between the four centres around a place, the border repeated."""
    y, x = min(max(y, 0.0), image.shape[0] - 1), min(max(x, 0.0), image.shape[1] - 1)
    upper, before = math.floor(y), math.floor(x)
    lower, after = min(upper + 1, image.shape[0] - 1), min(before + 1, image.shape[1] - 1)
    down, right = y - upper, x - before
    wide = image.astype(np.float64)
    first = (1 - right) * wide[upper, before] + right * wide[upper, after]
    second = (1 - right) * wide[lower, before] + right * wide[lower, after]
    return np.asarray((1 - down) * first + down * second)


@claim("image.flip", "Half of the images are mirrored, each by itself.", source=OURS,
       about=_where(lambda shape: shape.flip and shape.channels == 3))  # fmt: skip
def flip(twin: Twin) -> Evidence:
    augmented = _augmented(twin, _ramps(twin, TOSSES), _draw(twin, range(TOSSES)))
    mirrored = augmented[..., 1].mean(1)[:, 0] > augmented[..., 1].mean(1)[:, -1]
    upside = float((augmented[:, 0, :, 0].mean(1) > augmented[:, -1, :, 0].mean(1)).mean())
    share, alike = float(mirrored.mean()), float((mirrored[1:] == mirrored[:-1]).mean())
    bound = 5 * 0.5 / math.sqrt(TOSSES)  # five standard errors
    return all_of(
        at_most("share mirrored, from a half", abs(share - 0.5), bound),
        at_most("share alike with the one before, from a half", abs(alike - 0.5), bound),
        at_most("upside down", upside, 0.0),
    )


@claim("image.as-asked", "Nothing is mirrored, and nothing cropped, where the configuration does "
       "not say so.", source="I-JEPA: no flip",
       about=_where(lambda shape: not shape.flip))  # fmt: skip
def unaugmented(twin: Twin) -> Evidence:
    if _input(twin).crop_scale is not None:
        return at_most("share mirrored", float(_many(twin)[:, 4].mean()), 0.0)
    images = pictures(twin).images["train"][:12]
    augmented = _augmented(twin, images, _draw(twin, range(12)))
    gap = float(np.abs(augmented - images.astype(np.float64)).max())
    return at_most("largest difference, of 255", gap, 1e-3)


@claim("image.by-draw", "Crop and flip are a function of seed, step and sample.",
       source="our design, law 1: the state is the step",
       about=_where(lambda shape: shape.crop_scale is not None or shape.flip))  # fmt: skip
def by_draw(twin: Twin) -> Evidence:
    """The same draw for each image alone, and others."""
    images = pictures(twin).images["train"][:12]
    batch = _augmented(twin, images, _draw(twin, range(12)))
    alone = [_augmented(twin, images[n : n + 1], _draw(twin, [n]))[0] for n in range(12)]
    twelve = np.repeat(images[:1], 12, 0)
    first = _augmented(twin, twelve, _draw(twin, range(12)))
    others = {
        "another step": _augmented(twin, twelve, _draw(twin, range(12), step=4)),
        "another seed": _augmented(twin, twelve, _draw(twin, range(12), seed=1)),
        "another sample": np.roll(first, 1, 0),
    }
    # Flips alone repeat every other time.
    least = 1 if _input(twin).crop_scale is None else 9
    return all_of(
        at_most("difference alone and in a batch", float(np.abs(np.stack(alone) - batch).max()),
                0.0),
        *(above(f"{name}: images of 12 that change",
                int((np.abs(first - other).max((1, 2, 3)) > 0.5).sum()), least)
          for name, other in others.items()),
    )  # fmt: skip
