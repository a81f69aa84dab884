"""The coordinates that rotary angles are made of: their span, and what training does to them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latentcast.config import EcgInput, Rotary
from latentcast.nn.transformer import PatchEncoder
from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.network import (
    finest,
    furthest,
    real,
    within,
)
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
from latentcast.verification.observe.twin import Subject


def _span(subject: Subject) -> Evidence:
    told: dict[str, tuple[float, float]] = {}
    objective = live(subject)
    for size in sizes(subject):
        for stack in stacks(objective, size):
            ends = torch.tensor([1 - 1 / n for n in stack.grid], dtype=torch.float64)
            worst = 0.0
            for turns in measured_turns(stack).values():
                seen = coordinates(stack, turns)
                worst = max(worst, furthest(seen[0], -ends), furthest(seen[-1], ends))
                worst = max(worst, float(seen.mean(0).abs().max()))
            told[f"ends and middle, {stack.name} {stack.grid}"] = (worst, FLOAT32)
    return within(told)


def _seconds(subject: Subject) -> Evidence:
    objective = live(subject, {"encoder.positions.coordinates": "seconds"})
    worst, angles = 0.0, set()
    for size in sizes(subject):
        for stack in stacks(objective, size):
            expected = stack.turns()
            for turns in measured_turns(stack).values():
                worst = max(
                    worst, gap_of(turns[:, 1:] / turns[:, :-1], expected[1:] / expected[:-1])
                )
                if stack.name == "patches":
                    step = torch.angle(turns[:, 1, 0] / turns[:, 0, 0]).abs().mean()
                    angles.add(round(float(step), 4))
    told = {"largest difference from 2π · seconds / period": (worst, 1e-4)}
    return within(told, **{"turn of a patch at each length": str(sorted(angles))})


def _rescale(subject: Subject) -> Evidence:
    objective = live(subject)
    patch, axes = subject.config.encoder.patch, len(subject.config.input.size)
    stack = next(stacks(objective, (4 * patch,) * axes))
    plain = stack.turns()
    evaluated = max(gap_of(turns, plain) for turns in measured_turns(stack).values())
    limit = stack.rotary.rescale or 1.0
    exponents, worst = [], 0.0
    for step in range(600 if limit > 1 else 3):
        draw = Draw(subject.seed, step, torch.arange(1))
        factor = _factor(finest(objective), stack, draw, (4 * patch,) * axes)
        if step < 3:
            turned = measured_turns(stack, draw).values()
            worst = max(worst, *(gap_of(turns, stack.turns(factor)) for turns in turned))
        if limit > 1:
            exponents.append(math.log(max(factor, 1e-9)) / math.log(limit))
    told = {
        "evaluation: difference from factor 1": (evaluated, FLOAT32),
        "training: difference from one factor for all axes, pairs, blocks": (worst, 4 * FLOAT32),
    }
    if not exponents:
        return within(told)
    # Uniform on [-1, 1]: the mean of 600 is within 5 · 0.578 / √600 of 0, the extremes far out.
    mean = sum(exponents) / len(exponents)
    told["largest exponent of the factor"] = (max(map(abs, exponents)), 1 + 1e-5)
    told["mean exponent"] = (abs(mean), 5 * 0.578 / math.sqrt(len(exponents)))
    reach = min(max(exponents), -min(exponents))
    other = measured_turns(stack, Draw(subject.seed, 3, torch.arange(7, 8)))
    again = measured_turns(stack, Draw(subject.seed, 3, torch.arange(1)))
    gap = max(gap_of(other[name], again[name]) for name in again)
    told["difference between samples of one step"] = (gap, 0.0)
    with torch.no_grad():
        inputs = real(subject)
        ids = torch.arange(len(inputs.values))
        losses = [objective(inputs, d).loss for d in (Draw(subject.seed, 3, ids), None)]
    wired = abs(float(losses[0] - losses[1]))
    return within(told, {"reach of the exponent to both sides": (reach, 0.9),
                         "change of the loss with training's factor": (wired, 1e-9)})  # fmt: skip


def _moved(subject: Subject, change: str, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates ``(cells, axes)`` as they are, in evaluation, and ``(400, cells, axes)`` in
    steps of training, with one augmentation switched on and the others off."""
    off: dict[str, Any] = {f"encoder.positions.{n}": None for n in ("shift", "jitter", "rescale")}
    objective = live(subject, off | {f"encoder.positions.{change}": reach})
    patch, axes = subject.config.encoder.patch, len(subject.config.input.size)
    size = (4 * patch,) * axes
    stack = next(stacks(objective, size))
    draws = [Draw(subject.seed, step, torch.arange(1)) for step in range(400)]
    plain = [[stack.coordinate(cell, axis) for axis in range(axes)] for cell in stack.cells]
    return (
        torch.tensor(plain, dtype=torch.float64),
        _coordinates(finest(objective), stack, None, size),
        torch.stack([_coordinates(finest(objective), stack, draw, size) for draw in draws]),
    )


