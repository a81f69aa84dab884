"""A convolutional predictor: from an encoder's tokens of a masked input to tokens of the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentcast.config import Activation
from latentcast.nn.cells import Grid
from latentcast.nn.conv_norm import ConvNorm, Norm, flops_of, to_maps, to_tokens


class ConvPredictor(nn.Module):
    """Narrow dilated convolutions over the grid, each with a skip around it.

    Args:
        width: of the tokens it reads and predicts.
        inner: channels between.
        depth: convolutions; the dilation doubles from one to the next.
        kernel: cells a side.
        norm: kind of norm.
        activation: after each norm.
        axes: of the grid.
    """

    def __init__(
        self, width: int, inner: int, depth: int, kernel: int, norm: Norm,
        activation: Activation, axes: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed = ConvNorm(axes, width + 1, inner, 1, norm, activation)
        self.layers = nn.ModuleList(
            ConvNorm(axes, inner, inner, kernel, norm, activation, dilation=2**n)
            for n in range(depth)
        )
        self.proj = nn.Conv2d(inner, width, 1)

    def forward(
        self, tokens: Tensor, masked: Tensor, grid: Grid, valid: Tensor | None = None
    ) -> Tensor:
        """Predict the token of every cell.

        Args:
            tokens: ``(B, N, width)``, of the masked input.
            masked: ``(B, N)`` bool, which cells were masked.
            grid: cells along each axis.
            valid: ``(B, N)`` bool, cells that count; None when all do.

        Returns:
            ``(B, N, width)``.
        """
        flags = masked.unsqueeze(-1).to(tokens.dtype)
        x = to_maps(torch.cat([tokens, flags], dim=-1), grid)
        spread = None if valid is None else to_maps(valid.unsqueeze(-1), grid)
        x = self.embed(x, spread)
        for layer in self.layers:
            x = x + layer(x, spread)
        return to_tokens(self.proj(x), grid)

    def flops(self, cells: int) -> int:
        """Operations of one sample's forward pass in the convolutions."""
        return cells * flops_of(self)
