"""Masks as a run draws them: the twin's, and those of the recipe at full size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.jepa.masks import Masks
from latentcast.randomness import Draw
from latentcast.verification.observe.config import has_transformer, sampler_of
from latentcast.verification.observe.jepa import Grid, live, observe, values
from latentcast.verification.observe.twin import Twin

STEPS, BATCH = 60, 128


def drawn(config: Config, steps: int = STEPS) -> Iterator[Masks]:
    """Masks of a run's first steps, fresh samples in each."""
    sampler = sampler_of(config)
    for draw in draws(config, steps):
        yield sampler(draw, None)


def draws(config: Config, steps: int) -> Iterator[Draw]:
    for step in range(steps):
        yield Draw(config.train.seed, step, torch.arange(step * BATCH, (step + 1) * BATCH))


def twin_and_recipe(twin: Twin) -> tuple[Config, ...]:
    """The twin and the recipe, unless they draw on the same grid."""
    both = (twin.config, twin.recipe.updated({"train.seed": twin.seed}))
    return both if both[0].grids != both[1].grids else both[:1]


def patches_of(config: Config) -> int:
    return math.prod(config.grids[0])


def draws_own(twin: Twin) -> bool:
    """Our masks; those of the reference keep its biases on purpose."""
    jepa = twin.recipe.objective
    own = isinstance(jepa, JepaConfig) and jepa.masks.kind != "reference"
    return own and has_transformer(twin)


def places_of(masks: Masks, grids: tuple[Grid, ...]) -> dict[str, tuple[Tensor, Grid]]:
    """Cells ``(B, K)`` of the context and of the targets of each level, and their grid."""
    found = {"context": (masks.context, grids[0])}
    for n, (block, grid) in enumerate(zip(masks.targets, grids, strict=True)):
        found[f"target of level {n}"] = block.transpose(0, 1).flatten(1), grid
    return found


def of_the_first_lead(masks: Masks, grids: tuple[Grid, ...]) -> Masks:
    """On leads × time, what is drawn in the first row of each grid."""

    def first(ids: Tensor, grid: Grid) -> Tensor:
        return ids[ids < grid[1]].view(*ids.shape[:-1], -1)

    targets = zip(masks.targets, grids, strict=True)
    return Masks(first(masks.context, grids[0]), tuple(first(ids, grid) for ids, grid in targets))


def drawn_and_live(twin: Twin) -> list[tuple[Masks, tuple[Grid, ...]]]:
    """Masks and their grids: as they are drawn, at full size too, and in the forward pass."""
    configs, objective = twin_and_recipe(twin) if draws_own(twin) else (), live(twin)
    found = [(masks, config.grids) for config in configs for masks in drawn(config, 30)]
    for step in range(3):
        forward = observe(objective, Inputs(values(twin)), twin.draw(step))
        found.append((Masks(forward.places, forward.targets), twin.config.grids))
    return found
