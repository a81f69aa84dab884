"""Slips with the original's rule of masks, which is to be followed with its faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentcast.objectives import reference_masks
from latentcast.objectives.reference_masks import ReferenceMasks
from latentcast.verification.claims.reference_masks import flat_images
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.faults.ema import CLASSIC, Patch

Drawn = tuple[Tensor, Tensor]


def _drawn(change: Callable[[Tensor, Tensor], Drawn]) -> Callable[[], Patch]:
    """Context and targets are changed after they were drawn."""

    def make(was: Any) -> Any:
        return lambda self, draw: change(*was(self, draw))

    return lambda: replaced(ReferenceMasks, "__call__", make)


def _leaking(context: Tensor, targets: Tensor) -> Drawn:
    """The first patch of a context is one of a target's."""
    leaked = torch.cat([targets[0, :, :1], context[:, 1:]], dim=1)
    return leaked.sort(dim=1).values, targets


def _cut_behind(context: Tensor, targets: Tensor) -> Drawn:
    """Rows are counted from below: what is cut off is the beginning."""
    return 255 - context.flip(1), 255 - targets.flip(2)


def _inclusive(was: Any) -> Any:
    """Blocks reach the last row and column."""

    def block(self: ReferenceMasks, extent: Any, place: tuple[float, float]) -> Any:
        top, left = (
            int(u * (n - size + 1)) for u, n, size in zip(place, self.grid, extent, strict=True)
        )
        found = np.zeros(self.grid, dtype=np.bool_)
        found[top : top + extent[0], left : left + extent[1]] = True
        return found.reshape(math.prod(self.grid))

    return block


def _squares(was: Any) -> Any:
    return lambda grid, share, aspect, scale: was(grid, share, (1.0, 1.0), scale)


FAULTS: tuple[Fault, ...] = (
    Fault("masks.reference-leaks", "A patch of the context is a target's.", CLASSIC,
          _drawn(_leaking), ("masks.reference-biases",), flat_images),
    Fault("masks.reference-cut-behind", "Contexts are cut at their beginning.", CLASSIC,
          _drawn(_cut_behind), ("masks.reference-biases",), flat_images),
    Fault("masks.reference-mended", "Blocks reach the last row and column, as ours do.", CLASSIC,
          lambda: replaced(ReferenceMasks, "_block", _inclusive), ("masks.reference-biases",),
          flat_images),
    Fault("masks.reference-squares", "All blocks are squares.", CLASSIC,
          lambda: replaced(reference_masks, "reference_extent", _squares),
          ("masks.reference-sizes",), flat_images),
)  # fmt: skip
