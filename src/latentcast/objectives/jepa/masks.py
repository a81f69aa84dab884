"""Which patches are predicted from which: the context and the targets of every sample.

Drawn from (seed, step, sample), so a sample has the same masks in whichever micro-batch, worker or
rank it is, and a resumed run goes on with the masks it would have had. No loop runs over samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latentcast.config import Blocks, Config, ContextBlocks, ReferenceBlocks
from latentcast.nn.cells import Grid, any_valid, parents
from latentcast.objectives.jepa.config import JepaConfig
from latentcast.objectives.jepa.mask_shapes import MaskShape
from latentcast.objectives.jepa.reference_masks import ReferenceMasks
from latentcast.randomness import Draw


@dataclass(frozen=True)
class Masks:
    """Of a batch.

    Attributes:
        context: ``(B, K)`` int64, ascending: the patches that the student sees.
        targets: for each level ``(M, B, T)`` int64: the cells of M blocks to predict. No patch of
            the context lies under any of them.
    """

    context: Tensor
    targets: tuple[Tensor, ...]


class MaskSampler(Protocol):
    """Gives each step its masks."""

    def __call__(self, draw: Draw, valid: Tensor | None) -> Masks: ...

    def sizes(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        """Patches in a context, and for each level blocks and cells in a block; on average."""
        ...


def mask_sampler(config: Config) -> MaskSampler:
    """The sampler of a run of a JEPA, for the grids of its levels."""
    jepa = config.objective
    assert isinstance(jepa, JepaConfig)
    grids = jepa.mask_grids(config)
    sampler = _on_grids(jepa, grids, config.train.seed)
    return sampler if grids == config.grids else LeadMasks(sampler, config.grids)


def _on_grids(jepa: JepaConfig, grids: tuple[Grid, ...], seed: int) -> MaskSampler:
    shapes = jepa.shapes(grids, seed)
    match jepa.masks:
        case Blocks() as masks:
            own = [masks, *(level.masks for level in jepa.coarser if level.masks is not None)]
            return BlockMasks(grids, tuple(one.targets for one in own), shapes)
        case ContextBlocks():
            return StretchMasks(grids, shapes)
        case ReferenceBlocks() as masks:
            return _Reference(ReferenceMasks(grids[0], masks))


@dataclass(frozen=True)
class BlockMasks:
    """Target blocks on every level, and a context from what they leave free.

    A block is drawn among all placements that touch the grid and pushed inside, so that the
    border is a target nearly as often as the middle (16 × 16 patches, published scales: a corner in
    33 % of samples, the centre in 40 %; drawn among the placements inside, one for 36). The context
    is a uniform subset of the free patches: cut from the front, as the original does, it would
    hardly ever hold the last rows (spec of I-JEPA, M3). Its size is what is free when no two blocks
    overlap, so context and targets are disjoint always (M4) and no draw can fail (M5).

    Args:
        grids: cells along each axis at every level, the patches first.
        counts: target blocks at every level.
        shapes: of which each step takes one.
    """

    grids: tuple[Grid, ...]
    counts: tuple[int, ...]
    shapes: tuple[MaskShape, ...]

    def __call__(self, draw: Draw, valid: Tensor | None = None) -> Masks:
        """Masks of a batch; ``valid`` ``(B, N)`` bool, patches to keep out of the context."""
        shape = self.shapes[draw.choice("mask-shape", len(self.shapes))]
        device, batch = draw.ids.device, len(draw.ids)
        patches = math.prod(self.grids[0])
        hidden = torch.zeros(batch, patches, dtype=torch.bool, device=device)
        targets = []
        for level, (grid, count) in enumerate(zip(self.grids, self.counts, strict=True)):
            cells = block_cells(draw, f"mask-{level}", grid, shape.blocks[level], count)
            covered = torch.zeros(batch, math.prod(grid), dtype=torch.bool, device=device)
            covered.scatter_(1, cells.flatten(1), True)
            hidden |= covered if level == 0 else covered[:, parents(self.grids[0], grid, device)]
            targets.append(cells.transpose(0, 1))
        # The largest random numbers win; hidden patches cannot, unmeasured ones only at need.
        rank = draw.for_cells("mask-context", patches) >> 2
        if valid is not None:
            rank = rank + valid.to(torch.int64) * (1 << 60)
        rank = rank.masked_fill(hidden, -1)
        context = rank.topk(shape.context, dim=1, sorted=False).indices.sort(dim=1).values
        return Masks(context, tuple(targets))

    def sizes(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        n = len(self.shapes)
        return sum(s.context for s in self.shapes) / n, tuple(
            (count, sum(math.prod(s.blocks[level]) for s in self.shapes) / n)
            for level, count in enumerate(self.counts)
        )


def block_cells(draw: Draw, stream: str, grid: Grid, block: Grid, count: int) -> Tensor:
    """Cells of ``count`` blocks of one size for each sample, ascending: ``(B, count, cells)``."""
    device = draw.ids.device
    cells = torch.zeros(len(draw.ids), count, 1, dtype=torch.int64, device=device)
    for axis, (n, extent) in enumerate(zip(grid, block, strict=True)):
        placements = n + extent - 1  # those that touch the grid
        start = draw.for_cells(f"{stream}-{axis}", count) % placements - (extent - 1)
        start = start.clamp(0, n - extent)
        along = start.unsqueeze(-1) + torch.arange(extent, device=device)
        cells = (cells.unsqueeze(-1) * n + along.unsqueeze(-2)).flatten(2)
    return cells


@dataclass(frozen=True)
class StretchMasks:
    """Recordings: a context of a few stretches, and all the rest as one target.

    On a coarser level the target is made of cells without a context patch: as many as are
    certainly left, drawn from those that are.

    The stretches are placed by drawing where to cut the hidden part: every placement is possible,
    none overlaps, none has to be drawn twice.

    Args:
        grids: cells at every level, the patches first.
        shapes: of which each step takes one.
    """

    grids: tuple[Grid, ...]
    shapes: tuple[MaskShape, ...]

    def __call__(self, draw: Draw, valid: Tensor | None = None) -> Masks:
        shape = self.shapes[draw.choice("mask-shape", len(self.shapes))]
        device, patches = draw.ids.device, math.prod(self.grids[0])
        hidden = patches - shape.context
        context = _stretches(draw, shape, torch.full((len(draw.ids), 1), hidden, device=device))
        if valid is not None:  # stretches are placed on the measured patches first
            room = (valid.sum(1, keepdim=True) - shape.context).clamp(min=0)
            order = (~valid).to(torch.int8).sort(dim=1, stable=True).indices
            measured = order.gather(1, _stretches(draw, shape, room)).sort(dim=1).values
            # Holes break a stretch into pieces, which may touch more coarse cells than there are
            # to spare; a target would then lie over the context. Whole stretches never do.
            context = torch.where(self._spares(measured, shape), measured, context)
        in_context = _flags(context, patches)
        rest = in_context.to(torch.int8).sort(dim=1, stable=True).indices[:, :hidden]
        targets = [rest.unsqueeze(0)]
        for level, grid in enumerate(self.grids[1:], start=1):
            touched = any_valid(in_context, self.grids[0], grid)
            rank = draw.for_cells(f"mask-{level}", math.prod(grid)).masked_fill(touched, -1)
            cells = rank.topk(shape.blocks[level][0], dim=1, sorted=False).indices
            targets.append(cells.sort(dim=1).values.unsqueeze(0))
        return Masks(context, tuple(targets))

    def _spares(self, context: Tensor, shape: MaskShape) -> Tensor:
        """Of which samples every coarser level has its targets untouched: bool ``(B, 1)``."""
        in_context = _flags(context, math.prod(self.grids[0]))
        enough = torch.ones(len(context), 1, dtype=torch.bool, device=context.device)
        for level, grid in enumerate(self.grids[1:], start=1):
            free = ~any_valid(in_context, self.grids[0], grid)
            enough &= free.sum(1, keepdim=True) >= shape.blocks[level][0]
        return enough

    def sizes(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        n = len(self.shapes)
        return sum(shape.context for shape in self.shapes) / n, tuple(
            (1, sum(shape.blocks[level][0] for shape in self.shapes) / n)
            for level in range(len(self.grids))
        )


def _stretches(draw: Draw, shape: MaskShape, room: Tensor) -> Tensor:
    """Places ``(B, context)`` of the stretches, with ``room`` ``(B, 1)`` patches between them."""
    # Cuts beyond the ends are pushed inside: without them the ends would hardly ever be context.
    beyond = shape.context // shape.stretches - 1
    cuts = draw.for_cells("mask-cut", shape.stretches) % (room + 1 + 2 * beyond) - beyond
    cuts = torch.minimum(cuts.clamp(min=0), room)
    before = torch.arange(shape.context, device=room.device)
    # Token k of the context lies in stretch k · n // K: lengths differ by one at the most.
    stretch = before * shape.stretches // shape.context
    return before + cuts.sort(dim=1).values[:, stretch]


def _flags(ids: Tensor, n: int) -> Tensor:
    """Which of ``n`` patches are among the ids: bool ``(B, n)``."""
    flags = torch.zeros(len(ids), n, dtype=torch.bool, device=ids.device)
    return flags.scatter_(1, ids, True)


@dataclass(frozen=True)
class LeadMasks:
    """Masks over time alone, the same in all leads: what a lead hides no other shows.

    The limb leads are sums of each other: of a span that one of them shows, nothing would be left
    to predict in the others.

    Args:
        over_time: draws masks on the grids without leads.
        grids: leads × time at every level, the patches first.
    """

    over_time: MaskSampler
    grids: tuple[Grid, ...]

    def __call__(self, draw: Draw, valid: Tensor | None = None) -> Masks:
        # A time is as good as any other when one lead was recorded.
        measured = None if valid is None else valid.view(-1, *self.grids[0]).any(dim=1)
        masks = self.over_time(draw, measured)
        targets = zip(masks.targets, self.grids, strict=True)
        return Masks(
            in_all_leads(masks.context, self.grids[0]),
            tuple(in_all_leads(ids, grid) for ids, grid in targets),
        )

    def sizes(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        context, targets = self.over_time.sizes()
        return context * self.grids[0][0], tuple(
            (count, cells * grid[0])
            for (count, cells), grid in zip(targets, self.grids, strict=True)
        )


def in_all_leads(times: Tensor, grid: Grid) -> Tensor:
    """Cells of time ``(..., K)`` in each row of leads × time: ``(..., rows · K)``, ascending."""
    rows, cells = grid
    first = torch.arange(rows, device=times.device) * cells
    return (first.unsqueeze(-1) + times.unsqueeze(-2)).flatten(-2)


@dataclass(frozen=True)
class _Reference:
    """I-JEPA's own masks in the form of the others."""

    masks: ReferenceMasks

    def __call__(self, draw: Draw, valid: Tensor | None = None) -> Masks:
        context, targets = self.masks(draw)
        return Masks(context, (targets,))

    def sizes(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        # Measured on one batch: the original's sizes follow from its batches.
        masks = self(Draw(0, 0, torch.arange(64)))
        blocks, _, cells = masks.targets[0].shape
        return float(masks.context.shape[1]), ((blocks, float(cells)),)
