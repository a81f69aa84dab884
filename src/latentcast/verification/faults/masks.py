"""Bugs of masks: leaks, biases, and draws that are not a function of seed, step and sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentcast.config import shapes
from latentcast.config.masks import Blocks
from latentcast.nn.cells import Grid
from latentcast.objectives import masks
from latentcast.objectives.masks import BlockMasks, Masks, StretchMasks
from latentcast.randomness import Draw
from latentcast.verification.claims.mask_sizes import draws_rectangles, sizes_are_drawn
from latentcast.verification.claims.masks import draws_blocks, draws_own
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.jepa import is_hierarchy
from latentcast.verification.observe.twin import Subject

Sampler = Callable[..., Masks]


@contextmanager
def _samplers(change: Callable[[Sampler, Any, Draw, Tensor | None], Masks]) -> Iterator[None]:
    """Both of our samplers call ``change`` with what they were."""

    def make(was: Sampler) -> Sampler:
        return lambda self, draw, valid=None: change(was, self, draw, valid)

    with ExitStack() as stack:
        for kind in (BlockMasks, StretchMasks):
            stack.enter_context(replaced(kind, "__call__", make))
        yield


def _with_draw(change: Callable[[Draw], Draw]) -> Callable[[], AbstractContextManager[None]]:
    return lambda: _samplers(lambda was, self, draw, valid: was(self, change(draw), valid))


def _leaks_patch() -> AbstractContextManager[None]:
    def change(was: Sampler, self: Any, draw: Draw, valid: Tensor | None) -> Masks:
        made = was(self, draw, valid)
        context = made.context.clone()
        context[:, 0] = made.targets[0][0, :, 0]
        return Masks(context.sort(dim=1).values, made.targets)

    return _samplers(change)


def _leaks_column() -> AbstractContextManager[None]:
    """The context is drawn beside blocks that end one column early."""

    def change(was: Sampler, self: Any, draw: Draw, valid: Tensor | None) -> Masks:
        made = was(self, draw, valid)
        width = self.grids[0][-1]
        block = made.targets[0][0]
        right = (block % width).amax(1, keepdim=True)
        leaked = torch.where(block % width == right, block, block[:, -1:])
        count = min(len(self.grids[0]), made.context.shape[1])
        context = torch.cat([made.context[:, count:], leaked[:, -count:]], dim=1)
        return Masks(context.sort(dim=1).values, made.targets)

    return _samplers(change)


def _overlap_allowed() -> AbstractContextManager[None]:
    def change(was: Sampler, self: Any, draw: Draw, valid: Tensor | None) -> Masks:
        made = was(self, draw, valid)
        rank = draw.for_cells("context", math.prod(self.grids[0]))
        context = rank.topk(made.context.shape[1], dim=1).indices.sort(dim=1).values
        return Masks(context, made.targets)

    return _samplers(change)


def _measured_first() -> AbstractContextManager[None]:
    """Measured patches are preferred after the hidden ones were ruled out: they come back."""

    def change(was: Sampler, self: Any, draw: Draw, valid: Tensor | None) -> Masks:
        made = was(self, draw, valid)
        if valid is None:
            return made
        rank = draw.for_cells("context", math.prod(self.grids[0])) >> 2
        rank = rank + valid.to(torch.int64) * (1 << 60)
        context = rank.topk(made.context.shape[1], dim=1).indices.sort(dim=1).values
        return Masks(context, made.targets)

    return _samplers(change)


def _ends_preferred() -> AbstractContextManager[None]:
    """Stretches are placed so far beyond the ends that most are pushed back to them."""

    def places(draw: Draw, shape: Any, room: Tensor) -> Tensor:
        beyond = shape.context * shape.stretches - 1
        cuts = draw.for_cells("mask-cut", shape.stretches) % (room + 1 + 2 * beyond) - beyond
        cuts = torch.minimum(cuts.clamp(min=0), room).sort(dim=1).values
        before = torch.arange(shape.context)
        return before + cuts[:, before * shape.stretches // shape.context]

    return replaced(masks, "_stretches", lambda was: places)


def _with_valid(
    change: Callable[[Tensor], Tensor | None],
) -> Callable[[], AbstractContextManager[None]]:
    return lambda: _samplers(lambda was, self, draw, valid: was(
        self, draw, None if valid is None else change(valid)))  # fmt: skip


def _last_place_missed() -> AbstractContextManager[None]:
    """The upper end of the draw is left out: one place fewer than touch the grid."""

    def cells(draw: Draw, stream: str, grid: Grid, block: Grid, count: int) -> Tensor:
        found = torch.zeros(len(draw.ids), count, 1, dtype=torch.int64)
        for axis, (n, extent) in enumerate(zip(grid, block, strict=True)):
            start = draw.for_cells(f"{stream}-{axis}", count) % max(1, n + extent - 2)
            start = (start - (extent - 1)).clamp(0, n - extent)
            along = start.unsqueeze(-1) + torch.arange(extent)
            found = (found.unsqueeze(-1) * n + along.unsqueeze(-2)).flatten(2)
        return found

    return replaced(masks, "_block_cells", lambda was: cells)


def _coarse_ignored() -> AbstractContextManager[None]:
    """The context knows only of the targets of the finest level."""

    def make(was: Sampler) -> Sampler:
        def call(self: BlockMasks, draw: Draw, valid: Tensor | None = None) -> Masks:
            finest = BlockMasks(self.grids[:1], self.counts[:1], self.shapes)
            return Masks(was(finest, draw, valid).context, was(self, draw, valid).targets)

        return call

    return replaced(BlockMasks, "__call__", make)


def _raster_parents() -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        def parents(fine: Grid, coarse: Grid, device: torch.device) -> Tensor:
            cells, above = math.prod(fine), math.prod(coarse)
            return torch.arange(cells, device=device) * above // cells

        return parents

    return replaced(masks, "parents", make)


def _raster_prefix() -> AbstractContextManager[None]:
    """The free patches are cut to the common length from the front."""

    def make(was: Any) -> Any:
        def for_cells(self: Draw, stream: str, n: int) -> Tensor:
            if stream != "mask-context":
                found: Tensor = was(self, stream, n)
                return found
            first = torch.arange(n, 0, -1, device=self.ids.device) << 40
            return first.expand(len(self.ids), n)

        return for_cells

    return replaced(Draw, "for_cells", make)


def _front_stretch() -> AbstractContextManager[None]:
    """The cuts are drawn and forgotten: every context is the beginning of the recording."""

    def make(was: Sampler) -> Sampler:
        def call(self: StretchMasks, draw: Draw, valid: Tensor | None = None) -> Masks:
            made = was(self, draw, valid)
            count, batch = made.context.shape[1], len(made.context)
            every = torch.arange(math.prod(self.grids[0]))
            rest = every[count:].expand(1, batch, -1)
            return Masks(every[:count].expand(batch, -1), (rest, *made.targets[1:]))

        return call

    return replaced(StretchMasks, "__call__", make)


def _touched_cells() -> AbstractContextManager[None]:
    """Coarse targets beside stretches are drawn from all cells, those of the context too."""
    return replaced(masks, "any_seen", lambda was: lambda *args: torch.zeros_like(was(*args)))


def _placed(
    start_of: Callable[[Tensor, int, int], Tensor], wrap: bool = False
) -> AbstractContextManager[None]:
    """Blocks at other starts, given draws, the extent of the grid and of the block."""

    def make(was: Any) -> Any:
        def cells_of(draw: Draw, stream: str, grid: Grid, block: Grid, count: int) -> Tensor:
            cells = torch.zeros(len(draw.ids), count, 1, dtype=torch.int64)
            for axis, (n, extent) in enumerate(zip(grid, block, strict=True)):
                start = start_of(draw.for_cells(f"{stream}-{axis}", count), n, extent)
                along = start.unsqueeze(-1) + torch.arange(extent)
                along = along % n if wrap else along
                cells = (cells.unsqueeze(-1) * n + along.unsqueeze(-2)).flatten(2)
            return cells

        return cells_of

    return replaced(masks, "_block_cells", make)


def _last_row_dead() -> AbstractContextManager[None]:
    """An exclusive upper bound."""
    return _placed(lambda numbers, n, extent: numbers % max(1, n - extent))


def _wrapped() -> AbstractContextManager[None]:
    return _placed(lambda numbers, n, extent: numbers % n, wrap=True)


def _scale_of_side() -> AbstractContextManager[None]:
    """The scale is taken for the share of a side and not of the area."""

    def make(was: Any) -> Any:
        def block_extent(grid: Grid, scale: float, aspect: float) -> Grid:
            return tuple(max(1, round(n * scale)) for n in grid)

        return block_extent

    return replaced(shapes, "block_extent", make)


def _one_number() -> AbstractContextManager[None]:
    """Scale and aspect from one and the same draw."""

    def make(was: Any) -> Any:
        return lambda interval, count, stream: was(interval, count, 12345)

    return replaced(shapes, "_stratified", make)


def _short_stretches() -> AbstractContextManager[None]:
    """As many stretches as the context has patches, nearly: none keeps its least length."""

    def make(was: Any) -> Any:
        def stretches(*args: Any) -> Any:
            return tuple(replace(shape, stretches=shape.context // 2) for shape in was(*args))

        return stretches

    return replaced(shapes, "_stretches", make)


def _one_shape() -> AbstractContextManager[None]:
    """The first shape is that of every step."""
    return replaced(Draw, "choice", lambda was: lambda self, stream, n: 0)


def _stateful() -> AbstractContextManager[None]:
    """The sampler draws from the process's global generator."""
    return _with_draw(lambda draw: replace(draw, seed=int(torch.randint(1 << 30, ()))))()


