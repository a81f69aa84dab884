"""The sizes of masks: the shares and aspects of the configuration, and that they are drawn.

Measured on masks of the twin and of the recipe at full size.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from latentcast.config import Blocks, ContextBlocks
from latentcast.config.masks import TargetBlocks
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.jepa.masks import Masks
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal
from latentcast.verification.observe.jepa import Grid, covered, marked
from latentcast.verification.observe.masks import (
    drawn,
    draws_own,
    of_the_first_lead,
    patches_of,
    twin_and_recipe,
)
from latentcast.verification.observe.twin import Twin


@claim("masks.sizes", "Blocks are rectangles of their grid, of the configured number, share and "
       "aspect; stretches have their share and their least length.",
       source="I-JEPA, section 3 and appendix; spec of JEPA, behaviour 4",
       about=draws_own)  # fmt: skip
def sizes(twin: Twin) -> Evidence:
    """Up to whole cells."""
    problems: Counter[str] = Counter()
    shares: dict[str, str] = {}
    for config in twin_and_recipe(twin):
        jepa = config.objective
        assert isinstance(jepa, JepaConfig)
        grids = jepa.mask_grids(config)
        patches = math.prod(grids[0])
        met: list[float] = []
        for masks in drawn(config, 30):
            for places, grid in zip(
                (masks.context, *masks.targets), (config.grids[0], *config.grids), strict=True
            ):
                ordered = bool((places.diff(dim=-1) > 0).all())
                inside = 0 <= int(places.min()) and int(places.max()) < math.prod(grid)
                problems["not ascending places of the grid"] += not (ordered and inside)
            if grids != config.grids:  # the same in all leads (leads.hidden): one of them
                masks = of_the_first_lead(masks, config.grids)
            if isinstance(jepa.masks, ContextBlocks):
                problems.update(_of_stretches(masks, jepa.masks, patches))
            elif isinstance(jepa.masks, Blocks):
                levels = (jepa.masks, *(level.masks for level in jepa.coarser))
                for grid, targets, own in zip(grids, masks.targets, levels, strict=True):
                    assert isinstance(own, TargetBlocks)
                    problems.update(_of_blocks(targets, grid, own))
                met.append(masks.targets[0].shape[2] / patches)
                free = patches - covered(masks.targets, grids).sum(1)
                most = int((masks.context.shape[1] > free).sum())
                few = masks.context.shape[1] < jepa.masks.least_context
                problems["contexts of another size"] += most + few
        if met:
            shares[f"shares of {patches} patches"] = f"{min(met):.3f} to {max(met):.3f}"
    return all_of(*(equal(name, count, 0) for name, count in problems.items()), **shares)


def _of_blocks(targets: Tensor, grid: Grid, own: TargetBlocks) -> dict[str, int]:
    """What is wrong with blocks."""
    (least, most), (flat, tall) = own.target_scale, own.target_aspect
    cells = math.prod(grid)
    axes = torch.stack(torch.unravel_index(targets, grid))
    sides = (axes.amax(-1) - axes.amin(-1) + 1).flatten(1).T.double()
    wrong = {"another number of blocks": int(targets.shape[0] != own.targets)}
    wrong["blocks that are no rectangle"] = int((sides.prod(1) != targets.shape[2]).sum())
    # A side is the nearest whole number of cells; an area is rounded down.
    low, high = (sides - 0.5).prod(1), (sides + 0.5).prod(1)
    if len(grid) == 1:
        low, high = sides[:, 0], sides[:, 0] + 1
    smallest = max(1, int(cells * least))
    wrong["blocks of another share"] = int(((high < smallest) | (low > cells * most)).sum())
    if len(grid) == 2:
        across = (sides == torch.tensor(grid)).any(1)
        flattest = (sides[:, 0] + 0.5) / (sides[:, 1] - 0.5)
        tallest = (sides[:, 0] - 0.5) / (sides[:, 1] + 0.5)
        odd = ((flattest < flat) | (tallest > tall)) & ~across
        wrong["blocks of another aspect"] = int(odd.sum())
    return wrong


def _of_stretches(masks: Masks, own: ContextBlocks, patches: int) -> dict[str, int]:
    """What is wrong with stretches."""
    low, high = own.context_share
    count, short = masks.context.shape[1], 0
    for row in marked(masks.context, patches).tolist():
        edges = [0, *(n for n in range(1, patches) if row[n] != row[n - 1]), patches]
        runs = [stop - start for start, stop in pairwise(edges) if row[start]]
        short += sum(run < own.least_block for run in runs)
    neither = marked(masks.targets[0][0], patches) == marked(masks.context, patches)
    return {
        "contexts of another share": not low * patches - 0.5 <= count <= high * patches + 0.5,
        "stretches too short": short,
        "patches neither context nor target": int(neither.sum()),
    }


def sizes_are_drawn(twin: Twin) -> bool:
    jepa = twin.recipe.objective
    if not isinstance(jepa, JepaConfig) or not isinstance(jepa.masks, Blocks | ContextBlocks):
        return False
    own = jepa.masks
    low, high = own.context_scale if isinstance(own, Blocks) else own.context_share
    return own.shapes >= 8 and high - low >= 0.1


@claim("masks.sizes-vary", "Sizes of blocks and contexts are drawn from their ranges anew at each "
       "step.", source="I-JEPA, section 3; spec of I-JEPA, M2", about=sizes_are_drawn)  # fmt: skip
def sizes_vary(twin: Twin) -> Evidence:
    """Combinations of block and context size among the steps; of a run there are several."""
    parts = []
    for config in twin_and_recipe(twin):
        met = {
            (masks.context.shape[1], *(targets.shape[2] for targets in masks.targets))
            for masks in drawn(config)
        }
        parts.append(above(f"combinations on {patches_of(config)} patches", len(met), 2))
    return all_of(*parts)


def draws_rectangles(twin: Twin) -> bool:
    jepa = twin.recipe.objective
    if not (isinstance(jepa, JepaConfig) and isinstance(jepa.masks, Blocks)):
        return False
    ranges = jepa.masks.target_scale, jepa.masks.target_aspect
    return len(jepa.mask_grids(twin.recipe)[0]) == 2 and all(low < high for low, high in ranges)


@claim("masks.scale-aspect", "The scale of a block and its aspect are drawn independently.",
       source="spec of I-JEPA, 1.1 (there one number decides both)",
       about=draws_rectangles)  # fmt: skip
def scale_and_aspect(twin: Twin) -> Evidence:
    """The blocks of 24 seeds: their area against their height over width.

    On a grid four times as fine as the recipe's: of six cells to a side, whole cells blur both.
    """
    jepa = twin.recipe.objective
    assert isinstance(jepa, JepaConfig)
    grids = tuple(tuple(4 * n for n in grid) for grid in twin.recipe.grids)
    blocks = [
        shape.blocks[0]
        for seed in range(24)
        for shape in jepa.shapes(grids, 1000 * twin.seed + seed)
    ]
    area, aspect = np.array([(math.log(h * w), math.log(h / w)) for h, w in blocks]).T
    varied = above("least spread of either", float(min(area.std(), aspect.std())), 0.0)
    if not varied.holds:
        return varied
    correlation = float(np.corrcoef(area, aspect)[0, 1])
    return all_of(varied, at_most("correlation", abs(correlation), 0.4), shapes=len(blocks))
