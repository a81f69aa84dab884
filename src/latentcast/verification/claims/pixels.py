"""Images, from files to what an encoder sees."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import torch

from latentcast.batch import Inputs
from latentcast.config import Config, ImageInput
from latentcast.data import image_preprocess as preprocess
from latentcast.data.fit import fitted
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.data.loader import Loader
from latentcast.evaluation import duplicates
from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.observe.data import Floats, Pixels, is_image, pictures
from latentcast.verification.observe.network import within
from latentcast.verification.observe.rehearsal import once
from latentcast.verification.observe.twin import Subject

OURS = "our design, law 4: physical until the last moment"
MANY = 48
"""Images that are cropped to learn how crops are drawn."""
TOSSES = 512
"""Images that are mirrored or not to learn how often."""


def _input(subject: Subject) -> ImageInput:
    """The twin's input, normalised by the known images."""
    wanted = _config(subject).input
    assert isinstance(wanted, ImageInput)
    return wanted


def _config(subject: Subject) -> Config:
    changes = {"input.normalisation": None, "train.micro_batches": 1}
    return fitted(subject.config.updated(changes), pictures(subject).store)


# Stored and read


def _exact(subject: Subject) -> Evidence:
    held = pictures(subject)
    differing, seen = 0, 0
    for split, images in held.images.items():
        taken = held.store.take(held.rows(split))
        if taken.shape != images.shape:
            return Evidence(False, {"shape": str(taken.shape), "should be": str(images.shape)})
        differing += int((taken != images).sum())
        seen += images.size
    config = _config(subject)
    batch = Loader(held.store, held.rows("train"), config).batch(0).samples.numpy()
    known = {image.tobytes() for image in held.images["train"]}
    strange = sum(np.ascontiguousarray(image).tobytes() not in known for image in batch)
    return Evidence(
        not differing and not strange,
        {"values": seen, "differ": differing, "images of a batch that no file holds": strange},
    )


def _files(subject: Subject) -> Evidence:
    held = pictures(subject)
    written, taken = held.images["train"][:6], held.files.take(range(6))
    if taken.shape != written.shape:
        return Evidence(False, {"shape": str(taken.shape), "should be": str(written.shape)})
    means = [" ".join(f"{v:.1f}" for v in p.mean((0, 1, 2))) for p in (taken, written)]
    differing = int((taken != written).sum())
    told: dict[str, Number] = {"means of the channels": means[0], "of the files": means[1],
                               "values that differ": differing}  # fmt: skip
    return Evidence(not differing, told)


def _splits(subject: Subject) -> Evidence:
    """Those of the source; and none left out."""
    held = pictures(subject)
    told, holds, every = dict[str, Number](), True, list[int]()
    for own, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = held.store.rows(split)
        every += rows.tolist()
        wrong = set(rows.tolist()) ^ set(held.rows(own).tolist())
        told[f"{split}: images"], told[f"{split}: wrong"] = len(rows), len(wrong)
        holds = holds and not wrong
        holds = holds and np.array_equal(held.store.class_ids[held.rows(own)], held.labels[own])
    return Evidence(holds and sorted(every) == list(range(len(held.store))), told)


def _copies(subject: Subject) -> Evidence:
    held = pictures(subject)
    found = duplicates.check(held.leaking, held.store)
    quiet = duplicates.check(held.store)
    kinds = ", ".join(f"{f.kind}: {f.count}" for f in found) or "none"
    told: dict[str, Number] = {"found": kinds, "should be": "test image in pretraining: 1",
                               "said of a clean store": len(quiet)}  # fmt: skip
    return Evidence(kinds == told["should be"] and not quiet, told)


# What an encoder sees


