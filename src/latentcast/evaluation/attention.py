"""How much attention each token of a transformer receives: read from a pass, nothing is changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.artifacts.encoder import Encoder
from latentcast.nn.blocks import Attention
from latentcast.nn.modes import evaluating


@torch.no_grad()
def received_attention(
    encoder: Encoder, samples: npt.NDArray[Any]
) -> npt.NDArray[np.float32] | None:
    """Of each patch the mean weight that the tokens which may attend to it give it, in the last
    block over the patches, over all heads.

    Args:
        samples: integers as a store gives them, ``(B, ...)``.

    Returns:
        float32 ``(B, N)`` in units of an even spread (1: as much as if every query attended alike
        to all that it may); NaN where a patch is not valid; None of a network without attention.
    """
    calls = list[tuple[Attention, tuple[Any, ...]]]()
    hooks = [
        module.register_forward_pre_hook(lambda own, inputs: calls.append((own, inputs)))
        for module in encoder.network.modules()
        if isinstance(module, Attention)
    ]
    try:
        with evaluating(encoder):
            _, valid = encoder.token_layers(samples)
    finally:
        for hook in hooks:
            hook.remove()
    patches = valid.shape[1]
    # Blocks of coarser levels have fewer tokens, and a CLS token stands before the patches.
    finest = [(own, inputs) for own, inputs in calls if inputs[0].shape[1] >= patches]
    if not finest:
        return None
    own, inputs = finest[-1]
    weights = _weights(own, *inputs)
    first = weights.shape[-1] - patches
    allowed = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device)
    if own.causal:
        allowed = allowed.tril()
    # Under a causal mask an early query has few to choose among: its weight counts that much less.
    share = (weights * allowed.sum(dim=1, keepdim=True)).mean(dim=1)
    queries = allowed.float()[first:, first:].sum(dim=0)
    mean = share[:, first:, first:].sum(dim=1) / queries
    return mean.float().masked_fill(~valid.to(mean.device), math.nan).cpu().numpy()


def _weights(own: Attention, x: Tensor, *args: Any) -> Tensor:
    """Softmax weights ``(B, heads, T, T)`` of :class:`~latentcast.nn.blocks.Attention`."""
    tables, valid = (*args, None, None)[:2]
    q, k, _ = own.split(own.packed(x), tables)
    logits = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    if valid is not None:
        attended = (valid | ~valid.any(dim=1, keepdim=True))[:, None, None, :]
        logits = logits.masked_fill(~attended, -math.inf)
    if own.causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        logits = logits.masked_fill(later, -math.inf)
    shares: Tensor = logits.softmax(dim=-1)
    return shares
