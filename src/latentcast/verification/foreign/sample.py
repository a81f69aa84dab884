"""A few thousand places of each tensor: enough to see every move, little to keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST = 4096
"""Places of one tensor; a smaller one is compared in full."""


class Sample:
    """The same places of a list of tensors, drawn once from a generator of their own.

    Args:
        tensors: of which values are taken now and later.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        self._places: list[Tensor | None] = []
        self._sizes: list[int] = []
        eps = []
        for tensor in map(local, tensors):
            size, places = tensor.numel(), None
            if size > MOST:
                places = torch.randint(size, (MOST,), generator=generator).to(tensor.device)
            self._places.append(places)
            kind = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
            self._sizes.append(min(size, MOST))
            eps.append(torch.full((min(size, MOST),), kind, dtype=torch.float64))
        self.eps = torch.cat(eps) if eps else torch.zeros(0, dtype=torch.float64)
        """Of the type of each value: what one operation may round away of it."""

    def take(self, tensors: Sequence[Tensor]) -> Tensor:
        """Their values now, flat and in float64 on the CPU."""
        taken = [
            (flat if places is None else flat.index_select(0, places.to(flat.device))).double()
            for flat, places in zip(map(_flat, tensors), self._places, strict=True)
        ]
        return torch.cat(taken).cpu() if taken else torch.zeros(0, dtype=torch.float64)

    def each(self, values: Tensor) -> tuple[Tensor, ...]:
        """A taken sample, split by tensor."""
        return torch.split(values, self._sizes)


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that lies on this rank."""
    shard = getattr(tensor, "to_local", None)
    return (shard() if callable(shard) else tensor).detach()


def _flat(tensor: Tensor) -> Tensor:
    return local(tensor).reshape(-1)
