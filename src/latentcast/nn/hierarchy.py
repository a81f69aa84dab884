"""A stack of levels: patches, and above them coarser grids of merged cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from latentcast.config import EncoderConfig, LevelConfig, SinCos
from latentcast.errors import LatentcastError
from latentcast.nn.base import Encoder, Readable
from latentcast.nn.blocks import Block
from latentcast.nn.cells import Grid, any_valid, gather_flags, parents, pool
from latentcast.nn.initialise import initialise
from latentcast.nn.positions import (
    LeadEmbedding,
    Tables,
    over_rows,
    patch_coordinates,
    rotary_tables,
    sincos,
)
from latentcast.nn.transformer import PatchEncoder, stack_flops
from latentcast.randomness import Draw


@dataclass(frozen=True)
class Tokens:
    """The tokens of one level.

    Attributes:
        values: ``(B, T, width)``.
        ids: ``(B, T)`` int64, the cell of each token.
        valid: ``(B, T)`` bool, tokens made of at least one measured patch; None when all are.
    """

    values: Tensor
    ids: Tensor
    valid: Tensor | None

    def on_grid(self, cells: int) -> tuple[Tensor, Tensor | None]:
        """Values ``(B, cells, width)`` in row-major order, 0 where there is no token, and which
        cells are valid."""
        if self.values.shape[1] == cells:
            return self.values, self.valid
        batch, _, width = self.values.shape
        index = self.ids.unsqueeze(-1).expand(-1, -1, width)
        values = self.values.new_zeros(batch, cells, width).scatter(1, index, self.values)
        flags = torch.ones_like(self.ids, dtype=torch.bool) if self.valid is None else self.valid
        valid = torch.zeros(batch, cells, dtype=torch.bool, device=values.device)
        return values, valid.scatter(1, self.ids, flags)


class Merge(nn.Module):
    """``cell = W · mean(its valid tokens) + b``: from one grid to the next coarser one."""

    def __init__(self, finer: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(finer, width)

    def forward(self, tokens: Tensor, valid: Tensor | None, fine: Grid, coarse: Grid) -> Tensor:
        """``(B, N, finer)`` on the fine grid to ``(B, cells, width)`` on the coarse one."""
        out: Tensor = self.proj(pool(tokens, valid, fine, coarse))
        return out


class Level(nn.Module):
    """``z_ℓ = f_ℓ(merge_ℓ(z_{ℓ-1}))``: a coarser grid with its own blocks.

    Args:
        config: of the level.
        encoder: whose kind of block and of positions is used, at the level's size.
        finer: width of the level below.
        number: 1 for the first level above the patches.
        cell_seconds: duration of a cell; needed for positions in seconds.
        axes: of its grid.
        rows: of merged leads along the first axis, which then has no coordinates; None where it
            has.
    """

    stretch: tuple[float, ...] | None = None
    """Cells of training in a cell, see :func:`~latentcast.nn.positions.interpolated`."""

    def __init__(
        self,
        config: LevelConfig,
        encoder: EncoderConfig,
        finer: int,
        number: int,
        cell_seconds: float | None,
        axes: int,
        rows: int | None = None,
    ) -> None:
        super().__init__()
        self.config = encoder.sized(config)
        self.strides, self.cell_seconds = config.strides(axes), cell_seconds
        self.rows = rows
        self.leads = None if rows in (None, 1) else LeadEmbedding(rows, config.width)
        self.merge = Merge(finer, config.width)
        self.blocks = nn.ModuleList(
            Block(self.config, index, f"level{number}-") for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=encoder.norm_eps)

    def grid(self, fine: Grid) -> Grid:
        """Cells along each axis above a grid.

        Raises:
            LatentcastError: the stride does not divide it; nothing is dropped silently.
        """
        if any(n % stride for n, stride in zip(fine, self.strides, strict=True)):
            cell = " × ".join(map(str, self.strides))
            raise LatentcastError(
                f"a grid of {fine} cells: is no whole number of cells of {cell}; crop or pad the "
                "input to a multiple of them along each axis"
            )
        return tuple(n // stride for n, stride in zip(fine, self.strides, strict=True))

    def forward(self, below: Tokens, fine: Grid, draw: Draw | None) -> Tokens:
        """Tokens of every cell of this level's grid; not valid where nothing below is."""
        coarse = self.grid(fine)
        tokens, valid_below = below.on_grid(math.prod(fine))
        x = self.merge(tokens, valid_below, fine, coarse)
        valid = None if valid_below is None else any_valid(valid_below, fine, coarse)
        placed = coarse if self.rows is None else coarse[1:]
        if isinstance(self.config.positions, SinCos):
            fixed = sincos(placed, self.config.width, x.device, x.dtype, self.stretch)
            x = x + over_rows(fixed, self.rows)
        if self.leads is not None:
            x = x + self.leads(placed[0])
        tables = self._tables(placed, x.device)
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block(x, tables, block.keep(draw), valid)
        ids = torch.arange(math.prod(coarse), device=x.device).expand(x.shape[0], -1)
        return Tokens(self.norm(x), ids, valid)

    def _tables(self, grid: Grid, device: torch.device) -> Tables | None:
        positions = self.config.positions
        if isinstance(positions, SinCos):
            return None
        coordinates = patch_coordinates(grid, positions, self.cell_seconds, device)
        weight = self.norm.weight
        coordinates = coordinates.to(torch.promote_types(weight.dtype, torch.float32))
        coordinates = over_rows(coordinates, self.rows)
        return rotary_tables(
            coordinates, self.config.width // self.config.heads, positions.theta, 0
        )


