"""What the masks of a JEPA promise: disjoint, everywhere, a function of seed, step and sample.

Measured on masks that were drawn: the twin's, inside its forward pass where it matters, and those
of the recipe at full size, which cost next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from latentcast.batch import Inputs
from latentcast.config import Blocks, Config, ContextBlocks
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.objectives.jepa.masks import Masks, mask_sampler
from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.jepa import (
    Grid,
    covered,
    is_hierarchy,
    live,
    marked,
    noise,
    observe,
    parent_of_each,
    patch_flags,
    values,
)
from latentcast.verification.observe.twin import Subject

STEPS, BATCH = 60, 128


def drawn(config: Config, steps: int = STEPS) -> Iterator[Masks]:
    """Masks of a run's first steps, fresh samples in each."""
    sampler = mask_sampler(config)
    for step in range(steps):
        ids = torch.arange(step * BATCH, (step + 1) * BATCH)
        yield sampler(Draw(config.train.seed, step, ids), None)


def twin_and_recipe(subject: Subject) -> tuple[Config, ...]:
    """The twin and the recipe, unless they draw on the same grid."""
    both = (subject.config, subject.recipe.updated({"train.seed": subject.seed}))
    return both if both[0].grids != both[1].grids else both[:1]


def draws_own(subject: Subject) -> bool:
    """Our masks; those of the reference keep its biases on purpose."""
    jepa = subject.recipe.objective
    return isinstance(jepa, JepaConfig) and jepa.masks.kind != "reference"


def draws_blocks(subject: Subject) -> bool:
    jepa = subject.recipe.objective
    return isinstance(jepa, JepaConfig) and isinstance(jepa.masks, Blocks)


def disjoint(subject: Subject) -> Evidence:
    """Patches of a context that are a target or lie under one: drawn, and met in the forward."""
    overlaps = draws = 0
    for config in twin_and_recipe(subject):
        for masks in drawn(config, 30):
            overlaps += _overlaps(masks, config.grids)
            draws += len(masks.context)
    for step in range(2):
        seen = observe(live(subject), Inputs(values(subject)), subject.draw(step))
        overlaps += _overlaps(Masks(seen.places, seen.targets), subject.config.grids)
        draws += len(seen.places)
    return Evidence(overlaps == 0, {"samples": draws, "patches in both": overlaps, "bound": 0})


