"""The rule of the masks written out, a sample, a block and a cell at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from latentcast import randomness
from latentcast.config import Blocks, ContextBlocks, ReferenceBlocks
from latentcast.config.masks import TargetBlocks
from latentcast.objectives.jepa.mask_shapes import MaskShape
from latentcast.objectives.jepa.masks import Masks
from latentcast.randomness import Draw
from latentcast.verification.observe.jepa import Grid, parent_of_each


def _spread(interval: Sequence[float], count: int, stream: int) -> list[float]:
    """One number from each part of the interval, in the order of a permutation."""
    order = sorted(range(count), key=lambda n: int(randomness.bits(stream, np.array([n]))[0]))
    inside = randomness.key(stream, "inside")
    low, high = interval
    return [
        low + (high - low) * (part + float(randomness.uniform(inside, np.array([n]))[0])) / count
        for n, part in enumerate(order)
    ]


def _sides(grid: Grid, scale: float, aspect: float) -> Grid:
    """Of a block: whole cells, and what does not fit into one side goes to the other."""
    area = max(1, int(math.prod(grid) * scale))
    if len(grid) == 1:
        return (area,)
    tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if tall > grid[0]:
        tall, wide = grid[0], round(area / grid[0])
    elif wide > grid[1]:
        tall, wide = round(area / grid[1]), grid[1]
    return min(max(tall, 1), grid[0]), min(max(wide, 1), grid[1])


def block_shapes(
    grids: tuple[Grid, ...], masks: Blocks, coarser: Sequence[TargetBlocks], seed: int
) -> list[MaskShape]:
    levels, patches, shapes = [masks, *coarser], math.prod(grids[0]), []
    kept = _spread(masks.context_scale, masks.shapes, randomness.key(seed, "mask-context"))
    drawn = [
        [_spread(interval, masks.shapes, randomness.key(seed, f"mask-{name}", n)) for n, interval in
         enumerate(intervals)]
        for name, intervals in (("scale", [m.target_scale for m in levels]),
                                ("aspect", [m.target_aspect for m in levels]))
    ]  # fmt: skip
    for step in range(masks.shapes):
        sides = tuple(_sides(g, drawn[0][n][step], drawn[1][n][step]) for n, g in enumerate(grids))
        free = patches
        for level, grid, side in zip(levels, grids, sides, strict=True):
            free -= level.targets * math.prod(side) * (patches // math.prod(grid))
        shapes.append(MaskShape(sides, int(kept[step] * max(0, free))))
    return shapes


def stretch_shapes(grids: tuple[Grid, ...], masks: ContextBlocks, seed: int) -> list[MaskShape]:
    patches, shapes = math.prod(grids[0]), []
    shares = _spread(masks.context_share, masks.shapes, randomness.key(seed, "mask-context"))
    for step, share in enumerate(shares):
        context = round(share * patches)
        number = float(
            randomness.uniform(randomness.key(seed, "mask-stretches"), np.array([step]))[0]
        )
        for stretches in range(1 + int(number * (context // masks.least_block)), 0, -1):
            hidden = []
            for grid in grids[1:]:
                cells, stride = math.prod(grid), patches // math.prod(grid)
                lengths = [
                    context // stretches + (k < context % stretches) for k in range(stretches)
                ]
                # The worst place of a stretch begins with the last patch of a cell.
                touched = sum(len({(stride - 1 + p) // stride for p in range(n)}) for n in lengths)
                hidden.append(max(0, cells - touched))
            if all(hidden):
                break
        shapes.append(
            MaskShape(((patches - context,), *((n,) for n in hidden)), context, stretches)
        )
    return shapes


def cells_of(draw: Draw, stream: str, grid: Grid, block: Grid, count: int) -> list[list[set[int]]]:
    """Of each sample and block the cells: a place that touches the grid, pushed inside."""
    numbers = [draw.for_cells(f"{stream}-{axis}", count).tolist() for axis in range(len(grid))]
    found = []
    for sample in range(len(draw.ids)):
        blocks = []
        for n in range(count):
            ranges = []
            for axis, (cells, extent) in enumerate(zip(grid, block, strict=True)):
                begin = numbers[axis][sample][n] % (cells + extent - 1) - (extent - 1)
                begin = min(max(begin, 0), cells - extent)
                ranges.append(range(begin, begin + extent))
            flat = set(ranges[0]) if len(grid) == 1 else {
                i * grid[1] + j for i in ranges[0] for j in ranges[1]
            }  # fmt: skip
            blocks.append(flat)
        found.append(blocks)
    return found


Plain = tuple[list[list[int]], list[list[list[list[int]]]]]
"""Context of each sample; of each level, block and sample the cells."""


def plain(masks: Masks) -> Plain:
    return masks.context.tolist(), [targets.tolist() for targets in masks.targets]


def blocks_of(
    grids: tuple[Grid, ...],
    counts: Sequence[int],
    shape: MaskShape,
    draw: Draw,
    valid: Tensor | None,
) -> Plain:
    patches = math.prod(grids[0])
    targets, hidden = [], [set[int]() for _ in draw.ids]
    for level, (grid, count) in enumerate(zip(grids, counts, strict=True)):
        cells = cells_of(draw, f"mask-{level}", grid, shape.blocks[level], count)
        above_it = parent_of_each(grids[0], grid)
        for own, blocks in zip(hidden, cells, strict=True):
            own |= {p for p in range(patches) if any(above_it[p] in block for block in blocks)}
        targets.append([[sorted(blocks[n]) for blocks in cells] for n in range(count)])
    context = []
    for sample, numbers in enumerate(draw.for_cells("mask-context", patches).tolist()):
        free = [p for p in range(patches) if p not in hidden[sample]]
        measured = {p: valid is None or bool(valid[sample, p]) for p in free}
        best = sorted(free, key=lambda p: (measured[p], numbers[p] >> 2), reverse=True)
        context.append(sorted(best[: shape.context]))
    return context, targets


def stretches_of(
    grids: tuple[Grid, ...], shape: MaskShape, draw: Draw, valid: Tensor | None
) -> Plain:
    patches, stretches = math.prod(grids[0]), shape.stretches
    numbers, beyond = draw.for_cells("mask-cut", stretches).tolist(), shape.context // stretches - 1

    def placed(sample: int, room: int) -> list[int]:
        cuts = [n % (room + 1 + 2 * beyond) - beyond for n in numbers[sample]]
        cuts = sorted(min(max(cut, 0), room) for cut in cuts)
        return [k + cuts[k * stretches // shape.context] for k in range(shape.context)]

    context, targets = list[list[int]](), [list[list[int]]() for _ in grids]
    ranks = [draw.for_cells(f"mask-{n}", math.prod(g)).tolist() for n, g in enumerate(grids)]
    for sample in range(len(draw.ids)):
        own = placed(sample, patches - shape.context)
        if valid is not None:
            measured = [p for p in range(patches) if valid[sample, p]]
            missing = [p for p in range(patches) if not valid[sample, p]]
            inside = placed(sample, max(0, len(measured) - shape.context))
            holes = sorted((measured + missing)[k] for k in inside)
            spare = all(
                math.prod(grid) - len({parent_of_each(grids[0], grid)[p] for p in holes})
                >= shape.blocks[n][0]
                for n, grid in enumerate(grids) if n
            )  # fmt: skip
            own = holes if spare else own
        context.append(own)
        targets[0].append([p for p in range(patches) if p not in own])
        for n, grid in enumerate(grids[1:], start=1):
            touched = {parent_of_each(grids[0], grid)[p] for p in own}
            free = [c for c in range(math.prod(grid)) if c not in touched]
            best = sorted(free, key=lambda c: ranks[n][sample][c], reverse=True)
            targets[n].append(sorted(best[: shape.blocks[n][0]]))
    return context, [[level] for level in targets]


def mean_sizes(shapes: Sequence[MaskShape], name: str, counts: Sequence[int]) -> Any:
    """Patches in a context, and of each level the blocks and their cells."""
    each = [[math.prod(shape.blocks[n]) for shape in shapes] for n in range(len(shapes[0].blocks))]
    many = counts if name == "blocks" else [1] * len(each)
    return sum(shape.context for shape in shapes) / len(shapes), tuple(
        (count, sum(cells) / len(shapes)) for count, cells in zip(many, each, strict=True)
    )


def over_leads(masks: Plain, grids: tuple[Grid, ...], rows: int = 3) -> Plain:
    def repeated(places: list[int], grid: Grid) -> list[int]:
        return [row * grid[0] + place for row in range(rows) for place in places]

    context, targets = masks
    return [repeated(one, grids[0]) for one in context], [
        [[repeated(one, grid) for one in block] for block in level]
        for level, grid in zip(targets, grids, strict=True)
    ]


def reference_masks(grid: Grid, c: ReferenceBlocks, draw: Draw) -> tuple[Any, Any, int]:
    """Sample by sample; how many targets were given up."""
    size = randomness.uniform(randomness.key(draw.seed, draw.step, "mask-size"), np.arange(2))

    def sides(u: float, scale: Any, aspect: Any) -> Grid:
        area = int(math.prod(grid) * (scale[0] + (scale[1] - scale[0]) * u))
        # One number is the share and the aspect; of one share alone the aspect is the lowest.
        turn = aspect[0] + (u if scale[0] < scale[1] else 0.0) * (aspect[1] - aspect[0])
        tall, wide = round(math.sqrt(area * turn)), round(math.sqrt(area / turn))
        return min(tall, grid[0] - 1), min(wide, grid[1] - 1)

    target = sides(float(size[0]), c.target_scale, c.target_aspect)
    around = sides(float(size[1]), c.context_scale, (1.0, 1.0))
    contexts, blocks, given_up = list[list[int]](), list[list[list[int]]](), 0
    for sample in draw.ids.tolist():
        stream, used = randomness.key(draw.seed, draw.step, "mask-place", sample), 0

        def place(extent: Grid) -> set[int]:
            nonlocal used
            down, across = randomness.uniform(stream, np.array([2 * used, 2 * used + 1])).tolist()  # noqa: B023
            used += 1
            top, left = int(down * (grid[0] - extent[0])), int(across * (grid[1] - extent[1]))
            return {i * grid[1] + j for i in range(top, top + extent[0])
                    for j in range(left, left + extent[1])}  # fmt: skip

        own = [place(target) for _ in range(c.targets)]
        blocks.append([sorted(block) for block in own])
        tried = 0
        while True:
            left = max(0, c.targets - tried // 20)
            kept = place(around) - set[int]().union(*own[:left])
            tried += 1
            if len(kept) > c.min_keep:
                break
        given_up += c.targets - left
        contexts.append(sorted(kept))
    shortest = min(map(len, contexts))
    return (
        [one[:shortest] for one in contexts],
        [list(row) for row in zip(*blocks, strict=True)],
        given_up,
    )
