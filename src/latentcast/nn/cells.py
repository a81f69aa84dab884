"""Grids above grids: which coarse cell a fine one lies in, and means over valid cells."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

Grid = tuple[int, ...]


@lru_cache(maxsize=64)
def parents(fine: Grid, coarse: Grid, device: torch.device) -> Tensor:
    """For each cell of the fine grid, row-major, the coarse cell it lies in: int64 ``(N,)``."""
    axes = [torch.arange(n, device=device) // (n // m) for n, m in zip(fine, coarse, strict=True)]
    number = torch.zeros(fine, dtype=torch.int64, device=device)
    for axis, (index, extent) in enumerate(zip(axes, coarse, strict=True)):
        shape = [1] * len(fine)
        shape[axis] = -1
        number = number * extent + index.view(shape)
    return number.flatten()


def pool(tokens: Tensor, valid: Tensor | None, fine: Grid, coarse: Grid) -> Tensor:
    """Mean of the valid tokens of each coarse cell.

    A true cell of the grid, never neighbours in a list: on a masked list the latter are often
    not neighbours at all (spec of H-JEPA, defect D17).

    Args:
        tokens: ``(B, N, width)`` on the fine grid, row-major.
        valid: ``(B, N)`` bool; None when all are.

    Returns:
        ``(B, cells, width)``; 0 for a cell without a valid token.
    """
    if valid is None:
        return _by_cell(tokens, fine, coarse).mean(dim=2)
    weight = valid.to(tokens.dtype).unsqueeze(-1)
    # where() and not a product: what is not valid may be NaN, and 0 · NaN is NaN.
    filled = torch.where(valid.unsqueeze(-1), tokens, tokens.new_zeros(()))
    total = _by_cell(filled, fine, coarse).sum(dim=2)
    return total / _by_cell(weight, fine, coarse).sum(dim=2).clamp(min=1)


def any_valid(valid: Tensor, fine: Grid, coarse: Grid) -> Tensor:
    """Whether a coarse cell has a valid token: ``(B, N)`` bool to ``(B, cells)``."""
    return _by_cell(valid.unsqueeze(-1), fine, coarse).any(dim=2).squeeze(-1)


def _by_cell(tokens: Tensor, fine: Grid, coarse: Grid) -> Tensor:
    """``(B, N, width)`` to ``(B, cells, fine cells of a cell, width)``."""
    batch, width = tokens.shape[0], tokens.shape[-1]
    split = [part for n, m in zip(fine, coarse, strict=True) for part in (m, n // m)]
    axes = len(fine)
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
    cells = tokens.reshape(batch, *split, width).permute(order)
    return cells.reshape(batch, math.prod(coarse), -1, width)


def gather(tokens: Tensor, ids: Tensor) -> Tensor:
    """Tokens ``(B, N, width)`` at cells ``(..., B, T)``: ``(..., B, T, width)``."""
    lead = ids.shape[:-2]
    tokens = tokens.expand(*lead, *tokens.shape)
    index = ids.unsqueeze(-1).expand(*ids.shape, tokens.shape[-1])
    return tokens.gather(-2, index)


def gather_flags(flags: Tensor, ids: Tensor) -> Tensor:
    """Flags ``(B, N)`` at cells ``(..., B, T)``: ``(..., B, T)``."""
    return flags.expand(*ids.shape[:-2], *flags.shape).gather(-1, ids)
