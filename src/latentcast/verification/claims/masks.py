"""What the masks of a JEPA promise: disjoint, everywhere, a function of seed, step and sample.

Measured on masks that were drawn: the twin's, inside its forward pass where it matters, and those
of the recipe at full size, which cost next to nothing.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import Blocks, Config, ContextBlocks
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.objectives.jepa.masks import Masks
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal
from latentcast.verification.observe.config import sampler_of
from latentcast.verification.observe.jepa import (
    Grid,
    covered,
    live,
    marked,
    noise,
    observe,
    patch_flags,
    values,
)
from latentcast.verification.observe.masks import (
    BATCH,
    drawn,
    drawn_and_live,
    draws,
    draws_own,
    patches_of,
    places_of,
    twin_and_recipe,
)
from latentcast.verification.observe.twin import Twin

NEEDS = draws_own


def _overlaps(masks: Masks, grids: tuple[Grid, ...]) -> int:
    """Patches of a context that are a target or lie under one."""
    context = marked(masks.context, math.prod(grids[0]))
    return int((context & covered(masks.targets, grids)).sum())


@claim("masks.disjoint", "Context and targets are disjoint always, at every level.",
       source="our design, section 5; spec of I-JEPA, M4, behaviour 2")  # fmt: skip
def disjoint(twin: Twin) -> Evidence:
    """Drawn, and met in the forward pass."""
    met = drawn_and_live(twin)
    return all_of(
        equal("patches in both", sum(_overlaps(masks, grids) for masks, grids in met), 0),
        samples=sum(len(masks.context) for masks, _ in met),
    )


@claim("masks.holes", "Context and targets are disjoint at every level, too, where patches were "
       "not measured.",
       source="our design, section 5; spec of I-JEPA, M4")  # fmt: skip
def holes(twin: Twin) -> Evidence:
    """A fifth is missing in one piece, or half of them anywhere."""
    overlaps = Counter[str]()
    for config in twin_and_recipe(twin):
        sampler, patches = sampler_of(config), patches_of(config)
        every = torch.arange(patches)
        for draw in draws(config, 10):
            start = (noise((BATCH, 1), draw.step).abs() * patches).long() % patches
            one_hole = (every < start) | (every >= start + patches // 5)
            half = noise((BATCH, patches), draw.step) > 0
            for name, valid in (("one hole", one_hole), ("half missing", half)):
                found = _overlaps(sampler(draw, valid), config.grids)
                overlaps[f"in both, {name}, {patches} patches"] += found
    return all_of(*(equal(name, count, 0) for name, count in overlaps.items()))


@claim("masks.measured-first", "A context is of measured patches as long as enough of them are "
       "free.", source="our design, section 5")  # fmt: skip
def measured_first(twin: Twin) -> Evidence:
    """Where the second half was not measured: patches of contexts that were not, and how many of
    them there have to be, because too few others are free."""
    parts = []
    for config in twin_and_recipe(twin):
        patches, jepa = patches_of(config), config.objective
        assert isinstance(jepa, JepaConfig)
        sampler, valid = sampler_of(config), _first_half(config).expand(BATCH, -1)
        unmeasured = forced = blind = 0
        for draw in draws(config, 10):
            blind += int((~valid.gather(1, sampler(draw, None).context)).sum())
            masks = sampler(draw, valid)
            unmeasured += int((~valid.gather(1, masks.context)).sum())
            free = valid.clone()
            if isinstance(jepa.masks, Blocks):  # of stretches all the rest is a target
                free &= ~covered(masks.targets, config.grids)
            forced += int((masks.context.shape[1] - free.sum(1)).clamp(min=0).sum())
        parts += [
            equal(f"not measured, of {patches} patches", unmeasured, forced),
            above(f"fewer than without regard to it, {patches} patches", blind - unmeasured, 0),
        ]
    x = values(twin)
    valid = _first_half(twin.config).expand(len(x), -1)
    forward = observe(live(twin), Inputs(x, patch_flags(twin, valid)), twin.draw())
    context = sampler_of(twin.config)(twin.draw(), valid).context
    differing = int((forward.places != context).any(1).sum())
    return all_of(*parts, equal("samples of a forward pass with another context", differing, 0))


def _first_half(config: Config) -> Tensor:
    """Flags ``(N,)`` of the first half of the patches; of leads × time of the times."""
    grid = config.grids[0] if config.input.lead_rows is None else config.grids[0][1:]
    times = math.prod(grid)
    return (torch.arange(times) < times // 2).repeat(patches_of(config) // times)


@claim("masks.everywhere", "Every patch, those of the last row and column too, is context and "
       "target at least a quarter as often as the average one, and none is context twice as often.",
       source="spec of I-JEPA, M1, behaviour 3")  # fmt: skip
def everywhere(twin: Twin) -> Evidence:
    """How often each place is context, and target at each level, over the mean of all places."""
    parts = []
    for config in twin_and_recipe(twin):
        patches, counts = patches_of(config), dict[str, Tensor]()
        for masks in drawn(config):
            for name, (places, grid) in places_of(masks, config.grids).items():
                taken = marked(places, math.prod(grid)).float().sum(0)
                counts[name] = counts.get(name, 0) + taken
        shares = {name: count / count.mean() for name, count in counts.items()}
        for name, share in shares.items():
            parts.append(above(f"least {name}, {patches} patches", float(share.min()), 0.25))
        most = float(shares["context"].max())
        parts.append(at_most(f"most context, {patches} patches", most, 1.9))
    return all_of(*parts)


@claim("masks.no-side", "No side is preferred: contexts and targets lie at the first cells of an "
       "axis as often as at the last.",
       source="spec of I-JEPA, M1, behaviour 3")  # fmt: skip
def no_side(twin: Twin) -> Evidence:
    """How much oftener the first slice of each axis is taken than the last, in standard errors.

    Both are counted in the same sample; where no side is preferred, their difference has mean 0.
    """
    parts = []
    for config in twin_and_recipe(twin):
        patches, gaps = patches_of(config), defaultdict[str, list[Tensor]](list)
        for masks in drawn(config):
            for name, (places, grid) in places_of(masks, config.grids).items():
                for axis, along in enumerate(torch.unravel_index(places, grid)):
                    first, last = ((along == end).sum(1) for end in (0, grid[axis] - 1))
                    gaps[f"{name}, axis {axis} of {patches} patches"].append(first - last)
        for name, found in gaps.items():
            gap = torch.cat(found).double()
            parts.append(at_most(name, float(gap.sum().abs() / gap.norm().clamp(min=1)), 6))
    return all_of(*parts)


@claim("masks.unbiased", "Contexts are cut to one length without regard to the place: the first "
       "third of each axis is seen as often as the last.",
       source="spec of I-JEPA, M3, behaviour 3")  # fmt: skip
def unbiased(twin: Twin) -> Evidence:
    """How often a free patch is context: the first third of each axis against the last.

    A context cut to its length from the front would hardly ever hold the last rows.
    """
    parts = []
    for config in twin_and_recipe(twin):
        grid, jepa = config.grids[0], config.objective
        taken, free = torch.zeros(grid), torch.zeros(grid)
        # Of stretches every patch is free: what they leave is the target.
        stretches = isinstance(jepa, JepaConfig) and isinstance(jepa.masks, ContextBlocks)
        for masks in drawn(config):
            context = marked(masks.context, taken.numel())
            taken += context.sum(0).view(grid)
            hidden = 0 if stretches else covered(masks.targets, config.grids).sum(0).view(grid)
            free += len(context) - hidden
        for axis, extent in enumerate(grid):
            third = max(1, extent // 3)
            first, last = (
                float(taken.narrow(axis, at, third).sum() / free.narrow(axis, at, third).sum())
                for at in (0, extent - third)
            )
            gap = abs(first - last) / max(first, last)
            name = f"axis {axis} of {extent}, {first:.3f} and {last:.3f}: relative difference"
            parts.append(at_most(name, gap, 0.2))
    return all_of(*parts)


# A function of (seed, step, sample)


def _live_masks(
    objective: Jepa, twin: Twin, step: int, rows: slice = slice(None), seed: int = 0
) -> Masks:
    """Context and targets of some samples, as the student and the predictors were given them."""
    draw = twin.draw()
    own = Draw(draw.seed + seed, step, draw.ids[rows])
    forward = observe(objective, Inputs(values(twin)[rows]), own)
    return Masks(forward.places, forward.targets)


def _differing(one: Masks, other: Masks) -> int:
    """Samples whose context or targets are not the same."""
    pairs = list(zip((one.context[None], *one.targets), (other.context[None], *other.targets),
                     strict=True))  # fmt: skip
    if any(a.shape != b.shape for a, b in pairs):
        return len(one.context)
    return int(torch.stack([(a != b).any(2).any(0) for a, b in pairs]).any(0).sum())


@claim("masks.by-draw", "Masks are a function of seed, step and sample: the same in whichever "
       "micro-batch and when drawn again, others for each step, seed and sample.",
       source="I-JEPA, section 3; our design, law 1")  # fmt: skip
def by_draw(twin: Twin) -> Evidence:
    """One stretch may well fall as another did, so half of the samples have to change."""
    objective = live(twin, moved=False)
    steps = [_live_masks(objective, twin, step) for step in range(4)]
    first, last = steps[0], steps[3]
    samples, split = len(last.context), 0
    for rows in (slice(0, samples // 2), slice(samples // 2, None)):
        own = Masks(last.context[rows], tuple(block[:, rows] for block in last.targets))
        split += _differing(own, _live_masks(objective, twin, 3, rows))
    contexts = sum(len({tuple(row) for row in masks.context.tolist()}) for masks in steps)
    other = _differing(first, _live_masks(objective, twin, 0, seed=1))
    return all_of(
        equal("changed by the split", split, 0),
        equal("changed when drawn again", _differing(last, _live_masks(objective, twin, 3)), 0),
        above("least that changed by a step", min(_differing(first, m) for m in steps[1:]),
              samples / 2 - 1),
        above("changed by another seed", other, samples / 2 - 1),
        above("different contexts", contexts, 4 * samples / 2 - 1),
        samples=samples,
    )  # fmt: skip
