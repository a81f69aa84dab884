"""The initial weights: a function of the seed, alike for every part."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from latentcast import randomness
from latentcast.nn.blocks import LayerScale, QKNorm
from latentcast.nn.tokens import PatchEmbedding

TOKENS = ("cls", "mask_token")
"""Parameters that are tokens: drawn like weights, whichever module holds them."""


def initialise(network: nn.Module, seed: int, part: str = "initialise") -> None:
    """Draw the published initialisation.

    Linear and patch weights and tokens truncated normal (std 0.02, patch weights as configured),
    biases 0, norms 1 and 0, LayerScale its value. A CLS must not keep unit variance: the ECG port
    of NEPA forgot it and began with a CLS three times the norm of a patch (spec of NEPA, defect
    16). I-JEPA's rescaling by depth is left out on purpose: the original undoes it before training
    (spec of I-JEPA, 1.2).

    Args:
        part: keeps the draws of networks apart that are initialised from one seed.
    """
    generator = torch.Generator().manual_seed(randomness.key(seed, part) >> 1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear | PatchEmbedding):
                std = module.std if isinstance(module, PatchEmbedding) else 0.02
                draw(module.weight, std, generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, QKNorm):
                for parameter, value in ((module.weight, 1.0), (module.bias, 0.0)):
                    if parameter is not None:
                        parameter.fill_(value)
            elif isinstance(module, LayerScale):
                module.gain.fill_(module.value)
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[2] in TOKENS:
                draw(parameter, 0.02, generator)


def draw(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """Truncated normal, the same numbers wherever and in however many shards it lies."""
    numbers = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
    nn.init.trunc_normal_(numbers, std=std, generator=generator)
    if isinstance(parameter, DTensor):
        drawn = numbers.to(parameter.device)
        mesh, placements = parameter.device_mesh, parameter.placements
        numbers = distribute_tensor(drawn, mesh, placements, src_data_rank=None)
    parameter.copy_(numbers)
