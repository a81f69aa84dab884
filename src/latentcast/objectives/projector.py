"""From the tokens of a view to the vector that is compared: pooled, then a small network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from latentcast.nn.ranks import centred, summed


def pooled(tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the valid tokens of each view, and which views have any.

    The deviation is ``sqrt(variance + 1e-4)``: its gradient is finite where all tokens are equal.

    Args:
        tokens: ``(B, N, width)``.
        valid: ``(B, N)`` bool; None when all are.

    Returns:
        ``(B, 2 · width)``, at least float32; and ``(B,)``, 1 or 0.
    """
    if valid is None:
        mean, variance = _Moments.apply(tokens)  # type: ignore[no-untyped-call]
        found = mean.new_ones(len(mean))
    else:
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        flags = valid[:, :, None]
        count = flags.sum(1).clamp(min=1)
        # Filled and not multiplied: a token that does not count may be NaN.
        mean = torch.where(flags, wide, 0).sum(1) / count
        variance = torch.where(flags, wide - mean[:, None], 0).square().sum(1) / count
        found = valid.any(1).to(wide.dtype)
    return torch.cat([mean, (variance + 1e-4).sqrt()], dim=1), found


class _Moments(torch.autograd.Function):
    """Mean and variance over tokens, at least in float32, with one pass backward."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        mean = wide.mean(1)
        # Not torch.var, which takes thirty times as long over an axis that is not the last.
        variance = (wide - mean[:, None]).square_().mean(1)
        ctx.save_for_backward(tokens, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        tokens, mean = ctx.saved_tensors
        slope = of_variance * (2 / tokens.shape[1])
        constant = of_mean / tokens.shape[1] - slope * mean
        return torch.addcmul(constant[:, None], tokens, slope[:, None]).to(tokens.dtype)


class Projector(nn.Module):
    """Linear layers with batch norm and ReLU between them (VICReg's expander)."""

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = list(pairwise((width, *widths)))
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in sizes)
        self.norms = nn.ModuleList(RowNorm(b) for _, b in sizes[:-1])

    def forward(self, rows: Tensor, counted: Tensor) -> Tensor:
        """``(n, width)`` and which rows count ``(n,)`` to ``(n, last width)``."""
        for layer, norm in zip(self.layers, self.norms, strict=False):
            rows = F.relu(norm(layer(rows), counted))
        out: Tensor = self.layers[-1](rows)
        return out

    def flops(self) -> int:
        """Operations in the matrix products of one row."""
        return 2 * sum(p.numel() for p in self.layers.parameters())


class RowNorm(nn.Module):
    """Batch norm over the rows of all ranks that count, in training and in evaluation alike.

    There are no running statistics: nothing is read out behind a projector, and what is not kept
    needs no resume and no average.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = eps

    def initialise_own(self, generator: torch.Generator) -> None:
        self.weight.fill_(1)
        self.bias.zero_()

    def forward(self, rows: Tensor, counted: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
            weight = counted.to(wide.dtype)
            wide, total = centred(wide, weight)
            variance = summed(weight @ wide.square()) / total.clamp(min=1)
            return wide * (variance + self.eps).rsqrt() * self.weight + self.bias
