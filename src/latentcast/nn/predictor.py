"""The predictor: from a context to the target encoder's tokens of the hidden cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentcast.config import EncoderConfig, PredictorConfig
from latentcast.nn.blocks import Block
from latentcast.nn.cells import Grid, gather
from latentcast.nn.positions import LeadEmbedding, over_rows, sincos
from latentcast.nn.transformer import stack_flops


class Predictor(nn.Module):
    """Narrow transformer over context tokens and one mask token a target (I-JEPA, section 3).

    Each target block is predicted in a row of its own: no query of one block reaches another.
    Positions are its own and fixed, added to context and queries alike.

    Args:
        config: of the predictor.
        blocks: kind of block (norm epsilon, activation), used at the predictor's size.
        width: of the tokens it reads and predicts.
        hint: width of a coarser level's prediction given to the queries; None for none.
        rows: of leads along the first axis of its grid; None where that axis has coordinates.
    """

    def __init__(
        self,
        config: PredictorConfig,
        blocks: EncoderConfig,
        width: int,
        hint: int | None = None,
        rows: int | None = None,
    ) -> None:
        super().__init__()
        block = blocks.sized(config).model_copy(update={"drop_path": 0.0, "causal": False})
        self.embed = nn.Linear(width, config.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.hint = None if hint is None else nn.Linear(hint, config.width)
        self.rows = rows
        # As long as the fixed positions beside it: a query has nothing else to tell its lead.
        several = rows if rows is not None and rows > 1 else None
        self.leads = LeadEmbedding(several, config.width, math.sqrt(0.5)) if several else None
        self.blocks = nn.ModuleList(Block(block, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=blocks.norm_eps)
        self.proj = nn.Linear(config.width, width)

    def forward(
        self,
        context: Tensor,
        context_ids: Tensor,
        target_ids: Tensor,
        grid: Grid,
        context_valid: Tensor | None = None,
        target_valid: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Tensor:
        """Predict the tokens at ``target_ids``.

        Args:
            context: ``(B, K, width)``.
            context_ids: ``(B, K)`` int64, the cell of each context token.
            target_ids: ``(M, B, T)`` int64, the cells of M target blocks.
            grid: cells along each axis.
            context_valid: ``(B, K)`` bool, which context tokens count; None when all do.
            target_valid: ``(M, B, T)`` bool, which targets count; the others reach nothing.
            hint: ``(B, N, hint)``, a coarser level's prediction for each cell of this grid.

        Returns:
            ``(M, B, T, width)``.
        """
        blocks, batch, targets = target_ids.shape
        width = self.embed.out_features
        tokens = self.embed(context)
        placed = grid if self.rows is None else grid[1:]
        positions = over_rows(sincos(placed, width, tokens.device, tokens.dtype), self.rows)
        if self.leads is not None:
            positions = positions + self.leads(placed[0]).to(tokens.dtype)
        tokens = tokens + positions[context_ids]
        query = self.mask_token.to(tokens.dtype) + positions[target_ids]
        if self.hint is not None and hint is not None:
            query = query + gather(self.hint(hint), target_ids)
        rows = torch.cat([tokens.expand(blocks, -1, -1, -1), query], dim=2).flatten(0, 1)
        valid = None
        if context_valid is not None or target_valid is not None:
            flags = [
                torch.ones_like(ids, dtype=torch.bool) if flag is None else flag
                for ids, flag in ((context_ids, context_valid), (target_ids, target_valid))
            ]
            valid = torch.cat([flags[0].expand(blocks, -1, -1), flags[1]], dim=2).flatten(0, 1)
        for block in self.blocks:
            rows = block(rows, valid=valid)
        # Only the queries, the last tokens of each row, block by block.
        predicted: Tensor = self.proj(self.norm(rows[:, -targets:]))
        return predicted.view(blocks, batch, targets, -1)

    def flops(self, context: int, blocks: int, targets: int, cells: int) -> int:
        """Operations of one sample's forward pass in matrix products; ``cells`` of its grid."""
        ends = context * self.embed.weight.numel() + blocks * targets * self.proj.weight.numel()
        hint = 0 if self.hint is None else cells * self.hint.weight.numel()
        return 2 * (ends + hint) + blocks * stack_flops(self.blocks, context + targets)