def _coordinates(encoder: PatchEncoder, stack: Stack, draw: Draw | None, size: Grid) -> Tensor:
    """Of all cells, from the slowest angle of each axis: ``(cells, axes)``."""
    tables = encoder.tables(size, torch.device("cpu"), draw)
    assert tables is not None
    axes = range(1, len(stack.grid) + 1)
    slowest = torch.tensor([axis * stack.pairs - 1 for axis in axes])
    cosine, sine = (table[-len(stack.cells) :, slowest].double() for table in tables)
    return torch.atan2(sine, cosine) / stack.frequency(stack.pairs - 1)


def _shift(subject: Subject) -> Evidence:
    """With a reach of 0.3, whatever the recipe's: no recipe shifts."""
    plain, evaluated, trained = _moved(subject, "shift", 0.3)
    offsets = trained - plain
    own = offsets.mean(1)
    return _uniform(own / 0.3, {
        "evaluation: largest change": (float((evaluated - plain).abs().max()), 1e-4),
        "cells of an axis apart": (float((offsets - own[:, None]).abs().max()), 1e-4),
    })  # fmt: skip


def _jitter(subject: Subject) -> Evidence:
    """With factors up to 1.5, whatever the recipe's: no recipe jitters."""
    plain, evaluated, trained = _moved(subject, "jitter", 1.5)
    factors = trained / plain
    own = factors.mean(1)
    return _uniform(own.log() / math.log(1.5), {
        "evaluation: largest change": (float((evaluated - plain).abs().max()), 1e-4),
        "cells of an axis apart": (float((factors - own[:, None]).abs().max()), 1e-3),
    })  # fmt: skip


def _uniform(draws: Tensor, told: dict[str, tuple[float, float]]) -> Evidence:
    """Draws ``(steps, axes)`` that ought to be uniform on [-1, 1], each axis by itself."""
    steps, axes = draws.shape
    told = told | {
        "largest draw": (float(draws.abs().max()), 1 + 1e-3),
        "mean": (float(draws.mean(0).abs().max()), 5 * 0.578 / math.sqrt(steps)),
        "spread, from that of an even draw": (
            float((draws.std(0) * math.sqrt(3) - 1).abs().max()), 0.15,
        ),
    }  # fmt: skip
    if axes > 1:
        told["correlation of two axes"] = (float(torch.corrcoef(draws.T)[0, 1].abs()), 0.25)
    return within(told, steps=steps)


def _factor(encoder: PatchEncoder, stack: Stack, draw: Draw, size: Grid) -> float:
    """Of one step's coordinates, from the slowest angle that the last patch is turned by."""
    tables = encoder.tables(size, torch.device("cpu"), draw)
    assert tables is not None
    cosine, sine = (table[-1, stack.pairs - 1].double() for table in tables)
    angle = float(torch.atan2(sine, cosine))
    return angle / stack.frequency(stack.pairs - 1) / stack.coordinate(stack.cells[-1], 0)


def _only_rescaled(subject: Subject) -> bool:
    positions = subject.config.encoder.positions
    return isinstance(positions, Rotary) and positions.shift is None and positions.jitter is None


NEPA = "NEPA reference code, rotary positions"


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "rope.span",
        "Coordinates are the patch centres in [-1, 1] along each axis, at any resolution.",
        NEPA, _span, is_normalized,
    ),
    Claim(
        "rope.seconds",
        "With coordinates in seconds a patch is one and the same turn at any length of input.",
        "our design, docs/decisions.md", _seconds,
        lambda s: is_rotary(s) and isinstance(s.config.input, EcgInput),
    ),
    Claim(
        "rope.rescale-in-training",
        "Training rescales all coordinates of a step by one log-uniform factor, evaluation never.",
        NEPA, _rescale, lambda s: is_normalized(s) and _only_rescaled(s),
    ),
    Claim(
        "rope.shift",
        "A shift moves all coordinates of an axis by one uniform offset, in training.",
        "DINOv3 reference code, shift_coords", _shift, is_normalized,
    ),
    Claim(
        "rope.jitter",
        "A jitter stretches each axis by a log-uniform factor of its own, in training.",
        "DINOv3 reference code, jitter_coords", _jitter, is_normalized,
    ),
)  # fmt: skip
