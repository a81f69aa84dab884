"""Convolutional tokenizers: how far what one token shows reaches."""

from __future__ import annotations

import torch
from torch import Tensor

from latentcast.nn.conv_tokenizer import ConvStem, ConvTokenizer
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, equal
from latentcast.verification.observe.network import corners, real
from latentcast.verification.observe.twin import Twin


def _has_stem(twin: Twin) -> bool:
    return isinstance(twin.recipe.encoder, ConvStem)


@claim("patches.reach", "A token shows its own patch and nothing beyond it; where convolutions "
       "overlap, twice half the kernel on each side and nothing further.",
       source="our design, docs/masked.md", about=_has_stem)  # fmt: skip
def reach(twin: Twin) -> Evidence:
    """The gradient of one token: the furthest sample beyond its patch in which it is not 0."""
    encoder, parts = twin.config.encoder, list[Evidence]()
    assert isinstance(encoder, ConvStem)
    values, axes = real(twin, 1).values, len(twin.config.input.size)
    places = corners(tuple(values.shape[2:]), encoder.patch)
    for overlap in (False, True):
        tokenizer = ConvTokenizer(encoder, encoder.patch, 8, values.shape[1], axes, overlap)
        generator = torch.Generator().manual_seed(twin.seed)
        with torch.no_grad():
            for parameter in tokenizer.double().parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator).double())
        expected = encoder.stem_kernel // 2 * 2 if overlap else 0
        found = max(
            _beyond(tokenizer, values, number, corner) for number, corner in enumerate(places)
        )
        name = "overlapping" if overlap else "patch by patch"
        parts.append(equal(f"{name}: samples beyond the patch", found, expected))
    return all_of(*parts, patch=encoder.patch)


def _beyond(tokenizer: ConvTokenizer, values: Tensor, number: int, corner: tuple[int, ...]) -> int:
    """Samples or pixels beyond its patch, along an axis, that a token shows."""
    x = values.clone().requires_grad_()
    tokenizer(x)[0, number].sum().backward()
    assert x.grad is not None
    places = x.grad[0].abs().amax(0).nonzero()
    first = torch.tensor(corner)
    before, after = first - places, places - (first + tokenizer.patch - 1)
    return max(0, int(torch.maximum(before, after).max()))
