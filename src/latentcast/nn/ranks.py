"""Sums over ranks that a gradient passes through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def summed(x: Tensor) -> Tensor:
    """The sum of ``x`` over all ranks, the same on each; ``x`` itself with one rank or none.

    A mean over a batch that is spread over ranks is ``summed(total) / summed(count)``. Its
    gradient is that of the *sum* of the ranks' losses, so after the gradients of the weights are
    averaged over ranks, as DDP does, they are those of one rank with the whole batch. All ranks
    have to call it, in the same order and with the same shapes.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


def centred(rows: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(n, width)`` less their mean over all ranks, and how many count there; ``counted``
    ``(n,)`` is 1 for a row that does and 0 for another."""
    packed = summed(torch.cat([counted @ rows, counted.sum()[None]]))
    total = packed[-1]
    return rows - packed[:-1] / total.clamp(min=1), total


def gathered(x: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks, in their order, and how many of them come before one's own.

    Ranks may have different numbers of rows. The gradient is that of :func:`summed`.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x, 0
    rank, counts = dist.get_rank(), torch.zeros(dist.get_world_size(), dtype=torch.int64)
    counts[rank] = len(x)
    counts = _reduced(counts.to(x.device))
    before, total = int(counts[:rank].sum()), int(counts.sum())
    after = total - before - len(x)
    padding = [x.new_zeros(n, *x.shape[1:]) for n in (before, after)]
    return summed(torch.cat([padding[0], x, padding[1]])), before


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _reduced(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _reduced(gradient)


def _reduced(x: Tensor) -> Tensor:
    total = x.contiguous().clone()
    dist.all_reduce(total)
    return total
