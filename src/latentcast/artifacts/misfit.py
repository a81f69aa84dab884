"""Whether tensors are those of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def misfit(network: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> str:
    """The first tensor in which a network and a file differ, or "".

    The network is made without memory: its size is what a configuration declares.
    """
    try:
        with torch.device("meta"):
            shapes = {name: tuple(t.shape) for name, t in network().state_dict().items()}
    except (RuntimeError, TypeError, OverflowError):  # of torch, from sizes beyond 64 bits
        return "a size is beyond what any file holds"
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(shapes.keys() | found.keys()):
        if shapes.get(name) != found.get(name):
            return f"{name} is {found.get(name, 'missing')} and not {shapes.get(name, 'there')}"
    return ""
