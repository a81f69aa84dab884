"""The rule of the masks written out: each size and each cell from the random numbers of its step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentcast import randomness
from latentcast.config import Blocks, ContextBlocks, ReferenceBlocks
from latentcast.config.masks import MaskConfig, TargetBlocks
from latentcast.objectives.jepa.mask_shapes import MaskShape, mask_shapes
from latentcast.objectives.jepa.masks import BlockMasks, LeadMasks, Masks, StretchMasks
from latentcast.objectives.jepa.reference_masks import ReferenceMasks
from latentcast.objectives.masked import MaskedConfig, span_masks
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, equal, none
from latentcast.verification.observe.jepa import Grid, is_jepa, parent_of_each
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.twin import Twin

RULE = "our design, law 1: masks are a function of (seed, step, sample)"
GRIDS: tuple[tuple[Grid, ...], ...] = (
    ((96,),), ((96,), (24,), (8,)), ((12, 12),), ((8, 16), (4, 4)), ((20, 6), (10, 3)), ((5, 40),),
)  # fmt: skip
"""One axis and two, wide and high, with and without coarser levels."""
BATCH = 5


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


def _block_shapes(
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


def _stretch_shapes(grids: tuple[Grid, ...], masks: ContextBlocks, seed: int) -> list[MaskShape]:
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


def _cells(draw: Draw, stream: str, grid: Grid, block: Grid, count: int) -> list[list[set[int]]]:
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


def _plain(masks: Masks) -> Plain:
    return masks.context.tolist(), [targets.tolist() for targets in masks.targets]


def _blocks_of(
    grids: tuple[Grid, ...],
    counts: Sequence[int],
    shape: MaskShape,
    draw: Draw,
    valid: Tensor | None,
) -> Plain:
    patches = math.prod(grids[0])
    targets, hidden = [], [set[int]() for _ in draw.ids]
    for level, (grid, count) in enumerate(zip(grids, counts, strict=True)):
        cells = _cells(draw, f"mask-{level}", grid, shape.blocks[level], count)
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


def _stretches_of(
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


def _coarser(count: int) -> list[TargetBlocks]:
    return [TargetBlocks(targets=1 + n, target_scale=(0.05, 0.13)) for n in range(count)]


@claim("masks.rule", "Every size and every cell of context and targets is what the rule of the "
       "masks gives from the random numbers of seed, step and sample.", source=RULE,
       about=is_jepa)  # fmt: skip
def rule(twin: Twin) -> Evidence:
    """A sample, a block and a cell at a time, on grids of one and two axes, with and without
    levels above, with patches that were not measured, over leads."""
    wrong, sizes, seed, ids = list[str](), list[str](), twin.seed, torch.arange(BATCH) * 3 + 1
    for grids in GRIDS:
        patches = math.prod(grids[0])
        generator = torch.Generator().manual_seed(seed)
        valid = torch.rand(BATCH, patches, generator=generator) < 0.6
        valid[0], valid[1, : patches - 12] = True, False
        blocks = Blocks(targets=2, shapes=5, least_context=1, target_scale=(0.1, 0.3),
                        target_aspect=(0.2, 6.0), context_scale=(0.4, 0.9))  # fmt: skip
        stretches = ContextBlocks(shapes=5, least_block=4, context_share=(0.1, 0.4))
        coarser = _coarser(len(grids) - 1)
        ways: list[tuple[str, MaskConfig, list[MaskShape]]] = [
            ("blocks", blocks, _block_shapes(grids, blocks, coarser, seed)),
        ]
        if len(grids[0]) == 1:
            ways.append(("stretches", stretches, _stretch_shapes(grids, stretches, seed)))
        for name, config, expected in ways:
            shapes = mask_shapes(grids, config, coarser, seed)
            sizes += [f"{name} on {grids}"] * (list(shapes) != expected)
            counts = tuple(m.targets for m in (blocks, *coarser))
            sampler: Any = (
                BlockMasks(grids, counts, shapes)
                if name == "blocks"
                else StretchMasks(grids, shapes)
            )
            leads = LeadMasks(sampler, tuple((3, *grid) for grid in grids))
            sizes += [f"mean of {name} on {grids}"] * (sampler.sizes() != _mean(shapes, name, counts))
            if len(grids[0]) == 1:
                context, levels = _mean(shapes, name, counts)
                thrice = 3 * context, tuple((count, 3 * cells) for count, cells in levels)
                sizes += [f"mean of {name} over leads"] * (leads.sizes() != thrice)
            for step in range(4):
                draw = Draw(seed, step, ids)
                shape = shapes[draw.choice("mask-shape", len(shapes))]
                for flags in (None, valid):
                    own = (
                        _blocks_of(grids, counts, shape, draw, flags) if name == "blocks"
                        else _stretches_of(grids, shape, draw, flags)
                    )  # fmt: skip
                    wrong += [f"{name} on {grids}, step {step}"] * (
                        _plain(sampler(draw, flags)) != own
                    )
                if len(grids[0]) == 1:
                    seen = valid.unsqueeze(1) & torch.tensor([False, True, False])[:, None]
                    found = _plain(leads(draw, seen.flatten(1)))
                    repeated = _over_leads(own, grids)
                    wrong += [f"{name} over leads, step {step}"] * (found != repeated)
    return all_of(none("other sizes", sizes), none("other cells", wrong), grids=len(GRIDS))


def _mean(shapes: Sequence[MaskShape], name: str, counts: Sequence[int]) -> Any:
    """Patches in a context, and of each level the blocks and their cells."""
    each = [[math.prod(shape.blocks[n]) for shape in shapes] for n in range(len(shapes[0].blocks))]
    many = counts if name == "blocks" else [1] * len(each)
    return sum(shape.context for shape in shapes) / len(shapes), tuple(
        (count, sum(cells) / len(shapes)) for count, cells in zip(many, each, strict=True)
    )


def _over_leads(masks: Plain, grids: tuple[Grid, ...], rows: int = 3) -> Plain:
    def repeated(places: list[int], grid: Grid) -> list[int]:
        return [row * grid[0] + place for row in range(rows) for place in places]

    context, targets = masks
    return [repeated(one, grids[0]) for one in context], [
        [[repeated(one, grid) for one in block] for block in level]
        for level, grid in zip(targets, grids, strict=True)
    ]


@claim("masks.rule-reference", "The masks of the original's rule are, cell by cell, what its "
       "collator makes of uniform numbers: size, place, twenty tries a target, cut from the "
       "front.", source="I-JEPA, src/masks/multiblock.py; spec of I-JEPA, 1.1",
       about=is_jepa)  # fmt: skip
def reference_rule(twin: Twin) -> Evidence:
    wrong, relaxed = list[str](), 0
    ways = (
        ((16, 16), ReferenceBlocks()),
        ((9, 12), ReferenceBlocks(min_keep=4, context_scale=(0.2, 0.4))),
        ((12, 12), ReferenceBlocks(min_keep=32, context_scale=(0.4, 0.5))),
        # Here all targets have to be given up; and one share and aspect are all there is.
        ((7, 7), ReferenceBlocks(min_keep=16, targets=2, target_scale=(0.6, 0.6))),
    )
    for grid, config in ways:
        for step in range(3):
            draw = Draw(twin.seed, step, torch.arange(4) * 2 + 9)
            context, targets = ReferenceMasks(grid, config)(draw)
            own, blocks, tries = _reference(grid, config, draw)
            relaxed += tries
            wrong += [f"{grid}, step {step}"] * (
                (context.tolist(), targets.tolist()) != (own, blocks)
            )
    return all_of(none("other cells", wrong), above("targets given up", relaxed, 0))


def _reference(grid: Grid, c: ReferenceBlocks, draw: Draw) -> tuple[Any, Any, int]:
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


@claim("masks.refused", "Masks that cannot be drawn are refused before training by the sentence "
       "that names the fix, and what just fits is not.",
       source="our design, law 6: nothing fails quietly", about=is_jepa)  # fmt: skip
def refused(twin: Twin) -> Evidence:
    def of(grids: tuple[Grid, ...], masks: MaskConfig, above_it: int = 0) -> Callable[[], object]:
        return lambda: mask_shapes(grids, masks, _coarser(above_it), 0)

    def blocks(share: float, least: int, **own: Any) -> Blocks:
        return Blocks(target_scale=(share, share), target_aspect=(1.0, 1.0), least_context=least,
                      context_scale=(1.0, 1.0), **own)  # fmt: skip

    def stretches(share: float, least: int) -> ContextBlocks:
        return ContextBlocks(context_share=(share, share), least_block=least)

    def reference(**own: Any) -> ReferenceBlocks:
        return ReferenceBlocks(**own)

    square, small = ((10, 10),), ((4, 4),)
    certain = {"context_scale": (0.3, 0.3), "min_keep": 4}
    cases: dict[str, Case] = {
        "a context of 64": (of(square, blocks(0.09, 65)), "leave a context of 64, least_context is 65"),
        "its fix": (of(square, blocks(0.09, 65)), "or objective.masks.least_context=64"),
        "nothing left": (of(square, blocks(0.3, 1)), "leave a context of 0, least_context is 1; use "
                         "fewer or smaller targets, a smaller encoder.patch"),
        "its blocks": (of(((40,), (10,)), blocks(0.2, 21, targets=2), 1),
                       "2 blocks of 8 on level 0 (40), 1 blocks of 1 on level 1 (10) can hide 20 of"),
        "a short stretch": (of(((100,),), stretches(0.09, 10)), "9% of 100 patches are a context of 9"),
        "its shorter one": (of(((100,),), stretches(0.09, 10)), "use objective.masks.least_block=9, "),
        "all of it": (of(((100,),), stretches(1.0, 10)), "a context of 100, which is no stretch of at "
                      "least 10 that leaves a target; use another"),
        "none of it": (of(((10,),), stretches(0.01, 1)), "a context of 0, which is no stretch"),
        "coarse cells": (of(((100,), (2,)), stretches(0.6, 10)), "touch every cell of level 1 (2)"),
        "coarser ones": (of(((100,), (50,), (2,)), stretches(0.6, 10)), "level 2 (2), nothing would be "
                         "left to predict; use a smaller context_share or a smaller "
                         "objective.coarser.1.stride"),
        "one axis": (of(((64,),), reference()), "kind reference is made for images"),
        "a target of 9": (of(((8, 8),), reference(min_keep=9)), "a target of 3 × 3 patches"),
        "a target that never keeps": (of(small, reference(min_keep=4)), "is not more than min_keep 4"),
        "the largest": (of(((16, 16),), reference(min_keep=60)), "is not more than min_keep 60"),
        "a context of 4": (of(((6, 6),), reference(target_scale=(0.5, 0.5), context_scale=(0.12, 0.12),
                                                   min_keep=4)), "a context of 2 × 2 patches"),
        "a context at times": (of(((6, 6),), reference(target_scale=(0.5, 0.5), min_keep=9,
                                                       context_scale=(0.2, 0.9))), "a context of 3 × 3"),
    }  # fmt: skip
    return refusals(
        cases,
        {
            "a context of just enough": of(square, blocks(0.09, 64)),
            "a stretch of just enough": of(((100,),), stretches(0.1, 10)),
            "all but one": of(((100,),), stretches(0.99, 10)),
            "cells to spare": of(((100,), (4,)), stretches(0.3, 10)),
            "a reference": of(((16, 16),), reference()),
            "a small one": of(((6, 6),), reference(target_scale=(0.5, 0.5), **certain)),
        },
    )


@claim("masked.spans", "Spans are as many as the ratio of the tokens amounts to, cubes of their "
       "side, at places that touch the grid, pushed inside.", source="our design, docs/masked.md",
       about=lambda twin: isinstance(twin.recipe.objective, MaskedConfig))  # fmt: skip
def spans(twin: Twin) -> Evidence:
    wrong, counts = list[str](), list[int]()
    for grid, ratio, side in (
        ((40,), 0.4, 5),
        ((40,), 0.02, 5),
        ((12, 9), 0.5, 3),
        ((30,), 0.9, 2),
    ):
        config = MaskedConfig(mask_ratio=ratio, mask_span=side)
        draw = Draw(twin.seed, 5, torch.arange(BATCH) * 4 + 2)
        count = max(1, round(ratio * math.prod(grid) / side ** len(grid)))
        cells = _cells(draw, "masked", grid, (side,) * len(grid), count)
        expected = [sorted(set[int]().union(*blocks)) for blocks in cells]
        found = [row.nonzero()[:, 0].tolist() for row in span_masks(config, draw, grid)]
        wrong += [f"{ratio} of {grid}"] * (found != expected)
        counts.append(config.spans(grid))
    return all_of(none("other cells", wrong), equal("spans", str(counts), "[3, 1, 6, 14]"))
