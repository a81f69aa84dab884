"""Tokens to one vector a sample, over the valid tokens alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from latentcast.errors import LatentcastError, nearest

Pooling = Literal["mean", "std", "max", "mean+std", "mean+std+max", "last"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
JOINED = "joined"
"""The pooled features of all layers, one after the other, as a layer of its own."""
BATCH = 64  # windows or images a forward pass; the result does not depend on it


def pool(tokens: Tensor, valid: Tensor, pooling: Pooling) -> Tensor:
    """Pool tokens (B, k N, D) over the valid ones (B, N): (B, D) for each name in ``pooling``.

    Of a layer with ``k`` tokens to a patch all of them are as valid as the patch.
    ``std`` is the population standard deviation over time, ``max`` the largest value of each
    feature, which a single token decides, and ``last`` the last valid token. Rows without a valid
    token come out as NaN.
    """
    valid = valid.repeat_interleave(tokens.shape[1] // valid.shape[1], dim=1)
    weight = valid.unsqueeze(-1).to(tokens.dtype)
    count = weight.sum(dim=1)
    # where() and not a product: an invalid token may hold NaN, and 0 * NaN is NaN.
    filled = torch.where(valid.unsqueeze(-1), tokens, tokens.new_zeros(()))
    if pooling == "last":
        places = torch.arange(tokens.shape[1], device=tokens.device)
        last = torch.where(valid, places, -1).amax(dim=1)
        picked = filled[torch.arange(tokens.shape[0], device=tokens.device), last.clamp(min=0)]
        return torch.where(count > 0, picked, torch.nan)
    mean = filled.sum(dim=1) / count
    parts = []
    for name in pooling.split("+"):
        if name == "mean":
            parts.append(mean)
        elif name == "std":
            spread = torch.where(valid.unsqueeze(-1), tokens - mean.unsqueeze(1), 0)
            parts.append((spread.square().sum(dim=1) / count).sqrt())
        else:
            largest = torch.where(valid.unsqueeze(-1), tokens, -torch.inf).amax(dim=1)
            parts.append(torch.where(count > 0, largest, torch.nan))
    return torch.cat(parts, dim=-1)


def with_joined(layer_names: tuple[str, ...]) -> tuple[str, ...]:
    """The layers that pooled features are read from: those of an encoder and, of several, all
    joined."""
    return (*layer_names, JOINED) if len(layer_names) > 1 else layer_names


def layers_of(layer: str, layer_names: tuple[str, ...]) -> slice:
    """Which of the layers one of :func:`with_joined` is read from."""
    if layer in layer_names:
        index = layer_names.index(layer)
        return slice(index, index + 1)
    names = with_joined(layer_names)
    if layer not in names:
        raise LatentcastError(f"{layer}: is no layer; known: {', '.join(names)}")
    return slice(None)


def pool_joined(layers: Sequence[Tensor], valid: Tensor, pooling: Pooling) -> Tensor:
    """The pooled vectors of several layers, one after the other: ``(B, features)``."""
    return torch.cat([pool(tokens, valid, pooling) for tokens in layers], dim=1)


def check_pooling(pooling: str, *, causal: bool) -> Pooling:
    """The pooling of that name; LatentcastError for an unknown one, and for the CLS."""
    if pooling == "cls":
        why = (
            "under a causal mask token 0 sees only itself, every sample would get the same feature"
            if causal
            else "no objective here trains the CLS token of this encoder"
        )
        raise LatentcastError(f"pooling cls: {why}; use mean+std, mean, max or last")
    if pooling not in POOLINGS:
        raise LatentcastError(f"pooling {pooling}: no such pooling; {nearest(pooling, POOLINGS)}")
    return cast(Pooling, pooling)
