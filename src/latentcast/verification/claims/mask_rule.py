"""The rule of the masks: each size and each cell from the random numbers of its step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from latentcast.config import Blocks, ContextBlocks, ReferenceBlocks
from latentcast.config.masks import MaskConfig, TargetBlocks
from latentcast.objectives.jepa.mask_shapes import MaskShape, mask_shapes
from latentcast.objectives.jepa.masks import BlockMasks, LeadMasks, StretchMasks
from latentcast.objectives.jepa.reference_masks import ReferenceMasks
from latentcast.objectives.masked import MaskedConfig, span_masks
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, equal, none
from latentcast.verification.observe.jepa import Grid, is_jepa
from latentcast.verification.observe.mask_rule import (
    block_shapes,
    blocks_of,
    cells_of,
    mean_sizes,
    over_leads,
    plain,
    reference_masks,
    stretch_shapes,
    stretches_of,
)
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.twin import Twin

RULE = "our design, law 1: masks are a function of (seed, step, sample)"
GRIDS: tuple[tuple[Grid, ...], ...] = (
    ((96,),),
    ((96,), (24,), (8,)),
    ((12, 12),),
    ((8, 16), (4, 4)),
    ((20, 6), (10, 3)),
    ((5, 40),),
)
"""One axis and two, wide and high, with and without coarser levels."""
BATCH = 5


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
            ("blocks", blocks, block_shapes(grids, blocks, coarser, seed)),
        ]
        if len(grids[0]) == 1:
            ways.append(("stretches", stretches, stretch_shapes(grids, stretches, seed)))
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
            sizes += [f"mean of {name} on {grids}"] * (
                sampler.sizes() != mean_sizes(shapes, name, counts)
            )
            if len(grids[0]) == 1:
                context, levels = mean_sizes(shapes, name, counts)
                thrice = 3 * context, tuple((count, 3 * cells) for count, cells in levels)
                sizes += [f"mean of {name} over leads"] * (leads.sizes() != thrice)
            for step in range(4):
                draw = Draw(seed, step, ids)
                shape = shapes[draw.choice("mask-shape", len(shapes))]
                for flags in (None, valid):
                    own = (
                        blocks_of(grids, counts, shape, draw, flags) if name == "blocks"
                        else stretches_of(grids, shape, draw, flags)
                    )  # fmt: skip
                    wrong += [f"{name} on {grids}, step {step}"] * (
                        plain(sampler(draw, flags)) != own
                    )
                if len(grids[0]) == 1:
                    visible = valid.unsqueeze(1) & torch.tensor([False, True, False])[:, None]
                    found = plain(leads(draw, visible.flatten(1)))
                    repeated = over_leads(own, grids)
                    wrong += [f"{name} over leads, step {step}"] * (found != repeated)
    return all_of(none("other sizes", sizes), none("other cells", wrong), grids=len(GRIDS))


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
            own, blocks, tries = reference_masks(grid, config, draw)
            relaxed += tries
            wrong += [f"{grid}, step {step}"] * (
                (context.tolist(), targets.tolist()) != (own, blocks)
            )
    return all_of(none("other cells", wrong), above("targets given up", relaxed, 0))


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
        "a context of 64": (
            of(square, blocks(0.09, 65)),
            "leave a context of 64, least_context is 65",
        ),
        "its fix": (of(square, blocks(0.09, 65)), "or objective.masks.least_context=64"),
        "nothing left": (
            of(square, blocks(0.3, 1)),
            "leave a context of 0, least_context is 1; use "
            "fewer or smaller targets, a smaller encoder.patch",
        ),
        "its blocks": (
            of(((40,), (10,)), blocks(0.2, 21, targets=2), 1),
            "2 blocks of 8 on level 0 (40), 1 blocks of 1 on level 1 (10) can hide 20 of",
        ),
        "a short stretch": (
            of(((100,),), stretches(0.09, 10)),
            "9% of 100 patches are a context of 9",
        ),
        "its shorter one": (
            of(((100,),), stretches(0.09, 10)),
            "use objective.masks.least_block=9, ",
        ),
        "all of it": (
            of(((100,),), stretches(1.0, 10)),
            "a context of 100, which is no stretch of at "
            "least 10 that leaves a target; use another",
        ),
        "none of it": (of(((10,),), stretches(0.01, 1)), "a context of 0, which is no stretch"),
        "coarse cells": (of(((100,), (2,)), stretches(0.6, 10)), "touch every cell of level 1 (2)"),
        "coarser ones": (
            of(((100,), (50,), (2,)), stretches(0.6, 10)),
            "level 2 (2), nothing would be "
            "left to predict; use a smaller context_share or a smaller "
            "objective.coarser.1.stride",
        ),
        "one axis": (of(((64,),), reference()), "kind reference is made for images"),
        "a target of 9": (of(((8, 8),), reference(min_keep=9)), "a target of 3 × 3 patches"),
        "a target that never keeps": (
            of(small, reference(min_keep=4)),
            "is not more than min_keep 4",
        ),
        "the largest": (of(((16, 16),), reference(min_keep=60)), "is not more than min_keep 60"),
        "a context of 4": (
            of(
                ((6, 6),),
                reference(target_scale=(0.5, 0.5), context_scale=(0.12, 0.12), min_keep=4),
            ),
            "a context of 2 × 2 patches",
        ),
        "a context at times": (
            of(((6, 6),), reference(target_scale=(0.5, 0.5), min_keep=9, context_scale=(0.2, 0.9))),
            "a context of 3 × 3",
        ),
    }
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


@claim(
    "masked.spans",
    "Spans are as many as the ratio of the tokens amounts to, cubes of their "
    "side, at places that touch the grid, pushed inside.",
    source="our design, docs/masked.md",
    about=lambda twin: isinstance(twin.recipe.objective, MaskedConfig),
)
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
        cells = cells_of(draw, "masked", grid, (side,) * len(grid), count)
        expected = [sorted(set[int]().union(*blocks)) for blocks in cells]
        found = [row.nonzero()[:, 0].tolist() for row in span_masks(config, draw, grid)]
        wrong += [f"{ratio} of {grid}"] * (found != expected)
        counts.append(config.spans(grid))
    return all_of(none("other cells", wrong), equal("spans", str(counts), "[3, 1, 6, 14]"))
