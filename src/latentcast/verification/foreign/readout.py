"""A read-out from outside: which patches it depends on, and whether padding counts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from latentcast.verification.evidence import at_most, equal
from latentcast.verification.foreign.networks import evaluated, in_double
from latentcast.verification.foreign.verified import Lines, Verified

SOURCE = "NEPA, classification head: the last token or the mean; a causal CLS has read nothing"
Encode = Callable[[Tensor], Tensor]


def verify_readout(
    encode: Encode, values: Tensor, patches: int, valid: Tensor | None = None
) -> Verified:
    """Look at what an encoder gives for an input: does every patch count, and no padding?

    The input is cut into ``patches`` equal stretches of its last axis, and each is replaced in
    turn; it is run in evaluation mode, in float64 and with every LayerScale at 1.

    Args:
        encode: maps values to one vector for each, ``(B, width)``.
        values: a batch, as ``encode`` takes it.
        patches: stretches along the last axis; each is to be read.
        valid: of each place of the last axis, ``(places,)``; what is False must not be read.
    """
    lines = Lines(SOURCE)
    with evaluated(encode) as networks, in_double(networks), torch.no_grad():
        kind = next((p.dtype for m in networks for p in m.parameters()), values.dtype)
        values = values.to(kind)
        intact = encode(values)
        edges = torch.linspace(0, values.shape[-1], patches + 1).long().tolist()
        counts, blind = torch.ones(values.shape[-1], dtype=torch.bool), list[int]()
        if valid is not None:
            counts = valid.bool().cpu()
        for patch, (start, stop) in enumerate(pairwise(edges)):
            places = torch.arange(start, stop)[counts[start:stop]]
            if len(places) and torch.equal(encode(_other(values, places)), intact):
                blind.append(patch)
        first = {"first": blind[0]} if blind else {}
        lines.add("readout.every-patch", "The output depends on every patch.",
                  equal("patches without effect", len(blind), 0), patches=patches,
                  **first)  # fmt: skip
        if valid is not None:
            padded = encode(_other(values, (~counts).nonzero().flatten()))
            change = float((padded - intact).abs().max())
            lines.add("readout.padding", "The output does not depend on padding.",
                      at_most("largest change", change, 0.0))  # fmt: skip
    return Verified(tuple(lines))


def _other(values: Tensor, places: Tensor) -> Tensor:
    """The values with others, of another shape, at these places."""
    changed = values.clone()
    wave = torch.linspace(-1, 2, len(places)).to(values) if len(places) > 1 else 1.0
    changed[..., places] = changed[..., places] + (values.abs().max() + 1.0) * wave
    return changed
