"""Sizes of blocks and contexts, known before the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.config.masks import (
    Blocks,
    ContextBlocks,
    MaskConfig,
    ReferenceBlocks,
    TargetBlocks,
)
from latentcast.config.objective import Grid
from latentcast.config.settings import Interval


@dataclass(frozen=True)
class MaskShape:
    """What is common to all samples of a step.

    Attributes:
        blocks: extent of a target block along each axis, for each level. Where targets are what
            the context leaves, their number, for each level.
        context: patches in the context.
        stretches: into how many stretches the context falls (recordings); 0 for a free subset.
    """

    blocks: tuple[Grid, ...]
    context: int
    stretches: int = 0


def mask_shapes(
    grids: tuple[Grid, ...], masks: MaskConfig, coarser: Sequence[TargetBlocks], seed: int
) -> tuple[MaskShape, ...]:
    """The few shapes that the steps of a run choose from.

    Scale and aspect are drawn independently, each stratified over its interval so that a few
    shapes stand for all of it.

    Args:
        grids: cells along each axis at every level, the patches first.
        masks: of the finest level.
        coarser: target blocks of each coarser level, where they have their own.
        seed: of the run.

    Raises:
        ValueError: the masks do not fit the grid; says what would.
    """
    match masks:
        case ContextBlocks():
            return _stretches(grids, masks, seed)
        case ReferenceBlocks():
            _check_reference(grids[0], masks)
            return ()
        case Blocks():
            return _blocks(grids, masks, coarser, seed)


def block_extent(grid: Grid, scale: float, aspect: float) -> Grid:
    """Extent of a block with this share of the grid and this height over width."""
    area = max(1, int(math.prod(grid) * scale))
    if len(grid) == 1:
        return (area,)
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    # A side that does not fit hands its share to the other.
    if height > grid[0]:
        height, width = grid[0], round(area / grid[0])
    elif width > grid[1]:
        height, width = round(area / grid[1]), grid[1]
    return (min(max(height, 1), grid[0]), min(max(width, 1), grid[1]))


def _blocks(
    grids: tuple[Grid, ...], finest: Blocks, coarser: Sequence[TargetBlocks], seed: int
) -> tuple[MaskShape, ...]:
    masks, count, patches = [finest, *coarser], finest.shapes, math.prod(grids[0])
    kept = _stratified(finest.context_scale, count, randomness.key(seed, "mask-context"))
    scales = [
        _stratified(m.target_scale, count, randomness.key(seed, "mask-scale", level))
        for level, m in enumerate(masks)
    ]
    aspects = [
        _stratified(m.target_aspect, count, randomness.key(seed, "mask-aspect", level))
        for level, m in enumerate(masks)
    ]
    shapes = []
    for n in range(count):
        blocks = tuple(
            block_extent(grid, scales[level][n], aspects[level][n])
            for level, grid in enumerate(grids)
        )
        free = max(0, patches - _hidden(grids, masks, blocks))
        shapes.append(MaskShape(blocks, int(kept[n] * free)))
    worst = min(shapes, key=lambda shape: shape.context)
    if worst.context < finest.least_context:
        raise ValueError(_too_small(grids, masks, worst, finest.least_context))
    return tuple(shapes)


def _hidden(
    grids: tuple[Grid, ...], masks: Sequence[TargetBlocks], blocks: tuple[Grid, ...]
) -> int:
    """Patches under the targets of all levels when no two of them overlap."""
    return sum(
        m.targets * math.prod(block) * (math.prod(grids[0]) // math.prod(grid))
        for m, block, grid in zip(masks, blocks, grids, strict=True)
    )


def _too_small(
    grids: tuple[Grid, ...], masks: Sequence[TargetBlocks], shape: MaskShape, least: int
) -> str:
    blocks = ", ".join(
        f"{m.targets} blocks of {_times(block)} on level {level} ({_times(grid)})"
        for level, (m, block, grid) in enumerate(zip(masks, shape.blocks, grids, strict=True))
    )
    lower = f", or objective.masks.least_context={shape.context}" if shape.context else ""
    return (
        f"objective.masks: the grid of {_times(grids[0])} patches is too small for the masks: "
        f"{blocks} can hide {_hidden(grids, masks, shape.blocks)} of {math.prod(grids[0])} patches "
        f"and leave a context of {shape.context}, least_context is {least}; use fewer or smaller "
        f"targets, a smaller encoder.patch{lower}"
    )


def _stretches(grids: tuple[Grid, ...], masks: ContextBlocks, seed: int) -> tuple[MaskShape, ...]:
    patches = math.prod(grids[0])
    shares = _stratified(masks.context_share, masks.shapes, randomness.key(seed, "mask-context"))
    shapes = []
    contexts = [round(share * patches) for share in shares]
    for n, (share, context) in enumerate(zip(shares, contexts, strict=True)):
        if not masks.least_block <= context < patches:
            shorter = f"objective.masks.least_block={min(contexts)}, " if min(contexts) else ""
            raise ValueError(
                f"objective.masks: {share:.0%} of {patches} patches are a context of {context}, "
                f"which is no stretch of at least {masks.least_block} that leaves a target; use "
                f"{shorter * (context < patches)}another objective.masks.context_share or a "
                "smaller encoder.patch"
            )
        most = context // masks.least_block
        draw = randomness.uniform(randomness.key(seed, "mask-stretches"), _counter(n))
        # Fewer than drawn where so many could touch every coarse cell: whether a recipe can be
        # trained must not depend on its seed.
        for stretches in range(1 + int(draw[0] * most), 0, -1):
            hidden = [_certainly_hidden(grids[0], grid, context, stretches) for grid in grids[1:]]
            if 0 not in hidden:
                break
        else:
            level = 1 + hidden.index(0)
            raise ValueError(
                f"objective.masks: a stretch of {context} patches can touch every cell of level "
                f"{level} ({_times(grids[level])}), nothing would be left to predict; use a "
                f"smaller context_share or a smaller objective.coarser.{level - 1}.stride"
            )
        shapes.append(
            MaskShape(((patches - context,), *((n,) for n in hidden)), context, stretches)
        )
    return tuple(shapes)


def _certainly_hidden(fine: Grid, coarse: Grid, context: int, stretches: int) -> int:
    """Coarse cells that no placement of the stretches touches: a stretch of n patches touches at
    most ``⌈(n − 1) / stride⌉ + 1``."""
    stride, cells = math.prod(fine) // math.prod(coarse), math.prod(coarse)
    lengths = [context // stretches + (n < context % stretches) for n in range(stretches)]
    return max(0, cells - sum(-(-(length - 1) // stride) + 1 for length in lengths))


def _check_reference(grid: Grid, masks: ReferenceBlocks) -> None:
    """The original draws for ever when a target block cannot have more than ``min_keep``."""
    if len(grid) != 2:
        raise ValueError(
            "objective.masks: kind reference is made for images; use objective.masks.kind=blocks"
        )
    low, high = masks.target_scale
    for n in range(101):
        scale = low + (high - low) * n / 100
        height, width = reference_extent(grid, scale, masks.target_aspect, masks.target_scale)
        if height * width <= masks.min_keep:
            raise ValueError(
                f"objective.masks: the grid {_times(grid)} is too small for the reference's masks: "
                f"a target of {height} × {width} patches is not more than min_keep "
                f"{masks.min_keep}; use objective.masks.kind=blocks, a smaller encoder.patch or a "
                "smaller min_keep"
            )
        low_c, high_c = masks.context_scale
        context = reference_extent(
            grid, low_c + (high_c - low_c) * n / 100, (1.0, 1.0), masks.context_scale
        )
        if math.prod(context) <= masks.min_keep:
            raise ValueError(
                f"objective.masks: a context of {_times(context)} patches is not more than "
                f"min_keep {masks.min_keep} and would be drawn for ever; use a larger "
                "context_scale or a smaller min_keep"
            )


def reference_extent(grid: Grid, scale: float, aspects: Interval, scales: Interval) -> Grid:
    """Extent of I-JEPA's block: one number decides scale and aspect, no side is whole."""
    span = scales[1] - scales[0]
    u = (scale - scales[0]) / span if span else 0.0
    aspect = aspects[0] + u * (aspects[1] - aspects[0])
    area = int(math.prod(grid) * scale)
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return (min(height, grid[0] - 1), min(width, grid[1] - 1))


def _stratified(interval: Interval, count: int, stream: int) -> list[float]:
    """``count`` draws, one from each equal part of the interval, in random order."""
    places = randomness.permutation(stream, count)
    inside = randomness.uniform(randomness.key(stream, "inside"), _counter(*range(count)))
    low, high = interval
    return [low + (high - low) * float(p + u) / count for p, u in zip(places, inside, strict=True)]


def _counter(*numbers: int) -> npt.NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


def _times(extent: Grid) -> str:
    return " × ".join(str(n) for n in extent)
