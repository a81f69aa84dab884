"""The coordinates that rotary angles are made of: their span, and what training does to them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latentcast.config import EcgInput, Rotary
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives.jepa import JepaConfig
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, greatest
from latentcast.verification.observe.config import has_transformer, strides_of, transformer_of
from latentcast.verification.observe.network import finest, furthest, real
from latentcast.verification.observe.rotary import (
    FLOAT32,
    Grid,
    Stack,
    coordinates,
    gap_of,
    is_normalized,
    is_rotary,
    live,
    measured_turns,
    sizes,
    stacks,
)
from latentcast.verification.observe.twin import Twin

NEEDS = has_transformer

NEPA = "NEPA reference code, rotary positions"


@claim("rope.span", "Coordinates are the patch centres in [-1, 1] along each axis, at any "
       "resolution.", source=NEPA, about=is_normalized)  # fmt: skip
def span(twin: Twin) -> Evidence:
    parts, objective = list[Evidence](), live(twin)
    for size in sizes(twin):
        for stack in stacks(objective, size):
            ends = torch.tensor([1 - 1 / n for n in stack.grid], dtype=torch.float64)
            worst = 0.0
            for turns in measured_turns(stack).values():
                centres = coordinates(stack, turns)
                worst = greatest(worst, furthest(centres[0], -ends), furthest(centres[-1], ends))
                worst = greatest(worst, float(centres.mean(0).abs().max()))
            name = f"ends and middle, {stack.name} {stack.grid}"
            parts.append(at_most(name, worst, FLOAT32))
    return all_of(*parts)


@claim("rope.seconds", "With coordinates in seconds a patch is one and the same turn at any "
       "length of input.",
       source="our design, docs/decisions.md",
       about=lambda twin: is_rotary(twin) and isinstance(twin.config.input, EcgInput))  # fmt: skip
def seconds(twin: Twin) -> Evidence:
    objective = live(twin, {"encoder.positions.coordinates": "seconds"})
    worst, apart, angles, own = 0.0, 0.0, set(), twin.config
    assert isinstance(own.input, EcgInput)
    coarser = own.objective.coarser if isinstance(own.objective, JepaConfig) else ()
    strides = [1, *(strides_of(level, len(own.grids[0]))[-1] for level in coarser)]
    for size in sizes(twin):
        for stack in stacks(objective, size):
            level = int(stack.name.removeprefix("level ")) if "level" in stack.name else 0
            samples = own.encoder.patch * math.prod(strides[: level + 1])
            apart = greatest(
                apart, abs((stack.cell_seconds or 0.0) - samples / own.input.sampling_rate)
            )
            expected = stack.turns()
            for turns in measured_turns(stack).values():
                step = turns[:, 1:] / turns[:, :-1]
                worst = greatest(worst, gap_of(step, expected[1:] / expected[:-1]))
                if stack.name == "patches":
                    angles.add(round(float(torch.angle(step[:, 0, 0]).abs().mean()), 4))
    return all_of(
        at_most("largest difference from 2π · seconds / period", worst, 1e-4),
        at_most("seconds of a cell, largest difference", apart, 1e-9),
        turn_of_a_patch_at_each_length=str(sorted(angles)),
    )


def _only_rescaled(twin: Twin) -> bool:
    positions = transformer_of(twin.config).positions
    return isinstance(positions, Rotary) and positions.shift is None and positions.jitter is None


@claim("rope.rescale-in-training", "Training rescales all coordinates of a step by one "
       "log-uniform factor, evaluation never.",
       source=NEPA, about=lambda twin: is_normalized(twin) and _only_rescaled(twin))  # fmt: skip
def rescale(twin: Twin) -> Evidence:
    objective, size = live(twin), _small(twin)
    stack = next(stacks(objective, size))
    evaluated = max(gap_of(turns, stack.turns()) for turns in measured_turns(stack).values())
    limit = stack.rotary.rescale or 1.0
    exponents, worst = [], 0.0
    for step in range(600 if limit > 1 else 3):
        draw = Draw(twin.seed, step, torch.arange(1))
        last = _coordinates(finest(objective), stack, draw, size)[-1, 0]
        factor = float(last) / stack.coordinate(stack.cells[-1], 0)
        if step < 3:
            turned = measured_turns(stack, draw, factor).values()
            worst = greatest(worst, *(gap_of(turns, stack.turns(factor)) for turns in turned))
        if limit > 1:
            exponents.append(math.log(max(factor, 1e-9)) / math.log(limit))
    parts = [
        at_most("evaluation: difference from factor 1", evaluated, FLOAT32),
        at_most("training: difference from one factor for all axes, pairs, blocks", worst,
                4 * FLOAT32),
    ]  # fmt: skip
    if not exponents:
        return all_of(*parts)
    # Uniform on [-1, 1]: the mean of 600 is within 5 · 0.578 / √600 of 0, the extremes far out.
    mean = abs(sum(exponents) / len(exponents))
    other = measured_turns(stack, Draw(twin.seed, 3, torch.arange(7, 8)))
    again = measured_turns(stack, Draw(twin.seed, 3, torch.arange(1)))
    with torch.no_grad():
        inputs = real(twin)
        ids = torch.arange(len(inputs.values))
        losses = [objective(inputs, d).loss for d in (Draw(twin.seed, 3, ids), None)]
    return all_of(
        *parts,
        at_most("largest exponent of the factor", max(map(abs, exponents)), 1 + 1e-5),
        at_most("mean exponent", mean, 5 * 0.578 / math.sqrt(len(exponents))),
        above("reach of the exponent to both sides", min(max(exponents), -min(exponents)), 0.9),
        at_most("difference between samples of one step",
                max(gap_of(other[name], again[name]) for name in again), 0.0),
        above("change of the loss with training's factor", abs(float(losses[0] - losses[1])), 1e-9),
    )  # fmt: skip


def _small(twin: Twin) -> Grid:
    """The size of an input of four patches to each axis."""
    return (4 * twin.config.encoder.patch,) * len(twin.config.input.size)


def _moved(twin: Twin, change: str, reach: float) -> tuple[Tensor, Tensor, Evidence]:
    """Coordinates ``(cells, axes)`` by the formula and ``(400, cells, axes)`` in steps of training,
    with one augmentation switched on and the others off; and that evaluation is by the formula."""
    off: dict[str, Any] = {f"encoder.positions.{n}": None for n in ("shift", "jitter", "rescale")}
    objective, size = live(twin, off | {f"encoder.positions.{change}": reach}), _small(twin)
    encoder, stack = finest(objective), next(stacks(objective, size))
    draws = [Draw(twin.seed, step, torch.arange(1)) for step in range(400)]
    rows = [[stack.coordinate(cell, axis) for axis in range(len(size))] for cell in stack.cells]
    plain = torch.tensor(rows, dtype=torch.float64)
    evaluated = float((_coordinates(encoder, stack, None, size) - plain).abs().max())
    return (
        plain,
        torch.stack([_coordinates(encoder, stack, draw, size) for draw in draws]),
        at_most("evaluation: largest change", evaluated, 1e-4),
    )


def _of_an_axis(drawn: Tensor, bound: float) -> Evidence:
    """What was drawn in each step ``(steps, cells, axes)`` is one number for all cells."""
    gap = float((drawn - drawn.mean(1, keepdim=True)).abs().max())
    return at_most("cells of an axis apart", gap, bound)


def _coordinates(encoder: PatchEncoder, stack: Stack, draw: Draw | None, size: Grid) -> Tensor:
    """Of all cells, from the slowest angle of each axis: ``(cells, axes)``."""
    tables = encoder.tables(size, torch.device("cpu"), draw)
    assert tables is not None
    axes = range(1, len(stack.grid) + 1)
    slowest = torch.tensor([axis * stack.pairs - 1 for axis in axes])
    cosine, sine = (table[-len(stack.cells) :, slowest].double() for table in tables)
    return torch.atan2(sine, cosine) / stack.frequency(stack.pairs - 1)


@claim("rope.shift", "A shift moves all coordinates of an axis by one uniform offset, in training.",
       source="DINOv3 reference code, shift_coords", about=is_normalized)  # fmt: skip
def shift(twin: Twin) -> Evidence:
    """With a reach of 0.3, whatever the recipe's: no recipe shifts."""
    plain, trained, evaluated = _moved(twin, "shift", 0.3)
    offsets = trained - plain
    return all_of(evaluated, _of_an_axis(offsets, 1e-4), *_uniform(offsets.mean(1) / 0.3))


