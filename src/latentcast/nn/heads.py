"""Heads that are trained together with an encoder: tokens in, one vector of outputs a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from latentcast.nn.initialise import draw
from latentcast.nn.pooling import pool


class Head(nn.Module, ABC):
    """``(B, N, width)`` tokens and their validity ``(B, N)`` to ``(B, outputs)``."""

    @abstractmethod
    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor: ...


class LinearHead(Head):
    """A linear layer on the normalised mean of the valid tokens."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        # A sample without a valid token has no mean; its output is that of an average one.
        mean = torch.nan_to_num(pool(tokens, valid, "mean"))
        outputs: Tensor = self.linear(self.norm(mean))
        return outputs


class AttentiveHead(Head):
    """A linear layer on what a trained query attends to, in heads of about 64 channels.

    One query for all outputs, as CaiT's class attention (Touvron et al. 2021) without its MLP.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, width // 64), 0, -1) if width % n == 0)
        self.query = nn.Parameter(torch.zeros(width))
        self.norm, self.keys_values = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, outputs)

    def initialise_own(self, generator: torch.Generator) -> None:
        draw(self.query, 0.02, generator)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        width = tokens.shape[-1]
        tokens, part = self.norm(tokens), width // self.heads
        shape = (self.heads, part, width)
        to_keys, to_values = (weight.view(shape) for weight in self.keys_values.weight.chunk(2))
        # The query is brought to the tokens instead of every token to a key: N times cheaper. The
        # bias of the keys is the same for all tokens and leaves the softmax as it is.
        query = torch.einsum("hp,hpw->wh", self.query.view(self.heads, part), to_keys)
        scores = (tokens @ query) * part**-0.5
        # With no valid token at all attention is even, which is no NaN.
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~valid.unsqueeze(-1), lowest).softmax(dim=1)
        mixed = weights.to(tokens.dtype).transpose(1, 2) @ tokens  # (B, heads, width)
        attended = torch.einsum("bhw,hpw->bhp", mixed, to_values).flatten(1)
        attended = attended + self.keys_values.bias.chunk(2)[1]
        outputs: Tensor = self.linear(attended)
        return outputs


HEADS: Final[dict[str, Callable[[int, int], Head]]] = {
    "linear": LinearHead,
    "attentive": AttentiveHead,
}
"""By name; another one is a class and a line here."""
