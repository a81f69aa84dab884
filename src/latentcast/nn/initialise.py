"""The initial weights: a function of the seed, alike for every part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentcast import randomness
from latentcast.errors import LatentcastError

TOKENS = ("cls", "mask_token")
"""Parameters that are tokens: drawn like weights, whichever module holds them."""


def initialise(network: nn.Module, seed: int, part: str = "initialise") -> None:
    """Draw the published initialisation.

    Linear and patch weights and tokens truncated normal (std 0.02, patch weights as configured),
    convolutions truncated normal with std ``1/√fan_in``, biases 0, norms 1 and 0, LayerScale its
    value. A CLS must not keep unit variance: the ECG port of NEPA forgot it and began with a CLS
    three times the norm of a patch (spec of NEPA, defect 16). I-JEPA's rescaling by depth is left
    out on purpose: the original undoes it before training (spec of I-JEPA, 1.2).

    A module of another kind with parameters of its own draws them in a method
    ``initialise_own(generator)``.

    Args:
        part: keeps the draws of networks apart that are initialised from one seed.

    Raises:
        LatentcastError: a parameter was drawn by none of these; it would keep torch's global draw,
            and two builds of one seed would differ.
    """
    generator = torch.Generator().manual_seed(randomness.key(seed, part) >> 1)
    drawn: set[int] = set()
    with torch.no_grad():
        for module in network.modules():
            if _initialise_module(module, generator):
                drawn |= {id(p) for p in module.parameters(recurse=False)}
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[2] in TOKENS:
                draw(parameter, 0.02, generator)
            elif id(parameter) not in drawn:
                owner = network.get_submodule(name.rpartition(".")[0])
                raise LatentcastError(
                    f"{name}: has no initial value of its own ({type(owner).__name__}); give the "
                    "module a method initialise_own(generator) that draws its parameters"
                )


def _initialise_module(module: nn.Module, generator: torch.Generator) -> bool:
    """Draw a module's own parameters; False for a kind that has no rule here."""
    own = getattr(module, "initialise_own", None)
    if own is not None:
        own(generator)
    elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        linear = isinstance(module, nn.Linear)
        draw(module.weight, 0.02 if linear else module.weight[0].numel() ** -0.5, generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d):
        module.reset_parameters()
    else:
        return False
    return True


def draw(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """Truncated normal, the same numbers wherever and in however many shards it lies."""
    numbers = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
    nn.init.trunc_normal_(numbers, std=std, generator=generator)
    place(parameter, numbers)


def place(parameter: Tensor, numbers: Tensor) -> None:
    """Give a parameter these values, wherever and in however many shards it lies."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        numbers = _placed_as(parameter, numbers)
    parameter.copy_(numbers)


def _placed_as(parameter: Tensor, numbers: Tensor) -> Tensor:
    # Not above: it takes as long to import as torch.
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        drawn = numbers.to(parameter.device)
        mesh, placements = parameter.device_mesh, parameter.placements
        numbers = distribute_tensor(drawn, mesh, placements, src_data_rank=None)
    return numbers