def holes(subject: Subject) -> Evidence:
    """The same where patches were not measured: a fifth in one piece, and half of them anywhere."""
    told: dict[str, int] = {}
    for config in twin_and_recipe(subject):
        patches = math.prod(config.grids[0])
        sampler, every = mask_sampler(config), torch.arange(patches)
        for step in range(10):
            ids = torch.arange(step * BATCH, (step + 1) * BATCH)
            start = (noise((BATCH, 1), step).abs() * patches).long() % patches
            piece = (every < start) | (every >= start + patches // 5)
            for name, valid in (
                ("one hole", piece), ("half missing", noise((BATCH, patches), step) > 0)
            ):  # fmt: skip
                masks = sampler(Draw(config.train.seed, step, ids), valid)
                name = f"in both, {name}, {patches} patches"
                told[name] = told.get(name, 0) + _overlaps(masks, config.grids)
    return Evidence(not any(told.values()), {**told, "bound": 0})


def measured_first(subject: Subject) -> Evidence:
    """Where the second half was not measured: patches of contexts that were not, and how many of
    them there have to be, because too few others are free."""
    told: dict[str, int] = {}
    holds = True
    for config in twin_and_recipe(subject):
        patches, jepa = math.prod(config.grids[0]), config.objective
        assert isinstance(jepa, JepaConfig)
        sampler, half = mask_sampler(config), patches // 2
        valid = torch.arange(patches).expand(BATCH, -1) < half
        found = forced = blind = 0
        for step in range(10):
            draw = Draw(config.train.seed, step, torch.arange(step * BATCH, (step + 1) * BATCH))
            blind += int((sampler(draw, None).context >= half).sum())
            masks = sampler(draw, valid)
            found += int((masks.context >= half).sum())
            free = valid.clone()
            if isinstance(jepa.masks, Blocks):  # of stretches all the rest is a target
                free &= ~covered(masks.targets, config.grids)
            forced += int((masks.context.shape[1] - free.sum(1)).clamp(min=0).sum())
        told[f"not measured, of {patches} patches"] = found
        told[f"of which there have to be, {patches} patches"] = forced
        told[f"without regard to it, {patches} patches"] = blind
        holds = holds and found == forced < blind
    given = values(subject)
    patches = math.prod(subject.config.grids[0])
    valid = torch.arange(patches).expand(len(given), -1) < patches // 2
    inputs = Inputs(given, patch_flags(subject, valid))
    seen = observe(live(subject), inputs, subject.draw())
    drawn_again = mask_sampler(subject.config)(subject.draw(), valid).context
    told["samples of a forward pass with another context"] = int(
        (seen.places != drawn_again).any(1).sum()
    )
    return Evidence(holds and torch.equal(seen.places, drawn_again), told)


def _overlaps(masks: Masks, grids: tuple[Grid, ...]) -> int:
    context = marked(masks.context, math.prod(grids[0]))
    return int((context & covered(masks.targets, grids)).sum())


def everywhere(subject: Subject) -> Evidence:
    """How often each place is context, and target at each level, over the mean of all places."""
    told: dict[str, float | int] = {}
    least, most = math.inf, 0.0
    for config in twin_and_recipe(subject):
        grids = config.grids
        context = torch.zeros(math.prod(grids[0]))
        targets = [torch.zeros(math.prod(grid)) for grid in grids]
        for masks in drawn(config):
            context += marked(masks.context, len(context)).sum(0)
            for counted, asked in zip(targets, masks.targets, strict=True):
                counted += marked(asked.transpose(0, 1).flatten(1), len(counted)).sum(0)
        named = {"context": context} | {f"target of level {n}": c for n, c in enumerate(targets)}
        for name, counted in named.items():
            share = counted / counted.mean()
            least = min(least, float(share.min()))
            size = math.prod(grids[0])
            told[f"least {name}, {size} patches"] = float(share.min())
            if name == "context":
                last = share.view(grids[0])[-1]
                told[f"last row as context, {size} patches"] = float(last.mean())
                told[f"most context, {size} patches"] = float(share.max())
                most = max(most, float(share.max()))
    return Evidence(least >= 0.25 and most <= 1.9, told | {"bounds": "0.25 and 1.9"})


def no_side(subject: Subject) -> Evidence:
    """How much oftener the first slice of each axis is taken than the last, in standard errors.

    Both are counted in the same sample; where no side is preferred, their difference has mean 0.
    """
    told: dict[str, float] = {}
    for config in twin_and_recipe(subject):
        sums: dict[str, tuple[float, float]] = {}
        for masks in drawn(config):
            targets = [asked.transpose(0, 1).flatten(1) for asked in masks.targets]
            named = {"context": (masks.context, config.grids[0])}
            for n, pair in enumerate(zip(targets, config.grids, strict=True)):
                named[f"target of level {n}"] = pair
            for name, (places, grid) in named.items():
                for axis, along in enumerate(torch.unravel_index(places, grid)):
                    first, last = ((along == end).sum(1) for end in (0, grid[axis] - 1))
                    gap = (first - last).double()
                    key = f"{name}, axis {axis} of {math.prod(config.grids[0])} patches"
                    sum_, squares = sums.get(key, (0.0, 0.0))
                    sums[key] = sum_ + float(gap.sum()), squares + float(gap.square().sum())
        told |= {key: sum_ / math.sqrt(squares or 1.0) for key, (sum_, squares) in sums.items()}
    return Evidence(max(map(abs, told.values())) <= 6, told | {"bound": 6})


def unbiased(subject: Subject) -> Evidence:
    """How often a free patch is context: the first third of each axis against the last.

    A context cut to its length from the front would hardly ever hold the last rows.
    """
    told: dict[str, float | int] = {}
    largest = 0.0
    for config in twin_and_recipe(subject):
        grid = config.grids[0]
        taken, free = torch.zeros(math.prod(grid)), torch.zeros(math.prod(grid))
        for masks in drawn(config):
            context = marked(masks.context, len(taken))
            taken += context.sum(0)
            whole = isinstance(config.objective, JepaConfig) and isinstance(
                config.objective.masks, ContextBlocks
            )
            # Of stretches every patch is free: what they leave is the target.
            hidden = 0 if whole else covered(masks.targets, config.grids).sum(0)
            free += len(context) - hidden
        for axis, extent in enumerate(grid):
            third = max(1, extent // 3)
            first, last = (
                float(
                    taken.view(grid).narrow(axis, start, third).sum()
                    / free.view(grid).narrow(axis, start, third).sum()
                )
                for start in (0, extent - third)
            )
            difference = abs(first - last) / max(first, last)
            largest = max(largest, difference)
            told[f"axis {axis} of {extent}, first third"] = first
            told[f"axis {axis} of {extent}, last third"] = last
    told |= {"largest relative difference": largest, "bound": 0.2}
    return Evidence(largest <= 0.2, told)


# A function of (seed, step, sample)


def _live_masks(
    objective: Jepa, subject: Subject, step: int, rows: slice = slice(None), seed: int = 0
) -> Masks:
    """Context and targets of some samples, as the student and the predictors were given them."""
    draw = subject.draw()
    own = Draw(draw.seed + seed, step, draw.ids[rows])
    seen = observe(objective, Inputs(values(subject)[rows]), own)
    return Masks(seen.places, seen.targets)


def _differing(one: Masks, other: Masks) -> int:
    """Samples whose context or targets are not the same."""
    if any(
        a.shape != b.shape
        for a, b in zip((one.context, *one.targets), (other.context, *other.targets), strict=True)
    ):
        return len(one.context)
    changed = (one.context != other.context).any(1)
    for a, b in zip(one.targets, other.targets, strict=True):
        changed |= (a != b).any(2).any(0)
    return int(changed.sum())


def micro_batches(subject: Subject) -> Evidence:
    """The batch in one piece, in two, and again after other draws."""
    objective = live(subject, moved=False)
    whole, split = _live_masks(objective, subject, 3), 0
    half = len(whole.context) // 2
    for rows in (slice(0, half), slice(half, None)):
        own = Masks(whole.context[rows], tuple(asked[:, rows] for asked in whole.targets))
        split += _differing(own, _live_masks(objective, subject, 3, rows))
    again = _differing(whole, _live_masks(objective, subject, 3))
    told = {"samples": len(whole.context), "changed by the split": split}
    return Evidence(split == 0 and again == 0, told | {"changed when drawn again": again})


def steps_differ(subject: Subject) -> Evidence:
    """The same samples at four steps and under another seed; one stretch may well fall as it did
    before, so half of the samples have to change."""
    objective = live(subject, moved=False)
    first = _live_masks(objective, subject, 0)
    changed = [_differing(first, _live_masks(objective, subject, step)) for step in (1, 2, 3)]
    other = _differing(first, _live_masks(objective, subject, 0, seed=1))
    least, samples = min(*changed, other), len(first.context)
    told = {"samples": samples, "least that changed by a step": min(changed)}
    told |= {"changed by another seed": other}
    return Evidence(least >= samples / 2, told | {"lower bound": samples / 2})


def samples_differ(subject: Subject) -> Evidence:
    """Different contexts among the samples of a step, over four steps; two may well be alike."""
    objective, contexts, samples = live(subject, moved=False), 0, 0
    for step in range(4):
        masks = _live_masks(objective, subject, step)
        contexts += len({tuple(row) for row in masks.context.tolist()})
        samples += len(masks.context)
    told = {"samples": samples, "different contexts": contexts, "lower bound": samples / 2}
    return Evidence(contexts >= samples / 2, told)


# Levels


def coarse_covers(subject: Subject) -> Evidence:
    """At full size too: no patch of a context lies under a target of a coarser level."""
    inside = asked = 0
    for config in twin_and_recipe(subject):
        for masks in drawn(config, 30):
            context = marked(masks.context, math.prod(config.grids[0]))
            for grid, targets in zip(config.grids[1:], masks.targets[1:], strict=True):
                cells = marked(targets.transpose(0, 1).flatten(1), math.prod(grid))
                asked += int(cells.sum())
                inside += int(
                    (cells[:, list(parent_of_each(config.grids[0], grid))] & context).sum()
                )
    told = {"coarse targets": asked, "patches under them in the context": inside, "bound": 0}
    return Evidence(inside == 0 and asked > 0, told)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "masks.disjoint",
        "Context and targets are disjoint always, at every level.",
        "our design, section 5; spec of I-JEPA, M4, behaviour 2",
        disjoint,
        draws_own,
    ),
    Claim(
        "masks.holes",
        "Context and targets are disjoint at every level, too, where patches were not measured.",
        "our design, section 5; spec of I-JEPA, M4",
        holes,
        draws_own,
    ),
    Claim(
        "masks.measured-first",
        "A context is of measured patches as long as enough of them are free.",
        "our design, section 5",
        measured_first,
        draws_own,
    ),
    Claim(
        "masks.coarse-hides",
        "A target of a coarser level hides every patch under it.",
        "our design, section 5",
        coarse_covers,
        lambda subject: draws_own(subject) and is_hierarchy(subject),
    ),
    Claim(
        "masks.everywhere",
        "Every patch, those of the last row and column too, is context and target at least a "
        "quarter as often as the average one, and none is context twice as often.",
        "spec of I-JEPA, M1, behaviour 3",
        everywhere,
        draws_own,
    ),
    Claim(
        "masks.no-side",
        "No side is preferred: contexts and targets lie at the first cells of an axis as often as "
        "at the last.",
        "spec of I-JEPA, M1, behaviour 3",
        no_side,
        draws_own,
    ),
    Claim(
        "masks.unbiased",
        "Contexts are cut to one length without regard to the place: the first third of each axis "
        "is seen as often as the last.",
        "spec of I-JEPA, M3, behaviour 3",
        unbiased,
        draws_own,
    ),
    Claim(
        "masks.micro-batches",
        "Masks are a function of seed, step and sample: the same in whichever micro-batch, and "
        "when drawn again.",
        "our design, law 1",
        micro_batches,
        draws_own,
    ),
    Claim(
        "masks.steps-differ",
        "Each step, and each seed, has masks of its own.",
        "I-JEPA, section 3; our design, law 1",
        steps_differ,
        draws_own,
    ),
    Claim(
        "masks.samples-differ",
        "The samples of a batch have masks of their own.",
        "I-JEPA, section 3; our design, law 1",
        samples_differ,
        draws_own,
    ),
)
