"""The patch encoder: patches in, one vector a token out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentcast.config import Config, EncoderConfig, SinCos
from latentcast.nn.blocks import Block
from latentcast.nn.cells import gather, gather_flags
from latentcast.nn.initialise import initialise
from latentcast.nn.positions import (
    Tables,
    augment_coordinates,
    patch_coordinates,
    rotary_tables,
    sincos,
)
from latentcast.nn.tokens import PatchEmbedding
from latentcast.randomness import Draw


class PatchEncoder(nn.Module):
    """Patch embeddings, with or without CLS → pre-norm transformer → final norm.

    Two steps, because a NEPA target is the embedding *before* the transformer (spec of NEPA,
    section 1.1) and because a JEPA context drops tokens between them (spec of I-JEPA, 1.2):
    :meth:`embed` and :meth:`transform`.

    Args:
        config: the transformer.
        channels: of the input (leads or colours).
        axes: 1 for recordings, 2 for images.
        patch_seconds: duration of a patch; needed for positions in seconds.
    """

    def __init__(
        self, config: EncoderConfig, channels: int, axes: int, patch_seconds: float | None = None
    ) -> None:
        super().__init__()
        self.config, self.patch_seconds = config, patch_seconds
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width)) if config.cls else None
        self.patches = PatchEmbedding(channels, axes, config.patch, config.width, config.patch_std)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    @classmethod
    def of(cls, config: Config) -> PatchEncoder:
        """The encoder of a run, not initialised yet."""
        size = len(config.input.size)
        return cls(config.encoder, config.input.channels, size, config.patch_seconds)

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return 0 if self.cls is None else 1

    def embed(self, values: Tensor) -> Tensor:
        """``(B, channels, *size)`` to CLS and patch embeddings ``(B, prefix + N, width)``.

        Fixed positions are added here; rotary ones act inside the attention.
        """
        patches: Tensor = self.patches(values)
        if isinstance(self.config.positions, SinCos):
            grid = self.patches.grid(values.shape[2:])
            patches = patches + sincos(grid, self.config.width, patches.device, patches.dtype)
        if self.cls is None:
            return patches
        return torch.cat([self.cls.expand(len(patches), -1, -1), patches], dim=1)

    def transform(
        self, embedding: Tensor, size: tuple[int, ...], draw: Draw | None = None
    ) -> Tensor:
        """The last of :meth:`layers`: ``(B, prefix + N, width)`` after the final norm."""
        return self.layers(embedding, size, draw)[-1]

    def layers(
        self,
        embedding: Tensor,
        size: tuple[int, ...],
        draw: Draw | None = None,
        kept: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> list[Tensor]:
        """Every depth: the embedding, the output of each block, the final norm.

        Args:
            embedding: from :meth:`embed`.
            size: of the input in samples or pixels; the grid and its coordinates follow from it.
            draw: randomness of a training step; None is evaluation (no drop-path, no
                augmentation of the coordinates).
            kept: ``(B, K)`` int64, the patches to keep (without CLS only); all others are dropped
                before the first block, not zeroed: the cost is that of K tokens.
            seen: ``(B, N)`` bool, the patches that may be attended to; None when all may.

        Returns:
            ``depth + 2`` tensors ``(B, T, width)``; see :attr:`layer_names`.
        """
        tables = self.tables(size, embedding.device, draw)
        if kept is not None:
            embedding = gather(embedding, kept)
            seen = None if seen is None else gather_flags(seen, kept)
            if tables is not None:
                tables = (tables[0][kept].unsqueeze(1), tables[1][kept].unsqueeze(1))
        states = [embedding]
        for block in self.blocks:
            assert isinstance(block, Block)
            states.append(block(states[-1], tables, block.kept(draw), seen))
        return [*states, self.norm(states[-1])]

    def read(self, values: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """Patch tokens of every depth for evaluation: ``depth + 2`` times ``(B, N, width)``.

        Args:
            values: ``(B, channels, *size)``.
            valid: ``(B, N)`` bool; a causal encoder ignores it, as it does in training.
        """
        seen = None if self.config.causal else valid
        layers = self.layers(self.embed(values), tuple(values.shape[2:]), seen=seen)
        return [layer[:, self.prefix :] for layer in layers]

    def tables(
        self, size: tuple[int, ...], device: torch.device, draw: Draw | None = None
    ) -> Tables | None:
        """Rotary tables ``(prefix + N, head)`` for an input of this size; CLS is not rotated.

        None without rotary positions.
        """
        config = self.config
        if isinstance(config.positions, SinCos):
            return None
        grid = self.patches.grid(size)
        coordinates = patch_coordinates(grid, config.positions, self.patch_seconds, device)
        # Angles in the precision of the weights, so that a float64 model is float64 throughout.
        weight = self.norm.weight
        coordinates = coordinates.to(torch.promote_types(weight.dtype, torch.float32))
        if draw is not None:
            coordinates = augment_coordinates(coordinates, config.positions, draw)
        head = config.width // config.heads
        return rotary_tables(coordinates, head, config.positions.theta, self.prefix)

    @property
    def layer_names(self) -> tuple[str, ...]:
        return ("embedding", *(f"block {n}" for n in range(1, self.config.depth + 1)), "norm")

    def initialise(self, seed: int) -> None:
        """Draw the published initialisation, a function of the seed alone."""
        initialise(self, seed)

    def forward_flops(self, size: tuple[int, ...], kept: int | None = None) -> int:
        """Floating-point operations of one sample's forward pass in matrix products.

        Args:
            size: of the input.
            kept: patches that enter the blocks; all of them by default.
        """
        patches = math.prod(self.patches.grid(size))
        embedding = 2 * patches * self.patches.weight.numel()
        tokens = self.prefix + (patches if kept is None else kept)
        return embedding + stack_flops(self.blocks, tokens)


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
