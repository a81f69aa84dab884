"""The initial weights: a function of the seed, alike for every part."""

from __future__ import annotations

import torch
from torch import nn

from latentcast import randomness
from latentcast.nn.blocks import LayerScale
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
                nn.init.trunc_normal_(module.weight, std=std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, LayerScale):
                module.gain.fill_(module.value)
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[2] in TOKENS:
                nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
