"""The sizes of masks: what shares and aspects were asked for, and that they are drawn.

Measured on masks of the twin and of the recipe at full size.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from latentcast.config import Blocks, ContextBlocks
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.jepa.mask_shapes import mask_shapes
from latentcast.objectives.jepa.masks import Masks
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.claims.masks import drawn, draws_own, twin_and_recipe
from latentcast.verification.observe.jepa import Grid, covered, marked
from latentcast.verification.observe.twin import Subject


def sizes(subject: Subject) -> Evidence:
    """Every block a rectangle of the configured share and aspect, up to whole cells."""
    problems: dict[str, int] = {"not ascending places of the grid": 0}
    told: dict[str, float | int | str] = {}
    for config in twin_and_recipe(subject):
        jepa = config.objective
        assert isinstance(jepa, JepaConfig)
        patches = math.prod(config.grids[0])
        shares: list[float] = []
        for masks in drawn(config, 30):
            for places, grid in zip(
                (masks.context, *masks.targets), (config.grids[0], *config.grids), strict=True
            ):
                ordered = bool((places.diff(dim=-1) > 0).all())
                inside = 0 <= int(places.min()) and int(places.max()) < math.prod(grid)
                problems["not ascending places of the grid"] += not (ordered and inside)
            if isinstance(jepa.masks, ContextBlocks):
                _stretches_are_right(masks, jepa.masks, patches, problems)
            elif isinstance(jepa.masks, Blocks):
                asked = (jepa.masks, *(level.masks for level in jepa.coarser))
                for grid, targets, own in zip(config.grids, masks.targets, asked, strict=True):
                    assert own is not None
                    wanted = (own.targets, own.target_scale, own.target_aspect)
                    _blocks_are_right(targets, grid, *wanted, problems)
                shares.append(masks.targets[0].shape[2] / patches)
                free = patches - covered(masks.targets, config.grids).sum(1)
                most = int((masks.context.shape[1] > free).sum())
                few = masks.context.shape[1] < jepa.masks.least_context
                problems["context of another size"] = (
                    problems.get("context of another size", 0) + most + few
                )
        if shares:
            told[f"shares of {patches} patches"] = f"{min(shares):.3f} to {max(shares):.3f}"
    return Evidence(not any(problems.values()), {**problems, "bound": 0, **told})


def _blocks_are_right(
    targets: Tensor,
    grid: Grid,
    count: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    problems: dict[str, int],
) -> None:
    cells = math.prod(grid)
    axes = torch.stack(torch.unravel_index(targets, grid))
    sides = (axes.amax(-1) - axes.amin(-1) + 1).flatten(1).T.double()
    area = targets.shape[2]
    wrong = {"another number of blocks": int(targets.shape[0] != count)}
    wrong["blocks that are no rectangle"] = int((sides.prod(1) != area).sum())
    # A side is the nearest whole number of cells; an area is rounded down.
    low, high = (sides - 0.5).prod(1), (sides + 0.5).prod(1)
    if len(grid) == 1:
        low, high = sides[:, 0], sides[:, 0] + 1
    smallest = max(1, int(cells * scale[0]))
    wrong["blocks of another share"] = int(((high < smallest) | (low > cells * scale[1])).sum())
    if len(grid) == 2:
        whole = (sides == torch.tensor(grid)).any(1)
        flattest = (sides[:, 0] + 0.5) / (sides[:, 1] - 0.5)
        tallest = (sides[:, 0] - 0.5) / (sides[:, 1] + 0.5)
        odd = ((flattest < aspect[0]) | (tallest > aspect[1])) & ~whole
        wrong["blocks of another aspect"] = int(odd.sum())
    for name, number in wrong.items():
        problems[name] = problems.get(name, 0) + number


def _stretches_are_right(
    masks: Masks, own: ContextBlocks, patches: int, problems: dict[str, int]
) -> None:
    low, high = own.context_share
    count = masks.context.shape[1]
    off = not low * patches - 0.5 <= count <= high * patches + 0.5
    short = 0
    for row in marked(masks.context, patches).tolist():
        edges = [0, *(n for n in range(1, patches) if row[n] != row[n - 1]), patches]
        runs = [stop - start for start, stop in pairwise(edges) if row[start]]
        short += sum(run < own.least_block for run in runs)
    rest = int((marked(masks.targets[0][0], patches) == marked(masks.context, patches)).sum())
    for name, number in (
        ("contexts of another share", int(off)),
        ("stretches too short", short),
        ("patches neither context nor target", rest),
    ):
        problems[name] = problems.get(name, 0) + number


def sizes_vary(subject: Subject) -> Evidence:
    """Combinations of block and context size among the steps; of a run there are several."""
    told: dict[str, int] = {}
    for config in twin_and_recipe(subject):
        met = {
            (masks.context.shape[1], *(targets.shape[2] for targets in masks.targets))
            for masks in drawn(config)
        }
        told[f"combinations on {math.prod(config.grids[0])} patches"] = len(met)
    return Evidence(min(told.values()) >= 3, {**told, "lower bound": 3})


def sizes_are_drawn(subject: Subject) -> bool:
    jepa = subject.recipe.objective
    if not isinstance(jepa, JepaConfig) or not isinstance(jepa.masks, Blocks | ContextBlocks):
        return False
    own = jepa.masks
    low, high = own.context_scale if isinstance(own, Blocks) else own.context_share
    return own.shapes >= 8 and high - low >= 0.1


def scale_and_aspect(subject: Subject) -> Evidence:
    """The blocks of 24 seeds: their area against their height over width.

    On a grid four times as fine as the recipe's: of six cells to a side, whole cells blur both.
    """
    jepa = subject.recipe.objective
    assert isinstance(jepa, JepaConfig)
    grids = tuple(tuple(4 * n for n in grid) for grid in subject.recipe.grids)
    blocks = [
        shape.blocks[0]
        for seed in range(24)
        for shape in mask_shapes(grids, jepa, 1000 * subject.seed + seed)
    ]
    logs = [(math.log(h * w), math.log(h / w)) for h, w in blocks]
    area, aspect = np.array(logs).T
    if area.std() == 0 or aspect.std() == 0:
        return Evidence(False, {"shapes": len(logs), "different": 1})
    together = float(np.corrcoef(area, aspect)[0, 1])
    return Evidence(
        abs(together) <= 0.4, {"shapes": len(logs), "correlation": together, "bound": 0.4}
    )


def draws_rectangles(subject: Subject) -> bool:
    jepa = subject.recipe.objective
    if not (isinstance(jepa, JepaConfig) and isinstance(jepa.masks, Blocks)):
        return False
    varied = jepa.masks.target_scale, jepa.masks.target_aspect
    return len(subject.recipe.grids[0]) == 2 and all(low < high for low, high in varied)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "masks.sizes",
        "Blocks are rectangles of their grid, of the configured number, share and aspect; "
        "stretches have their share and their least length.",
        "I-JEPA, section 3 and appendix; spec of JEPA, behaviour 4",
        sizes,
        draws_own,
    ),
    Claim(
        "masks.sizes-vary",
        "Sizes of blocks and contexts are drawn from their ranges anew at each step.",
        "I-JEPA, section 3; spec of I-JEPA, M2",
        sizes_vary,
        sizes_are_drawn,
    ),
    Claim(
        "masks.scale-aspect",
        "The scale of a block and its aspect are drawn independently.",
        "spec of I-JEPA, 1.1 (there one number decides both)",
        scale_and_aspect,
        draws_rectangles,
    ),
)
