"""A convolution and its norm, over maps ``(B, channels, rows, columns)``.

A recording is a map of one row. Maps lie in memory channel by channel of a cell (channels last):
that is the layout of tokens, so turning one into the other copies nothing, and oneDNN trains it
fastest (a step of ``conv-ecg-tiny`` on an AMD core: 108 ms in bf16 and 197 ms in float32, against
133 and 242 ms of one-dimensional convolutions on contiguous maps).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from latentcast.config import Activation
from latentcast.nn.batch_norm import BatchNorm
from latentcast.nn.blocks import ACTIVATIONS
from latentcast.nn.cells import Grid

Norm = Literal["batch", "group"]
"""``group``: over cells and groups of channels of one sample, its padding included."""


class GroupNorm(nn.GroupNorm):
    """Sixteen groups of channels, or fewer."""

    def __init__(self, channels: int, gain: float = 1.0) -> None:
        super().__init__(math.gcd(channels, 16), channels)
        self.gain = gain

    def initialise_own(self, generator: torch.Generator) -> None:
        self.weight.fill_(self.gain)
        self.bias.zero_()

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return super().forward(x)


def norm_of(channels: int, norm: Norm, gain: float = 1.0) -> BatchNorm | GroupNorm:
    """A norm for maps; ``gain`` is its initial one."""
    return BatchNorm(channels, gain) if norm == "batch" else GroupNorm(channels, gain)


class ConvNorm(nn.Module):
    """``norm(conv(x))``, and an activation of it; cells that are not valid become 0.

    Args:
        axes: 1 for recordings, whose kernels reach along the columns; 2 for images.
        kernel: cells a side; odd, so that the grid stays.
        activation: None for none.
        gain: initial gain of the norm.
    """

    def __init__(
        self, axes: int, channels: int, out: int, kernel: int, norm: Norm,
        activation: Activation | None, *, stride: int = 1, dilation: int = 1, gain: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = convolution(axes, channels, out, kernel, stride, dilation)
        self.norm = norm_of(out, norm, gain)
        self.activation = None if activation is None else ACTIVATIONS[activation]

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """``valid`` ``(B, 1, rows, columns)`` bool, of the maps that come out."""
        x = self.norm(self.conv(x), valid)
        x = x if self.activation is None else self.activation(x)
        # As the padding of a convolution: a short recording reads alike however it is padded.
        return x if valid is None else x * valid


def convolution(
    axes: int, channels: int, out: int, kernel: int, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Without bias, since a norm follows; of a grid that the stride divides, the grid over it."""
    # Across the one row of a recording nothing is read, skipped or padded.
    sizes = [(kernel, 1), (stride, 1), (dilation * (kernel // 2), 0), (dilation, 1)]
    pairs = [(own if axes == 2 else row, own) for own, row in sizes]
    size, step, padding, spacing = pairs
    return nn.Conv2d(channels, out, size, step, padding, spacing, bias=False)


def to_maps(tokens: Tensor, grid: Grid, per: int = 1) -> Tensor:
    """Tokens of :func:`to_tokens` to maps ``(B, channels, rows, columns)``."""
    batch, channels = tokens.shape[0], tokens.shape[-1]
    if len(grid) == 1:
        return tokens.view(batch, 1, -1, channels).permute(0, 3, 1, 2)
    split = tokens.view(batch, *grid, per, per, channels).permute(0, 5, 1, 3, 2, 4)
    return split.reshape(batch, channels, grid[0] * per, grid[1] * per)


def to_tokens(maps: Tensor, grid: Grid, per: int = 1) -> Tensor:
    """Maps to ``(B, per^axes · N, channels)``, patch by patch in row-major order.

    Args:
        grid: patches along each axis.
        per: cells in a patch along each axis.
    """
    batch, channels = maps.shape[:2]
    if len(grid) == 1:
        return maps.permute(0, 2, 3, 1).reshape(batch, -1, channels)
    split = maps.permute(0, 2, 3, 1).reshape(batch, grid[0], per, grid[1], per, channels)
    return split.transpose(2, 3).reshape(batch, -1, channels)


def flops_of(network: nn.Module) -> int:
    """Operations of the convolutions of a network for one cell of what each puts out."""
    return 2 * sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d))
