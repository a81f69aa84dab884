"""The networks in a function that somebody gives, made ready to be disturbed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

LAYER_SCALE = re.compile(r"scale|gamma|lambda|(^|\.)ls\d?(\.|$)", re.IGNORECASE)
SMALL = 0.1
"""What a LayerScale is below as long as it hides its branch."""


def networks_of(model: Callable[..., object]) -> list[nn.Module]:
    """A module itself, or those that a function or a method refers to."""
    if isinstance(model, nn.Module):
        return [model]
    owner = getattr(model, "__self__", None)
    found = [owner] if isinstance(owner, nn.Module) else []
    function = getattr(model, "__func__", model)
    if inspect.isfunction(function):
        names = inspect.getclosurevars(function)
        for value in (*names.nonlocals.values(), *names.globals.values()):
            if isinstance(value, nn.Module):
                found.append(value)
            elif inspect.isfunction(value) or inspect.ismethod(value):
                found += networks_of(value) if value is not model else []
    return found


@contextmanager
def evaluated(model: Callable[..., object]) -> Iterator[list[nn.Module]]:
    """Its networks, in evaluation mode; each part is in its own mode again afterwards."""
    networks = networks_of(model)
    modes = [(part, part.training) for network in networks for part in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield networks
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def in_double(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Weights and buffers in float64 and every small LayerScale at 1; put back afterwards."""
    tensors = [
        (f"{part_name}.{name}", part, tensor)
        for network in networks
        for part_name, part in network.named_modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None and tensor.is_floating_point()
    ]
    kept = {id(tensor): (tensor, tensor.data) for _, _, tensor in tensors}
    try:
        for name, part, tensor in tensors:
            tensor.data = tensor.data.double()
            tiny = tensor.ndim == 1 and "Norm" not in type(part).__name__
            if tiny and LAYER_SCALE.search(name) and float(tensor.data.abs().max()) < SMALL:
                tensor.data.fill_(1.0)
        yield
    finally:
        for tensor, data in kept.values():
            tensor.data = data