@claim("rope.jitter", "A jitter stretches each axis by a log-uniform factor of its own, in "
       "training.", source="DINOv3 reference code, jitter_coords", about=is_normalized)  # fmt: skip
def jitter(twin: Twin) -> Evidence:
    """With factors up to 1.5, whatever the recipe's: no recipe jitters."""
    plain, trained, evaluated = _moved(twin, "jitter", 1.5)
    factors = trained / plain
    exponents = factors.mean(1).log() / math.log(1.5)
    return all_of(evaluated, _of_an_axis(factors, 1e-3), *_uniform(exponents))


def _uniform(draws: Tensor) -> list[Evidence]:
    """Draws ``(steps, axes)`` that ought to be uniform on [-1, 1], each axis by itself."""
    steps, axes = draws.shape
    spread = float((draws.std(0) * math.sqrt(3) - 1).abs().max())
    parts = [
        at_most("largest draw", float(draws.abs().max()), 1 + 1e-3),
        at_most("mean", float(draws.mean(0).abs().max()), 5 * 0.578 / math.sqrt(steps)),
        at_most("spread, from that of an even draw", spread, 0.15),
    ]
    if axes > 1:
        correlation = float(torch.corrcoef(draws.T)[0, 1].abs())
        parts.append(at_most("correlation of two axes", correlation, 0.25))
    return parts
