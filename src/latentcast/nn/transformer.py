"""The transformer over patches."""

from __future__ import annotations

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.config import BACKBONES, Config, EncoderConfig, SinCos
from latentcast.nn.base import Encoder
from latentcast.nn.blocks import Block
from latentcast.nn.cells import Grid, gather, gather_flags
from latentcast.nn.positions import (
    LeadEmbedding,
    Tables,
    augment_coordinates,
    over_rows,
    patch_coordinates,
    rotary_tables,
    sincos,
)
from latentcast.nn.tokens import PatchEmbedding, Tokenizer
from latentcast.randomness import Draw


@BACKBONES.register
class PatchEncoder(Encoder):
    """Patch embeddings, with or without CLS → pre-norm transformer → final norm.

    Args:
        config: the transformer.
        channels: of the input (leads or colours).
        axes: 1 for recordings, 2 for images.
        patch_seconds: duration of a patch; needed for positions in seconds.
        lead_rows: leads of a recording of which each token is of one: positions are along time
            alone, and each lead has a learned vector. None where a token is of all channels.
    """

    settings = EncoderConfig
    stretch: tuple[float, ...] | None = None
    """Cells of training in a cell, see :func:`~latentcast.nn.positions.interpolated`."""

    def __init__(
        self,
        config: EncoderConfig,
        channels: int,
        axes: int,
        patch_seconds: float | None = None,
        lead_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.patch_seconds, self.lead_rows = config, patch_seconds, lead_rows
        self.width, self.causal, self.prefix = config.width, config.causal, config.prefix
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width)) if config.cls else None
        self.patches = self.make_tokenizer(channels, axes)
        self.leads = None if lead_rows is None else LeadEmbedding(lead_rows, config.width)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def make_tokenizer(self, channels: int, axes: int) -> Tokenizer:
        """What makes a token of a patch; a subclass may have another."""
        config = self.config
        return PatchEmbedding(
            channels, axes, config.patch, config.width, config.patch_std, self.lead_rows
        )

    @classmethod
    def of(cls, config: Config) -> Self:
        assert isinstance(config.encoder, EncoderConfig)
        axes, rows = len(config.input.size), config.input.lead_rows
        return cls(config.encoder, config.input.channels, axes, config.patch_seconds, rows)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.patches

    def embed(self, values: Tensor) -> Tensor:
        """``(B, channels, *size)`` to CLS and patch embeddings ``(B, prefix + N, width)``.

        Fixed positions are added here; rotary ones act inside the attention.
        """
        patches = super().embed(values)
        grid = self._placed(tuple(values.shape[2:]))
        if isinstance(self.config.positions, SinCos):
            width, device, dtype = self.config.width, patches.device, patches.dtype
            fixed = sincos(grid, width, device, dtype, self.stretch)
            patches = patches + over_rows(fixed, self.lead_rows)
        if self.leads is not None:
            patches = patches + self.leads(grid[0])
        if self.cls is None:
            return patches
        return torch.cat([self.cls.expand(patches.shape[0], -1, -1), patches], dim=1)

    def layers(
        self,
        tokens: Tensor,
        size: Grid,
        draw: Draw | None = None,
        kept: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> list[Tensor]:
        """Every depth: the embedding, the output of each block, the final norm.

        Dropped tokens are gone before the first block, not zeroed: the cost is that of K tokens.
        """
        tables = self.tables(size, tokens.device, draw)
        if kept is not None:
            tokens = gather(tokens, kept)
            valid = None if valid is None else gather_flags(valid, kept)
            if tables is not None:
                tables = (tables[0][kept].unsqueeze(1), tables[1][kept].unsqueeze(1))
        if valid is not None and self.prefix:  # CLS may always be attended to
            valid = F.pad(valid, (self.prefix, 0), value=True)
        states = [tokens]
        for block in self.blocks:
            assert isinstance(block, Block)
            states.append(block(states[-1], tables, block.keep(draw), valid))
        return [*states, self.norm(states[-1])]

    def tables(self, size: Grid, device: torch.device, draw: Draw | None = None) -> Tables | None:
        """Rotary tables ``(prefix + N, head)`` for an input of this size; CLS is not rotated.

        None without rotary positions.
        """
        config = self.config
        if isinstance(config.positions, SinCos):
            return None
        grid = self._placed(size)
        coordinates = patch_coordinates(grid, config.positions, self.patch_seconds, device)
        # Angles in the precision of the weights, so that a float64 model is float64 throughout.
        weight = self.norm.weight
        coordinates = coordinates.to(torch.promote_types(weight.dtype, torch.float32))
        if draw is not None:
            coordinates = augment_coordinates(coordinates, config.positions, draw)
        head, coordinates = config.width // config.heads, over_rows(coordinates, self.lead_rows)
        return rotary_tables(coordinates, head, config.positions.theta, self.prefix)

    def _placed(self, size: Grid) -> Grid:
        """Tokens along each axis that has coordinates."""
        grid = self.patches.grid(size)
        return grid if self.lead_rows is None else grid[1:]

    @property
    def layer_names(self) -> tuple[str, ...]:
        return ("embedding", *(f"block {n}" for n in range(1, self.config.depth + 1)), "norm")

    def flops(self, size: Grid, kept: int | None = None) -> int:
        patches = math.prod(self.patches.grid(size))
        tokens = self.prefix + (patches if kept is None else kept)
        return self.patches.flops(patches) + stack_flops(self.blocks, tokens)


def stack_flops(layers: nn.Module, tokens: int) -> int:
    """Operations in the matrix products of a stack for one sequence of tokens.

    Two for each multiply-add; attention counted in full, as is customary, also when causal.
    """
    matrices = sum(m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear))
    attention = sum(
        4 * tokens**2 * m.attention.proj.in_features
        for m in layers.modules()
        if isinstance(m, Block)
    )
    return 2 * tokens * matrices + attention