class Fusion(nn.Module):
    """``u_L = z_L``, ``u_ℓ = z_ℓ + W_ℓ · up(u_{ℓ+1})``: every level with the coarser ones added.

    ``up`` gives each cell the vector of the coarse cell it lies in. Trained by the predictors,
    which read ``u``; the targets are ``z``, so nothing here can make a target easier.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Linear(coarser, finer) for finer, coarser in pairwise(widths)
        )

    def forward(self, levels: list[Tokens], grids: tuple[Grid, ...]) -> list[Tokens]:
        fused = [levels[-1]]
        for n in range(len(levels) - 2, -1, -1):
            level, above = levels[n], fused[0]
            parent = parents(grids[n], grids[n + 1], level.values.device)[level.ids]
            index = parent.unsqueeze(-1).expand(-1, -1, above.values.shape[-1])
            up = self.lateral[n](above.values.gather(1, index))
            fused.insert(0, Tokens(level.values + up, level.ids, level.valid))
        return fused


class Hierarchy(Readable):
    """The bottom-up stack: an encoder and the levels above it, with or without a fusion.

    With no coarser level it is the encoder. The teacher of a JEPA is an average of all of it, so
    no head is shared between predictions and targets (spec of H-JEPA, defect D9).

    Args:
        finest: the encoder.
        coarser: settings of the levels above it.
        fusion: whether the levels are fused.
        blocks: kind of block and of positions on those levels; the encoder's own by default, which
            an encoder that is no transformer does not have.
    """

    def __init__(
        self,
        finest: Encoder,
        coarser: tuple[LevelConfig, ...] = (),
        fusion: bool = False,
        blocks: EncoderConfig | None = None,
    ) -> None:
        super().__init__()
        self.finest, self.causal, seconds = finest, finest.causal, None
        self.lead_rows, rows = finest.lead_rows, [finest.lead_rows]
        axes = finest.tokenizer.axes + (self.lead_rows is not None)
        if isinstance(finest, PatchEncoder):
            blocks, seconds = blocks or finest.config, finest.patch_seconds
        widths, levels = [finest.width], []
        for number, config in enumerate(coarser, start=1):
            assert blocks is not None
            strides = config.strides(axes)
            seconds = None if seconds is None else seconds * strides[-1]
            rows.append(None if rows[-1] is None else rows[-1] // strides[0])
            levels.append(Level(config, blocks, widths[-1], number, seconds, axes, rows[-1]))
            widths.append(config.width)
        self.widths, self.rows = tuple(widths), tuple(rows)
        self.coarser = nn.ModuleList(levels)
        self.fusion = Fusion(self.widths) if fusion else None

    def grid(self, size: Grid) -> Grid:
        return self.finest.grid(size)

    def valid(self, mask: Tensor) -> Tensor:
        return self.finest.valid(mask)

    def grids(self, size: Grid) -> tuple[Grid, ...]:
        """Cells along each axis at every level for an input of this size, the patches first."""
        grids = [self.finest.grid(size)]
        for level in self.coarser:
            assert isinstance(level, Level)
            grids.append(level.grid(grids[-1]))
        return tuple(grids)

    def forward(
        self,
        values: Tensor,
        valid: Tensor | None = None,
        kept: Tensor | None = None,
        draw: Draw | None = None,
    ) -> list[Tokens]:
        """The tokens of every level, bottom-up.

        Args:
            values: ``(B, channels, *size)``.
            valid: ``(B, N)`` bool, patches that were measured; the others are attended to by
                nothing and merged into nothing. None when all were.
            kept: ``(B, K)`` int64, the patches of the context; None is the whole input.
            draw: randomness of a training step; None is evaluation.
        """
        tokens = self.finest.encode(values, valid, kept, draw)
        if kept is None:
            ids = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1)
        else:
            ids, valid = kept, None if valid is None else gather_flags(valid, kept)
        return self._above(Tokens(tokens, ids, valid), self.grids(tuple(values.shape[2:])), draw)

    def fused(self, levels: list[Tokens], size: Grid) -> list[Tokens]:
        """The levels with the coarser ones added to each; as they are without a fusion."""
        return levels if self.fusion is None else self.fusion(levels, self.grids(size))

    def read(self, values: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """Tokens for evaluation, all on the patch grid: a patch gets the vector of its cell."""
        grids = self.grids(tuple(values.shape[2:]))
        layers = self.finest.read(values, valid)
        ids = torch.arange(layers[-1].shape[1], device=values.device).expand(values.shape[0], -1)
        levels = self._above(Tokens(layers[-1], ids, valid), grids, None)
        for level, grid in zip(levels[1:], grids[1:], strict=True):
            layers.append(level.values[:, parents(grids[0], grid, values.device)])
        if self.fusion is not None:
            layers.append(self.fusion(levels, grids)[0].values)
        return layers

    @property
    def layer_names(self) -> tuple[str, ...]:
        coarser = [f"level {number}" for number in range(1, len(self.coarser) + 1)]
        return (*self.finest.layer_names, *coarser, *(["fused"] if self.fusion else []))

    def initialise(self, seed: int) -> None:
        """Draw the initial weights; those of the encoder do not depend on the levels."""
        self.finest.initialise(seed)
        for number, level in enumerate(self.coarser, start=1):
            initialise(level, seed, f"initialise level {number}")
        if self.fusion is not None:
            initialise(self.fusion, seed, "initialise fusion")

    def flops(self, size: Grid, kept: int | None = None) -> int:
        """Operations of one sample's forward pass in matrix products, the fusion included."""
        grids = self.grids(size)
        total = self.finest.flops(size, kept)
        for level, grid in zip(self.coarser, grids[1:], strict=True):
            assert isinstance(level, Level)
            cells = math.prod(grid)
            total += 2 * cells * level.merge.proj.weight.numel()
            total += stack_flops(level.blocks, cells)
        if self.fusion is not None:
            finest = math.prod(grids[0]) if kept is None else kept
            counts = [finest, *(math.prod(grid) for grid in grids[1:])]
            for lateral, count in zip(self.fusion.lateral, counts, strict=False):
                assert isinstance(lateral, nn.Linear)
                total += 2 * count * lateral.weight.numel()
        return total

    def _above(self, finest: Tokens, grids: tuple[Grid, ...], draw: Draw | None) -> list[Tokens]:
        levels = [finest]
        for level, fine in zip(self.coarser, grids, strict=False):
            levels.append(level(levels[-1], fine, draw))
        return levels