def _is_stretches(subject: Subject) -> bool:
    return draws_own(subject) and not draws_blocks(subject)


def _has_block_levels(subject: Subject) -> bool:
    return draws_blocks(subject) and is_hierarchy(subject)


def _is_square_hierarchy(subject: Subject) -> bool:
    return _has_block_levels(subject) and len(subject.recipe.grids[0]) == 2


def _scaled(subject: Subject) -> bool:
    jepa = getattr(subject.recipe.objective, "masks", None)
    return isinstance(jepa, Blocks) and draws_rectangles(subject)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "masks.leaks-patch",
        "One target patch of every sample stays in the context.",
        "classic; spec of I-JEPA, M4",
        _leaks_patch,
        ("masks.disjoint",),
        draws_own,
    ),
    Fault(
        "masks.leaks-column",
        "The context is drawn beside blocks that end one column early.",
        "classic: off by one in the extent of a block",
        _leaks_column,
        ("masks.disjoint",),
        draws_own,
    ),
    Fault(
        "masks.last-place-missed",
        "A block is placed at one place fewer than touch the grid.",
        "spec of I-JEPA, M1: an exclusive upper bound",
        _last_place_missed,
        ("masks.no-side",),
        draws_blocks,
    ),
    Fault(
        "masks.overlap-allowed",
        "The context is drawn from all patches, those of the targets too.",
        "spec of I-JEPA, M4 (allow_overlap)",
        _overlap_allowed,
        ("masks.disjoint",),
        draws_own,
    ),
    Fault(
        "masks.measured-first",
        "Where patches are missing, measured ones return to the context although they are targets.",
        "classic: two conditions in the wrong order",
        _measured_first,
        ("masks.holes",),
        draws_own,
    ),
    Fault(
        "masks.ends-preferred",
        "Most stretches lie at the ends of a recording.",
        "classic: a margin multiplied and not divided",
        _ends_preferred,
        ("masks.everywhere",),
        lambda subject: draws_own(subject) and not draws_blocks(subject),
    ),
    Fault(
        "masks.missing-first",
        "Contexts are made of what was not measured, as far as it goes.",
        "classic: a condition inverted",
        _with_valid(lambda valid: ~valid),
        ("masks.measured-first",),
        draws_own,
    ),
    Fault(
        "masks.missing-ignored",
        "Contexts are drawn without regard to what was measured.",
        "classic: an argument that nothing reads",
        _with_valid(lambda valid: None),
        ("masks.measured-first",),
        draws_own,
    ),
    Fault(
        "masks.coarse-ignored",
        "What a coarse target covers stays visible to the finest level.",
        "spec of H-JEPA, 2.2: masks of the upper levels are thrown away",
        _coarse_ignored,
        ("masks.disjoint", "masks.coarse-hides", "hierarchy.coarse-hides"),
        _has_block_levels,
    ),
    Fault(
        "masks.touched-cells",
        "Coarse targets beside stretches are drawn from all cells, those of the context too.",
        "classic: a mask on the finest level alone",
        _touched_cells,
        ("masks.disjoint", "masks.coarse-hides", "hierarchy.coarse-hides"),
        lambda subject: _is_stretches(subject) and is_hierarchy(subject),
    ),
    Fault(
        "masks.raster-parents",
        "A coarse target hides as many patches in raster order instead of those under it.",
        "spec of H-JEPA, defect D17",
        _raster_parents,
        ("masks.disjoint", "masks.coarse-hides", "hierarchy.coarse-hides"),
        _is_square_hierarchy,
    ),
    Fault(
        "masks.raster-prefix",
        "Contexts are cut to one length from the front.",
        "spec of I-JEPA, M3",
        _raster_prefix,
        ("masks.unbiased",),
        draws_blocks,
    ),
    Fault(
        "masks.front-stretch",
        "Every context is the beginning of the recording.",
        "classic: drawn offsets that are never used",
        _front_stretch,
        ("masks.everywhere", "masks.unbiased", "masks.samples-differ"),
        _is_stretches,
    ),
    Fault(
        "masks.last-row-dead",
        "Blocks are placed with an exclusive upper bound: the last row and column are no target.",
        "spec of I-JEPA, M1",
        _last_row_dead,
        ("masks.everywhere",),
        draws_blocks,
    ),
    Fault(
        "masks.wrapped",
        "A block that leaves the grid comes back on the other side.",
        "classic: modulo where a clamp belongs",
        _wrapped,
        ("masks.sizes",),
        draws_blocks,
    ),
    Fault(
        "masks.scale-of-side",
        "The scale of a block is taken for the share of its sides.",
        "classic: a side for an area",
        _scale_of_side,
        ("masks.sizes",),
        draws_rectangles,
    ),
    Fault(
        "masks.one-number",
        "One number decides scale and aspect of a block.",
        "spec of I-JEPA, 1.1",
        _one_number,
        ("masks.scale-aspect",),
        _scaled,
    ),
    Fault(
        "masks.one-shape",
        "All steps have blocks and contexts of one size.",
        "spec of I-JEPA, M2 (a context block that is always the same)",
        _one_shape,
        ("masks.sizes-vary",),
        sizes_are_drawn,
    ),
    Fault(
        "masks.short-stretches",
        "Stretches of context fall short of their least length.",
        "classic: a setting that is never read",
        _short_stretches,
        ("masks.sizes",),
        _is_stretches,
    ),
    Fault(
        "masks.same-for-all-samples",
        "One draw of masks for the whole batch.",
        "classic",
        _with_draw(lambda draw: replace(draw, ids=torch.zeros_like(draw.ids))),
        ("masks.samples-differ",),
        draws_own,
    ),
    Fault(
        "masks.same-for-all-steps",
        "Masks do not depend on the step.",
        "classic: a counter that never moves",
        _with_draw(lambda draw: replace(draw, step=0)),
        ("masks.steps-differ",),
        draws_own,
    ),
    Fault(
        "masks.by-place-in-batch",
        "Masks go by a sample's place in its micro-batch.",
        "classic; our design, law 1",
        _with_draw(lambda draw: replace(draw, ids=torch.arange(len(draw.ids)))),
        ("masks.micro-batches",),
        draws_own,
    ),
    Fault(
        "masks.stateful",
        "Masks come from the process's global generator.",
        "spec of I-JEPA, 1.1 (locations from the worker's global state)",
        _stateful,
        ("masks.micro-batches",),
        draws_own,
    ),
)
