"""Slips with the initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from latentcast.nn import encoder, hierarchy, initialise
from latentcast.nn.blocks import Block
from latentcast.objectives import jepa
from latentcast.verification.fault import Fault
from latentcast.verification.faults.positions import Inject, patched


def _initial(slip: Callable[[nn.Module, int], None], after: bool = True) -> Inject:
    """initialise(), and something more or else."""

    def make(was: Any) -> Any:
        def slipped(network: nn.Module, seed: int, part: str = "initialise") -> None:
            if after:
                was(network, seed, part)
            with torch.no_grad():
                slip(network, seed)

        return slipped

    return patched((initialise, encoder, hierarchy, jepa), "initialise", make)


def _by_depth(network: nn.Module, seed: int) -> None:
    """The original's rescaling, which its own training undoes."""
    for block in network.modules():
        if isinstance(block, Block) and block.stream.isdigit():
            factor = 1 / math.sqrt(2 * (int(block.stream) + 1))
            block.attention.proj.weight *= factor
            block.mlp.down.weight *= factor


def _own_linears(network: nn.Module, seed: int) -> None:
    """torch's own: Linear layers are left as nn.Linear made them."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()


def _small_biases(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.trunc_normal_(module.bias, std=0.02, generator=generator)


def _draw(make: Callable[[Any], Any]) -> Inject:
    return patched((initialise,), "draw", make)


def _uniform(was: Any) -> Any:
    def slipped(parameter: Tensor, std: float, generator: torch.Generator) -> None:
        bound = std * math.sqrt(3)
        nn.init.uniform_(parameter, -bound, bound, generator=generator)

    return slipped


def _global(was: Any) -> Any:
    """From the global generator, so from whatever was drawn before."""

    def slipped(parameter: Tensor, std: float, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=std)

    return slipped


def _reseeded(was: Any) -> Any:
    """Every tensor from the beginning of the generator: all are alike."""

    def slipped(parameter: Tensor, std: float, generator: torch.Generator) -> None:
        was(parameter, std, torch.Generator().manual_seed(generator.initial_seed()))

    return slipped


CLASSIC = "classic"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "initial.by-depth", "Second products are rescaled by depth.", "I-JEPA, section 1.2",
        _initial(_by_depth), ("initial.std",),
    ),
    Fault(
        "initial.torch-default", "Linear layers stay as torch made them.", CLASSIC,
        _initial(_own_linears), ("initial.std", "initial.offsets"),
    ),
    Fault(
        "initial.biases-drawn", "Biases are drawn like weights.", CLASSIC,
        _initial(_small_biases), ("initial.offsets",),
    ),
    Fault(
        "initial.uniform", "Uniform of the same standard deviation.", CLASSIC, _draw(_uniform),
        ("initial.normal",),
    ),
    Fault(
        "initial.global-generator", "Weights are drawn from the global generator.", CLASSIC,
        _draw(_global), ("initial.seeded",),
    ),
    Fault(
        "initial.alike", "Every tensor is drawn from the start of one generator.", CLASSIC,
        _draw(_reseeded), ("initial.seeded",),
    ),
    Fault(
        "initial.tenfold", "Standard deviation 0.2 for 0.02.", CLASSIC,
        _draw(lambda was: lambda p, std, generator: was(p, 10 * std, generator)), ("initial.std",),
    ),
)  # fmt: skip
