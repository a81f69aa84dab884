"""A network of somebody else over images.

It takes float32 ``(B, channels, height, width)`` in [0, 1], less ``mean`` and over ``std`` of each
channel where these are given. What it reads (``size``, ``channels``, ``mean``, ``std``) is given
with it or stands on it as attributes of these names; what is given nowhere is as the store has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.foreign.networks import positive, reads_of, tokens_of
from latentcast.nn.modes import evaluating

READS = ("size", "channels", "mean", "std")


@dataclass(frozen=True, eq=False)
class ForeignImages:
    """A :class:`~latentcast.evaluation.features.FeatureSource` of one layer.

    Attributes:
        call: the network.
        canvas: height and width of the images of the store; ``size`` those that it is given.
        channels: that it is given; one of the store is repeated.
        mean: of each channel, and ``std``.
        digest: sha256 of the file of the network; None of a callable, whose weights no file tells.
    """

    name: str
    call: Callable[[Tensor], Any]
    canvas: tuple[int, int]
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str | None = None

    layer_names = ("output",)
    causal = False

    @property
    def fingerprint(self) -> str | None:
        """Of a file and of what it reads; see :mod:`latentcast.evaluation.cache`."""
        if self.digest is None:
            return None
        return repr((self.digest, self.canvas, self.size, self.channels, self.mean, self.std))

    @property
    def note(self) -> str:
        """What was done to the images on their way, or ""."""
        if self.size == self.canvas:
            return ""
        sizes = " to ".join(f"{height} × {width}" for height, width in (self.canvas, self.size))
        return f"{self.name} reads images resized from {sizes}"

    def token_layers(self, samples: npt.NDArray[np.uint8]) -> tuple[list[Tensor], Tensor]:
        """Images uint8 ``(B, height, width, channels)`` to its tokens, all of them valid."""
        images = torch.from_numpy(np.ascontiguousarray(samples.transpose(0, 3, 1, 2))).float() / 255
        if self.size != self.canvas:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        images = images.expand(-1, self.channels, -1, -1)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        images = (images - mean) / std
        with evaluating(self.call):
            tokens = tokens_of(self.call(images), self.name, tuple(images.shape))
        return [tokens], torch.ones(tokens.shape[:2], dtype=torch.bool)


def of_images(
    name: str, call: Callable[[Tensor], Any], reads: Mapping[str, str], store: Store
) -> ForeignImages:
    """Raises LatentcastError: other channels than the store has, or an option is malformed."""
    found = reads_of(name, call, READS, reads)
    channels = round(positive(name, "channels", found.get("channels", store.channels)))
    if store.channels not in (1, channels) or channels < 1:
        raise LatentcastError(
            f"--encoder {name}: reads {channels} channels, {store.path} has {store.channels}; "
            f"write channels={store.channels}"
        )
    canvas = store.height, store.width
    size = _values(name, "size", found.get("size", canvas), 2)
    mean = _values(name, "mean", found.get("mean", 0.0), channels)
    std = _values(name, "std", found.get("std", 1.0), channels)
    if min(std) <= 0 or min(size) < 1:
        key, text = ("std", "0.25") if min(std) <= 0 else ("size", "224")
        raise LatentcastError(f"--encoder {name}: {key} is not above 0; write {key}={text}")
    sides = int(size[0]), int(size[1])
    return ForeignImages(name, call, canvas, sides, channels, mean, std)


def _values(name: str, key: str, value: Any, count: int) -> tuple[float, ...]:
    """One number for all, or as many as there are, joined by ``+`` in a text."""
    parts = value.split("+") if isinstance(value, str) else value
    parts = list(parts) if isinstance(parts, Sequence) else [parts]
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, count) or not np.isfinite(numbers).all():
        example = "+".join(["0.5"] * count) if key != "size" else "224+224"
        raise LatentcastError(
            f"--encoder {name}: {key} {value} is neither one number nor {count}; write "
            f"{key}={example}"
        )
    return tuple(numbers * count if len(numbers) == 1 else numbers)
