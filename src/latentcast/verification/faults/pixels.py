"""Bugs between an image's file and what an encoder sees of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import ImageInput
from latentcast.data import convert
from latentcast.data import image_preprocess as preprocess
from latentcast.data.codecs import pixels
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.data.statistics import ChannelSums
from latentcast.data.store import Store
from latentcast.evaluation import duplicates
from latentcast.images import decode
from latentcast.images.arrays import ImageArrays
from latentcast.randomness import Draw
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.data import is_image
from latentcast.verification.observe.twin import Subject

CLASSIC = "a classic"


def _swapped(
    owner: Any, name: str, make: Callable[[Any], Any]
) -> Callable[[], AbstractContextManager[None]]:
    return lambda: replaced(owner, name, make)


def _blue_first(was: Any) -> Any:
    return lambda *args: np.ascontiguousarray(was(*args)[..., ::-1])


def _inputs(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """What preprocessing gave, changed."""

    def make(was: Any) -> Any:
        return lambda self, samples, draw=None: Inputs(change(was(self, samples, draw).values))

    return make


def _undivided(was: Any) -> Any:
    """0 to 255 is normalised by statistics of 0 to 1."""

    def call(self: ImagePreprocess, samples: Tensor, draw: Draw | None = None) -> Inputs:
        values = was(self, samples, draw).values
        std, mean = self.std[:, None, None], self.mean[:, None, None]
        return Inputs(((values * std + mean) * 255 - mean) / std)

    return call


def _always_augmented(was: Any) -> Any:
    def call(self: ImagePreprocess, samples: Tensor, draw: Draw | None = None) -> Inputs:
        made: Inputs = was(self, samples, draw or Draw(0, 0, torch.arange(len(samples))))
        return made

    return call


def _always_mirrored(was: Any) -> Any:
    def sample(samples: Tensor, boxes: Tensor, mirrored: Tensor, height: int, width: int) -> Tensor:
        drawn: Tensor = was(samples, boxes, torch.ones_like(mirrored), height, width)
        return drawn

    return sample


def _one_flip(was: Any) -> Any:
    """One toss for all of a batch."""

    def draw(self: Draw, stream: str) -> Tensor:
        tossed: Tensor = was(self, stream)
        return tossed[:1].expand(len(tossed)) if stream == "flip" else tossed

    return draw


def _rarely(was: Any) -> Any:
    def draw(self: Draw, stream: str) -> Tensor:
        tossed: Tensor = was(self, stream)
        return 1.5 * tossed if stream == "flip" else tossed

    return draw


def _crop(change: Callable[..., Tensor]) -> Callable[[Any], Any]:
    """``crops`` is ``change(was, draw, height, width, scale, aspect)``."""
    return lambda was: lambda *args: change(was, *args)


def _one_box(was: Any, *args: Any) -> Tensor:
    boxes: Tensor = was(*args)
    return boxes[:1].expand(len(boxes), -1)


def _same_each_step(was: Any, draw: Draw, *args: Any) -> Tensor:
    boxes: Tensor = was(replace(draw, step=0), *args)
    return boxes


def _cropped(was: Any) -> Any:
    """In training a share of 0.3 to 1 is kept, whatever is asked for."""

    def call(self: ImagePreprocess, samples: Tensor, draw: Draw | None = None) -> Inputs:
        own = self.config
        if draw is not None:
            self.config = own.model_copy(update={"crop_scale": (0.3, 1.0)})
        made: Inputs = was(self, samples, draw)
        self.config = own
        return made

    return call


def _any_share(was: Any, draw: Draw, height: int, width: int, scale: Any, aspect: Any) -> Tensor:
    boxes: Tensor = was(draw, height, width, (0.08, 1.0), aspect)
    return boxes


def _central(was: Any, draw: Draw, height: int, width: int, *args: Any) -> Tensor:
    boxes: Tensor = was(draw, height, width, *args).clone()
    boxes[:, 0], boxes[:, 1] = (height - boxes[:, 2]) / 2, (width - boxes[:, 3]) / 2
    return boxes


def _corners(was: Any) -> Any:
    """The first and last centre are put on the edges of the box (``align_corners``)."""

    def centres(start: Tensor, extent: Tensor, count: int, limit: int) -> Tensor:
        steps = torch.arange(count) / max(1, count - 1)
        return (start[:, None] + steps * (extent - 1)[:, None]).clamp(0, limit - 1)

    return centres


def _squared(was: Any) -> Any:
    def statistics(self: Any) -> Any:
        told = was(self)
        return told.model_copy(update={"std": tuple(s and s * s for s in told.std)})

    return statistics


def _validation_too(was: Any) -> Any:
    def rows(self: Any, split: str) -> Any:
        if split != "train":
            return was(self, split)
        return np.sort(np.concatenate([was(self, "train"), was(self, "validation")]))

    return rows


def _colour(subject: Subject) -> bool:
    return is_image(subject) and subject.config.input.channels == 3


def _has_pillow(subject: Subject) -> bool:
    return is_image(subject) and find_spec("PIL") is not None


def _decoded(subject: Subject) -> bool:
    return _colour(subject) and _has_pillow(subject)


def _as_they_are(subject: Subject) -> bool:
    wanted = subject.config.input
    return isinstance(wanted, ImageInput) and wanted.crop_scale is None and not wanted.flip


def _crops(subject: Subject) -> bool:
    wanted = subject.config.input
    return isinstance(wanted, ImageInput) and wanted.crop_scale is not None and wanted.channels == 3


def _flips(subject: Subject) -> bool:
    wanted = subject.config.input
    return isinstance(wanted, ImageInput) and wanted.flip and wanted.channels == 3


def _crops_only(subject: Subject) -> bool:
    return _crops(subject) and not _flips(subject)


FAULTS: tuple[Fault, ...] = (
    Fault("image.blue-first", "Arrays are taken for BGR.", CLASSIC,
          _swapped(ImageArrays, "read", _blue_first), ("image.exact",), _colour),
    Fault("image.blue-first-files", "Image files are decoded as BGR.", CLASSIC,
          _swapped(decode, "_fit", _blue_first), ("image.files",), _decoded),
    Fault("image.lossy", "Pixels lose their last bit on the way into the store.", CLASSIC,
          _swapped(pixels, "fit", lambda was: lambda *args: was(*args) & 0xFE),
          ("image.exact",), is_image),
    Fault("image.lossy-files", "Pixels of image files lose their last bit.", CLASSIC,
          _swapped(decode, "_fit", lambda was: lambda *args: was(*args) & 0xFE),
          ("image.files",), _has_pillow),
    Fault("image.axes-swapped", "Rows and columns are exchanged.", CLASSIC,
          _swapped(ImagePreprocess, "__call__", _inputs(lambda values: values.transpose(2, 3))),
          ("image.whole",), is_image),
    Fault("image.undivided", "Pixels of 0 to 255 are normalised by statistics of 0 to 1.",
          CLASSIC, _swapped(ImagePreprocess, "__call__", _undivided), ("image.whole",), is_image),
    Fault("image.statistics-of-all", "Statistics are taken over all splits.",
          "specification, defect 12",
          _swapped(convert, "SPLITS", lambda was: was | {"train": tuple(range(1, 11))}),
          ("image.statistics",), is_image),
    Fault("image.variance-for-deviation", "The variance is divided by, and not its root.",
          CLASSIC, _swapped(ChannelSums, "of_pixels", _squared),
          ("image.statistics", "image.whole"), is_image),
    Fault("image.augmented-evaluation", "Images are cropped and mirrored in evaluation.", CLASSIC,
          _swapped(ImagePreprocess, "__call__", _always_augmented), ("image.whole",), _crops),
    Fault("image.always-mirrored", "Every image is mirrored.", CLASSIC,
          _swapped(preprocess, "sample_boxes", _always_mirrored), ("image.flip",), _flips),
    Fault("image.mirrored-unasked", "Images are mirrored where no flip is asked for.",
          "specification, D26: flips on by default",
          _swapped(preprocess, "sample_boxes", _always_mirrored), ("image.as-asked",),
          _crops_only),
    Fault("image.cropped-unasked", "Images are cropped where no crop is asked for.",
          "specification, D26: the crop's share hard-coded",
          _swapped(ImagePreprocess, "__call__", _cropped), ("image.as-asked",), _as_they_are),
    Fault("image.one-flip", "One toss mirrors all of a batch.", CLASSIC,
          _swapped(Draw, "for_samples", _one_flip), ("image.flip", "image.by-draw"), _flips),
    Fault("image.flip-rare", "A third of the images is mirrored, and not half.", CLASSIC,
          _swapped(Draw, "for_samples", _rarely), ("image.flip",), _flips),
    Fault("image.one-crop", "All images of a batch are cropped alike.", CLASSIC,
          _swapped(preprocess, "crops", _crop(_one_box)), ("image.by-draw",), _crops),
    Fault("image.crop-without-step", "An image is cropped alike in every step.", CLASSIC,
          _swapped(preprocess, "crops", _crop(_same_each_step)), ("image.by-draw",), _crops),
    Fault("image.crop-share", "Crops keep from 0.08 of the image on, whatever is asked for.",
          "specification, D26: the crop's share hard-coded",
          _swapped(preprocess, "crops", _crop(_any_share)), ("image.crop",), _crops),
    Fault("image.crop-central", "Crops are of the middle.", CLASSIC,
          _swapped(preprocess, "crops", _crop(_central)), ("image.crop",), _crops),
    Fault("image.aligned-corners", "Sampling puts the outer pixels on the edges of the box.",
          CLASSIC, _swapped(preprocess, "_centres", _corners), ("image.bilinear",), _crops),
    Fault("image.copies-unseen", "Copies between pretraining and test are not looked for.",
          "specification, defect 15",
          _swapped(duplicates, "_fingerprints", lambda was: lambda *_: {}), ("image.copies",),
          is_image),
    Fault("image.validation-trained-on", "The validation split is trained on, too.", CLASSIC,
          _swapped(Store, "rows", _validation_too), ("image.splits",), is_image),
)  # fmt: skip
