"""Patches to tokens, over 1-D or 2-D inputs: the contract, and the published linear one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.errors import LatentcastError
from latentcast.nn.initialise import draw


def unfold(values: Tensor, grid: Sequence[int]) -> Tensor:
    """Values ``(B, channels, *size)`` cut into a grid of patches, row-major.

    Returns:
        ``(B, N, channels · values of a patch)``, channel by channel.
    """
    batch, axes = values.shape[0], len(grid)
    split = [
        part for n, size in zip(grid, values.shape[2:], strict=True) for part in (n, size // n)
    ]
    places = [2 + 2 * axis for axis in range(axes)]
    order = [0, *places, 1, *(place + 1 for place in places)]
    patches = values.reshape(batch, values.shape[1], *split).permute(order)
    return patches.reshape(batch, math.prod(grid), -1)


class Tokenizer(nn.Module, ABC):
    """From patches to tokens, each patch by itself: what one token shows is in no other.

    Of an encoder that cannot drop tokens it may be a convolution that reaches beyond the patch.

    Args:
        patch: samples or pixels a side.
        axes: 1 for recordings, 2 for images.
        lead_rows: leads of a recording of which each patch is of one, read as one channel and
            lead by lead; None where a patch is of all channels.
    """

    def __init__(self, patch: int, axes: int, lead_rows: int | None = None) -> None:
        super().__init__()
        self.patch, self.axes, self.lead_rows = patch, axes, lead_rows

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """``(B, channels, *size)`` to ``(B, N, width)``, row-major."""

    @abstractmethod
    def flops(self, patches: int) -> int:
        """Operations in the matrix products for so many patches."""

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Patches along each axis of an input of this size.

        Raises:
            LatentcastError: the patch does not divide the input; nothing is dropped silently.
        """
        if len(size) != self.axes or any(extent % self.patch for extent in size):
            raise LatentcastError(
                f"input of size {tuple(size)}: is not a whole number of patches of {self.patch} "
                f"along {self.axes} axes; crop or pad it to a multiple of {self.patch}"
            )
        rows = () if self.lead_rows is None else (self.lead_rows,)
        return (*rows, *(extent // self.patch for extent in size))

    def unfold(self, values: Tensor) -> Tensor:
        """``(B, channels, *size)`` to patches ``(B, N, channels · patch^axes)``; of leads apart
        ``(B, leads · patches, patch)``."""
        grid = self.grid(values.shape[2:])
        if self.lead_rows is None:
            return unfold(values, grid)
        return values.reshape(values.shape[0], math.prod(grid), self.patch)

    def valid(self, mask: Tensor, least: float = 0.5) -> Tensor:
        """Which patches hold enough measured values to be a target: ``(B, N)`` bool.

        A patch counts when at least ``least`` of its values (over all channels) are valid: one flat
        lead of twelve leaves it in, padding leaves it out.
        """
        return self.unfold(mask.to(torch.float32)).mean(-1) >= least


class PatchEmbedding(Tokenizer):
    """``token_n = W · patch_n + b`` over non-overlapping patches, row-major.

    The weight has the layout of a convolution with kernel = stride, ``(width, channels, *patch)``,
    so public checkpoints load as they are; the product is taken on unfolded patches because
    one matrix product is faster than a convolution whose windows do not overlap.
    """

    def __init__(
        self,
        channels: int,
        axes: int,
        patch: int,
        width: int,
        std: float = 0.02,
        lead_rows: int | None = None,
    ) -> None:
        super().__init__(patch, axes, lead_rows)
        channels = channels if lead_rows is None else 1
        self.std = std
        self.weight = nn.Parameter(torch.empty(width, channels, *(patch,) * axes))
        self.bias = nn.Parameter(torch.zeros(width))

    def initialise_own(self, generator: torch.Generator) -> None:
        draw(self.weight, self.std, generator)
        self.bias.zero_()

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(self.unfold(values), self.weight.flatten(1), self.bias)

    def flops(self, patches: int) -> int:
        return 2 * patches * self.weight.numel()