def _naive(images: Pixels) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel, of values from 0 to 1, by the formula."""
    values = images.astype(np.float64) / 255
    mean = values.sum((0, 1, 2)) / (values.size // values.shape[-1])
    spread = ((values - mean) ** 2).sum((0, 1, 2)) / (values.size // values.shape[-1])
    return mean, np.sqrt(spread)


def _statistics(subject: Subject) -> Evidence:
    held = pictures(subject)
    given = _input(subject).normalisation
    assert given is not None
    mean, std = _naive(held.images["train"])
    every = _naive(np.concatenate([*held.images.values()]))
    off = max(float(np.abs(np.array(given.mean) - mean).max()),
              float(np.abs(np.array(given.std) - std).max()))  # fmt: skip
    told: dict[str, Number] = {
        "largest difference": off, "bound": 1e-12, "mean of the first channel": given.mean[0],
        "of the training split": float(mean[0]), "of all images": float(every[0][0]),
        "std": given.std[0], "of the training split, std": float(std[0]),
    }  # fmt: skip
    return Evidence(off <= 1e-12, told)


def _normal(pixels: Floats, subject: Subject) -> Floats:
    """``(n, H, W, C)`` of 0 to 255 as an encoder is to see it, ``(n, C, H, W)``."""
    mean, std = _naive(pictures(subject).images["train"])
    return np.asarray(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2))


def _whole(subject: Subject) -> Evidence:
    """Evaluation: the image as it is, at its own size; twice, and whatever is drawn elsewhere."""
    held = pictures(subject)
    images = held.images["test"]
    reads = ImagePreprocess(_input(subject))
    given = [reads(torch.from_numpy(images.copy())).values.double() for _ in range(2)]
    expected = torch.from_numpy(_normal(images.astype(np.float64), subject))
    if given[0].shape != expected.shape:
        told = {"shape": str(tuple(given[0].shape)), "should be": str(tuple(expected.shape))}
        return Evidence(False, told)
    worst = max(float((one - expected).abs().max()) for one in given)
    return within({"largest difference": (worst, 2e-6 * float(expected.abs().max()))})


# Augmentation. A ramp is mapped by bilinear sampling to a ramp: it tells which box was taken.


def _ramps(subject: Subject, count: int) -> Pixels:
    """Images whose channels say row and column."""
    held = pictures(subject)
    rows = np.arange(held.height)[:, None].repeat(held.width, 1) * (240 // held.height)
    columns = np.arange(held.width)[None].repeat(held.height, 0) * (240 // held.width)
    image = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    return np.repeat(image[None], count, 0)


def _seen(subject: Subject, images: Pixels, draw: Draw | None) -> Floats:
    """What preprocessing gave, back in 0 to 255, ``(n, H, W, C)``."""
    wanted = _input(subject)
    assert wanted.normalisation is not None
    mean, std = np.array(wanted.normalisation.mean), np.array(wanted.normalisation.std)
    given: Inputs = ImagePreprocess(wanted)(torch.from_numpy(images.copy()), draw)
    return np.asarray((given.values.double().permute(0, 2, 3, 1).numpy() * std + mean) * 255)


def _draw(subject: Subject, ids: list[int] | range, step: int = 3, seed: int = 0) -> Draw:
    return Draw(subject.config.train.seed + seed, step, torch.tensor(list(ids)))


def _boxes(subject: Subject, ids: list[int] | range, step: int = 3, seed: int = 0) -> Floats:
    """Top, left, height, width in pixels, and 1 where mirrored, found in what was seen of ramps."""
    held = pictures(subject)
    seen = _seen(subject, _ramps(subject, len(ids)), _draw(subject, ids, step, seed))
    found = []
    for image in seen:
        # Position of each output row in the image; the border, where it is held, is left out.
        rows = image[..., 0].mean(1) / (240 // held.height)
        columns = image[..., 1].mean(0) / (240 // held.width)
        box = []
        for places, extent in ((rows, held.height), (columns, held.width)):
            inner = slice(len(places) // 4, len(places) - len(places) // 4)
            here = np.arange(len(places))[inner]
            slope, start = np.polyfit(here + 0.5, places[inner] + 0.5, 1)
            size = abs(slope) * extent
            box.append((start if slope > 0 else start - size, size, slope))
        (top, tall, _), (left, wide, slope) = box
        found.append([top, left, tall, wide, float(slope < 0)])
    return np.array(found)


def _many(subject: Subject) -> Floats:
    return once(subject, "known boxes", lambda: _boxes(subject, range(MANY)))


def _crops(subject: Subject) -> Evidence:
    wanted, held = _input(subject), pictures(subject)
    assert wanted.crop_scale is not None
    top, left, tall, wide, _ = _many(subject).T
    share = tall * wide / (held.height * held.width)
    ratio = wide / tall
    out = max(-top.min(), -left.min(), (top + tall).max() - held.height,
              (left + wide).max() - held.width)  # fmt: skip
    low, high = wanted.crop_scale
    least, most = wanted.crop_aspect
    told: dict[str, Number] = {
        "pixels outside the image": float(max(0.0, out)), "least share": float(share.min()),
        "largest": float(share.max()), "asked": f"{low} to {high}",
        "least aspect": float(ratio.min()),
        "largest aspect": float(ratio.max()), "asked aspect": f"{least:.3f} to {most:.3f}",
    }  # fmt: skip
    slack = 0.02
    inside = out <= slack * held.height
    sizes = low - slack <= share.min() and share.max() <= high + slack
    middle = (low + high) / 2
    spread = share.min() < middle < share.max()
    for place, room in ((top, held.height - tall), (left, held.width - wide)):
        where = (place / room)[room > 1]
        spread = spread and where.min() < 0.3 and where.max() > 0.7
    shapes = least * (1 - slack) <= ratio.min() and ratio.max() <= most * (1 + slack)
    return Evidence(bool(inside and sizes and spread and shapes), told)


def _mirrored(subject: Subject) -> Evidence:
    """Half of them, and half of them as the one before; and none from top to bottom."""
    seen = _seen(subject, _ramps(subject, TOSSES), _draw(subject, range(TOSSES)))
    mirrored = seen[..., 1].mean(1)[:, 0] > seen[..., 1].mean(1)[:, -1]
    upside = float((seen[:, 0, :, 0].mean(1) > seen[:, -1, :, 0].mean(1)).mean())
    share, alike = float(mirrored.mean()), float((mirrored[1:] == mirrored[:-1]).mean())
    bound = 5 * 0.5 / math.sqrt(TOSSES)  # five standard errors
    holds = abs(share - 0.5) <= bound and abs(alike - 0.5) <= bound and not upside
    told: dict[str, Number] = {
        "share mirrored": share, "alike with the one before": alike,
        "should be": f"0.5 ± {bound:.2f}", "upside down": upside,
    }  # fmt: skip
    return Evidence(bool(holds), told)


def _unmirrored(subject: Subject) -> Evidence:
    """Where a recipe asks for no flip there is none, and without a crop the whole image."""
    wanted = _input(subject)
    images = pictures(subject).images["train"][:12]
    seen = _seen(subject, images, _draw(subject, range(12)))
    expected = images.astype(np.float64)
    if wanted.crop_scale is None:
        gap = float(np.abs(seen - expected).max())
        return within({"largest difference, of 255": (gap, 1e-3)})
    return within({"share mirrored": (float(_many(subject)[:, 4].mean()), 0.0)})


def _function(subject: Subject) -> Evidence:
    """The same draw for each image alone, and others."""
    images = pictures(subject).images["train"][:12]
    first = _seen(subject, images, _draw(subject, range(12)))
    alone = [_seen(subject, images[n : n + 1], _draw(subject, [n]))[0] for n in range(12)]
    same = float(np.abs(np.stack(alone) - first).max())
    twins = np.repeat(images[:1], 12, 0)
    told: dict[str, Number] = {"difference alone and in a batch": same}
    known = _seen(subject, twins, _draw(subject, range(12)))
    others = {
        "another step": _seen(subject, twins, _draw(subject, range(12), step=4)),
        "another seed": _seen(subject, twins, _draw(subject, range(12), seed=1)),
        "another sample": np.roll(known, 1, 0),
    }
    holds = same == 0
    for name, other in others.items():
        changed = int((np.abs(known - other).max((1, 2, 3)) > 0.5).sum())
        told[f"{name}: images that changed, of 12"] = changed
        # Flips alone repeat every other time.
        holds = holds and changed >= (2 if _input(subject).crop_scale is None else 10)
    return Evidence(holds, told)


def _bilinear(subject: Subject) -> Evidence:
    """The crop of an image, pixel by pixel from the box that was drawn; ramps tell it, too."""
    held, wanted = pictures(subject), _input(subject)
    ids = range(6)
    boxes = _boxes(subject, ids)
    assert wanted.crop_scale is not None
    drawn = preprocess.crops(
        _draw(subject, ids), held.height, held.width, wanted.crop_scale, wanted.crop_aspect
    )
    off = float(np.abs(boxes[:, :4] - drawn.double().numpy()).max())
    boxes[:, :4] = drawn.double().numpy()
    images = held.images["train"][:6]
    seen = _seen(subject, images, _draw(subject, ids))
    worst = 0.0
    for image, out, (top, left, tall, wide, mirrored) in zip(images, seen, boxes, strict=True):
        for row in range(0, held.height, max(1, held.height // 6)):
            for column in range(0, held.width, max(1, held.width // 6)):
                across = held.width - 1 - column if mirrored else column
                y = top + (row + 0.5) * tall / held.height - 0.5
                x = left + (across + 0.5) * wide / held.width - 0.5
                worst = max(worst, float(np.abs(out[row, column] - _at(image, y, x)).max()))
    return within({"largest difference, of 255": (worst, 0.2),
                   "box off by, pixels": (off, 0.02)}, pixels=6 * 36)  # fmt: skip


def _at(image: Pixels, y: float, x: float) -> Floats:
    """Linear between the four centres around a place, the border repeated."""
    y, x = min(max(y, 0.0), image.shape[0] - 1), min(max(x, 0.0), image.shape[1] - 1)
    above, before = math.floor(y), math.floor(x)
    below, after = min(above + 1, image.shape[0] - 1), min(before + 1, image.shape[1] - 1)
    down, right = y - above, x - before
    wide = image.astype(np.float64)
    upper = (1 - right) * wide[above, before] + right * wide[above, after]
    lower = (1 - right) * wide[below, before] + right * wide[below, after]
    return np.asarray((1 - down) * upper + down * lower)


def _crops_are_drawn(subject: Subject) -> bool:
    wanted = subject.config.input
    return isinstance(wanted, ImageInput) and wanted.crop_scale is not None and wanted.channels == 3


def _flips(subject: Subject) -> bool:
    wanted = subject.config.input
    return isinstance(wanted, ImageInput) and wanted.flip and wanted.channels == 3


def _upright(subject: Subject) -> bool:
    wanted = subject.config.input
    return isinstance(wanted, ImageInput) and not wanted.flip


def _augments(subject: Subject) -> bool:
    wanted = subject.config.input
    return isinstance(wanted, ImageInput) and (wanted.crop_scale is not None or wanted.flip)


def _decodes(subject: Subject) -> bool:
    return is_image(subject) and find_spec("PIL") is not None


CLAIMS: tuple[Claim, ...] = (
    Claim("image.exact", "Pixels are kept as they are, from the file to the batch.", OURS, _exact,
          is_image),
    Claim("image.files", "An image file comes out as its pixels, red first.", OURS, _files,
          _decodes),
    Claim("image.splits", "Splits and labels are those of the source; none is left out.", OURS,
          _splits, is_image),
    Claim("image.copies", "A test image that was pretrained on is found.",
          "specification, defect 15", _copies, is_image),
    Claim("image.statistics", "Mean and deviation are those of all pixels of the training split, "
          "and of no others.", "specification, defect 12", _statistics, is_image),
    Claim("image.whole", "In evaluation an encoder sees the whole image, upright, as "
          "(pixel / 255 − mean) / std per channel.", "I-JEPA: no augmentation in evaluation",
          _whole, is_image),
    Claim("image.crop", "Crops lie inside the image, with the shares of its area and the aspects "
          "that are asked for.", "I-JEPA: random-resized crops of 0.3 to 1", _crops,
          _crops_are_drawn),
    Claim("image.bilinear", "A crop is what bilinear sampling of its box gives.", OURS, _bilinear,
          _crops_are_drawn),
    Claim("image.flip", "Half of the images are mirrored, each by itself.", OURS, _mirrored,
          _flips),
    Claim("image.as-asked", "Nothing is mirrored, and nothing cropped, where it is not asked for.",
          "I-JEPA: no flip", _unmirrored, _upright),
    Claim("image.by-draw", "Crop and flip are a function of seed, step and sample.",
          "our design, law 1: the state is the step", _function, _augments),
)  # fmt: skip
