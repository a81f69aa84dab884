"""Training and evaluation modes of modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(source: object) -> Iterator[None]:
    """Put a source that is a torch module in eval mode and give each submodule its own back."""
    if not isinstance(source, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in source.modules()]
    source.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
