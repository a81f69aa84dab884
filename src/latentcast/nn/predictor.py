"""The predictor: from a context to what a target encoder says of the places it cannot see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentcast.config import EncoderConfig, PredictorConfig
from latentcast.nn.blocks import Block
from latentcast.nn.cells import Grid, gather
from latentcast.nn.encoder import stack_flops
from latentcast.nn.positions import sincos


class Predictor(nn.Module):
    """Narrow transformer over context tokens and one mask token a target (I-JEPA, section 3).

    Each target block is predicted in a row of its own: what one block asks cannot reach another.
    Positions are its own and fixed, added to context and queries alike.

    Args:
        config: of the predictor.
        encoder: whose kind of block is used (norm epsilon, activation), at the predictor's size.
        width: of the tokens it reads and predicts.
        hint: width of a coarser level's prediction given to the queries; None for none.
    """

    def __init__(
        self, config: PredictorConfig, encoder: EncoderConfig, width: int, hint: int | None = None
    ) -> None:
        super().__init__()
        block = encoder.sized(config).model_copy(update={"drop_path": 0.0, "causal": False})
        self.embed = nn.Linear(width, config.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.hint = None if hint is None else nn.Linear(hint, config.width)
        self.blocks = nn.ModuleList(Block(block, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=encoder.norm_eps)
        self.proj = nn.Linear(config.width, width)

    def forward(
        self,
        context: Tensor,
        places: Tensor,
        targets: Tensor,
        grid: Grid,
        seen: Tensor | None = None,
        asked: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Tensor:
        """Predict the tokens at ``targets``.

        Args:
            context: ``(B, K, width)``.
            places: ``(B, K)`` int64, the cell of each context token.
            targets: ``(M, B, T)`` int64, the cells of M target blocks.
            grid: cells along each axis.
            seen: ``(B, K)`` bool, which context tokens count; None when all do.
            asked: ``(M, B, T)`` bool, which targets count; the others reach nothing.
            hint: ``(B, N, hint)``, a coarser level's prediction for each cell of this grid.

        Returns:
            ``(M, B, T, width)``.
        """
        blocks, batch, asks = targets.shape
        width = self.embed.out_features
        known = self.embed(context)
        positions = sincos(grid, width, known.device, known.dtype)
        known = known + positions[places]
        query = self.mask_token.to(known.dtype) + positions[targets]
        if self.hint is not None and hint is not None:
            query = query + gather(self.hint(hint), targets)
        rows = torch.cat([known.expand(blocks, -1, -1, -1), query], dim=2).flatten(0, 1)
        attended = None
        if seen is not None or asked is not None:
            known_seen = places.new_ones(places.shape, dtype=torch.bool) if seen is None else seen
            query_seen = (
                targets.new_ones(targets.shape, dtype=torch.bool) if asked is None else asked
            )
            attended = torch.cat([known_seen.expand(blocks, -1, -1), query_seen], dim=2)
            attended = attended.flatten(0, 1)
        for block in self.blocks:
            rows = block(rows, seen=attended)
        # Only the queries: the last asks of each row, block by block.
        predicted: Tensor = self.proj(self.norm(rows[:, -asks:]))
        return predicted.view(blocks, batch, asks, -1)

    def forward_flops(self, context: int, blocks: int, asks: int, cells: int) -> int:
        """Operations of one sample's forward pass in matrix products; ``cells`` of its grid."""
        ends = 2 * (context * self.embed.weight.numel() + blocks * asks * self.proj.weight.numel())
        if self.hint is not None:
            ends += 2 * cells * self.hint.weight.numel()
        return ends + blocks * stack_flops(self.blocks, context + asks)
