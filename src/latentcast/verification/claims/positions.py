"""Rotary positions: the angles that queries and keys of the live attention are turned by."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latentcast.config import EcgInput, EncoderConfig, JepaConfig, Rotary
from latentcast.nn.blocks import QKNorm
from latentcast.nn.encoder import PatchEncoder
from latentcast.nn.hierarchy import Hierarchy, Level, Tokens
from latentcast.objectives.base import Objective
from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observing import (
    AttentionCall,
    attention_calls,
    finest,
    furthest,
    naive_norm,
    outputs_of,
    real,
    stirred,
    thirds,
    within,
)
from latentcast.verification.subject import Subject

Grid = tuple[int, ...]
FLOAT32 = 5e-6
"""Coordinates are made in float32: 6e-8 of a turn in 2π, and some for the arithmetic."""


@dataclass(frozen=True)
class Stack:
    """A stack of blocks on a grid: the patch encoder, or a coarser level."""

    name: str
    config: EncoderConfig
    grid: Grid
    prefix: int
    cell_seconds: float | None
    run: Callable[[Draw | None], Any]
    blocks: list[nn.Module]

    @property
    def rotary(self) -> Rotary:
        assert isinstance(self.config.positions, Rotary)
        return self.config.positions

    @property
    def pairs(self) -> int:
        """Of each axis."""
        return self.config.width // self.config.heads // (2 * len(self.grid))

    @property
    def cells(self) -> list[Grid]:
        """Row-major."""
        found: list[Grid] = [()]
        for extent in self.grid:
            found = [(*cell, n) for cell in found for n in range(extent)]
        return found

    def coordinate(self, cell: Grid, axis: int) -> float:
        """Of the centre of a cell, by the formula of the specification."""
        if self.rotary.coordinates == "seconds":
            assert self.cell_seconds is not None
            return (cell[axis] + 0.5) * self.cell_seconds / self.rotary.shortest_period
        return (cell[axis] + 0.5) / self.grid[axis] * 2 - 1

    @property
    def tolerance(self) -> float:
        """Of a turn, by how far coordinates reach: some are 25 turns of the fastest pair."""
        ends = (self.cells[0], self.cells[-1])
        axes = range(len(self.grid))
        return FLOAT32 * max(1.0, *(abs(self.coordinate(c, a)) for c in ends for a in axes))

    def frequency(self, k: int) -> float:
        frequency: float = 2 * math.pi * self.rotary.theta ** (-k / self.pairs)
        return frequency

    def turns(self, scale: float = 1.0) -> Tensor:
        """``exp(i · angle)`` of each cell and pair, the axes side by side: ``(cells, pairs)``."""
        rows = [
            [
                cmath.exp(1j * self.frequency(k) * self.coordinate(cell, axis) * scale)
                for axis in range(len(self.grid))
                for k in range(self.pairs)
            ]
            for cell in self.cells
        ]
        return torch.tensor(rows, dtype=torch.complex128)


def stacks(objective: Objective, size: Grid) -> Iterator[Stack]:
    """The student's stacks, each fed the same vector at every place.

    Attention over equal values returns that value, so queries and keys of every block differ
    from place to place by nothing but their positions.
    """
    encoder, patches = objective.encoder("student"), finest(objective)
    grid = patches.patches.grid(size)
    same = vector(patches.config.width, 1)

    def through(draw: Draw | None) -> None:
        patches.layers(same.expand(1, patches.prefix + math.prod(grid), -1), size, draw)

    yield Stack(
        "patches", patches.config, grid, patches.prefix, patches.patch_seconds, through,
        list(patches.blocks),
    )  # fmt: skip
    if not isinstance(encoder, Hierarchy):
        return
    below, width = grid, patches.config.width
    for number, level in enumerate(encoder.coarser, start=1):
        assert isinstance(level, Level)
        if len(level.blocks):
            fine = below

            def climb(draw: Draw | None, level: Level = level, fine: Grid = fine,
                      width: int = width) -> None:  # fmt: skip
                count = math.prod(fine)
                values = vector(width, 1).expand(1, count, -1)
                level(Tokens(values, torch.arange(count).expand(1, -1), None), fine, draw)

            yield Stack(
                f"level {number}", level.config, level.grid(fine), 0, level.cell_seconds, climb,
                list(level.blocks),
            )  # fmt: skip
        below, width = level.grid(below), level.config.width


@torch.no_grad()
def measured_turns(stack: Stack, draw: Draw | None = None) -> dict[str, Tensor]:
    """What each pair of each query and key was multiplied with, against no rotation.

    Pairs are first half with second half of a head. A CLS token, which is not to be rotated, is
    what the others are compared with; without one it is the product itself, normed by hand.

    Returns:
        complex ``(heads, cells, pairs)`` for ``query`` and ``key`` of each block.
    """
    product = stack.blocks[0].get_submodule("attention.qkv")
    with attention_calls() as calls, outputs_of(product) as (products,):
        stack.run(draw)
    raw = thirds(products[0].detach().double(), stack.config.heads)
    found = {}
    for number, call in enumerate(calls):
        for name, turned, plain in (("query", call.q, raw[0]), ("key", call.k, raw[1])):
            z = paired(turned)
            if stack.prefix:
                reference = z[:, :1]
            elif number == 0:
                reference = paired(_plain(stack.blocks[0], name, plain))[:, :1]
            else:  # its own first cell, whose angle block 1 has shown
                reference = z[:, :1] / stack.turns()[:1]
            found[f"{name} of block {number + 1}"] = z[:, stack.prefix :] / reference
    if not found:
        raise ValueError("no attention was computed")
    return found


def _plain(block: nn.Module, name: str, x: Tensor) -> Tensor:
    """Queries or keys as they are before the rotation."""
    norm = block.get_submodule("attention.q_norm" if name == "query" else "attention.k_norm")
    if not isinstance(norm, QKNorm):
        return x
    return naive_norm(x, norm.weight, norm.bias, norm.eps)


def paired(x: Tensor) -> Tensor:
    """``(1, heads, T, head)`` as complex ``(heads, T, head / 2)``."""
    half = x.shape[-1] // 2
    wide = x[0].double()
    return torch.complex(wide[..., :half].contiguous(), wide[..., half:].contiguous())


def vector(width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 1, width, generator=generator, dtype=torch.float64)


def coordinates(stack: Stack, turns: Tensor) -> Tensor:
    """Coordinates ``(cells, axes)`` that the slowest pair of each axis was turned by."""
    slow = stack.pairs - 1
    columns = [turns[..., axis * stack.pairs + slow].mean(0) for axis in range(len(stack.grid))]
    return torch.stack([torch.angle(column) for column in columns], -1) / stack.frequency(slow)


def sizes(subject: Subject) -> list[Grid]:
    """The twin's input, and one of half the extent: positions must hold at any resolution."""
    whole = subject.config.input.size
    step = subject.config.encoder.patch * strides(subject)
    half = tuple(n // 2 // step * step for n in whole)
    return [whole, half] if all(half) and half != whole else [whole]


def strides(subject: Subject) -> int:
    objective = subject.config.objective
    coarser = objective.coarser if isinstance(objective, JepaConfig) else ()
    return math.prod(level.stride for level in coarser)


def _live(subject: Subject, changes: dict[str, Any] | None = None) -> Objective:
    return stirred(subject.objective(changes), subject.seed)


def _angles(subject: Subject) -> Evidence:
    worst, many, allowed = 0.0, 0, FLOAT32
    objective = _live(subject)
    for size in sizes(subject):
        for stack in stacks(objective, size):
            expected, allowed = stack.turns(), max(allowed, stack.tolerance)
            for turns in measured_turns(stack).values():
                worst = max(worst, _gap(turns, expected))
                many += turns.numel()
    return within({"largest difference of exp(i · angle)": (worst, allowed)}, pairs=many)


def _gap(turns: Tensor, expected: Tensor) -> float:
    gap = (turns - expected).abs().max()
    return float(gap)


def _cls(subject: Subject) -> Evidence:
    objective = _live(subject)
    worst = 0.0
    for stack in stacks(objective, subject.config.input.size):
        # Coordinates run evenly to both sides of 0, so a token at angle 0 stands in their middle.
        middle = sum(
            stack.coordinate(cell, axis) for cell in stack.cells for axis in range(len(stack.grid))
        )
        for turns in measured_turns(stack).values():
            off = (coordinates(stack, turns).sum() - middle) / len(stack.cells)
            worst = max(worst, abs(float(off)))
    return within({"coordinate of CLS": (worst, FLOAT32)})


def _norm(subject: Subject) -> Evidence:
    objective, worst = _live(subject), 0.0
    for stack in stacks(objective, subject.config.input.size):
        for turns in measured_turns(stack).values():
            worst = max(worst, float((turns.abs() - 1).abs().max()))
    return within({"largest change of a pair's length": (worst, 1e-7)})


def _relative(subject: Subject) -> Evidence:
    spread, varies, allowed = 0.0, math.inf, FLOAT32
    for stack in stacks(_live(subject), subject.config.input.size):
        allowed = max(allowed, stack.tolerance)
        with torch.no_grad(), attention_calls() as calls:
            stack.run(None)
        for call in calls:
            same, other = _by_offset(stack, call)
            spread, varies = max(spread, same), min(varies, other)
    return within(
        {"largest difference of logits at one offset": (spread, 2 * allowed)},
        {"spread of logits over offsets": (varies, 1e-3)},
    )


def _by_offset(stack: Stack, call: AttentionCall) -> tuple[float, float]:
    q, k = (x[0, :, stack.prefix :].double() for x in (call.q, call.k))
    logits = q @ k.transpose(-1, -2)
    cells = torch.tensor(stack.cells)
    steps = cells[:, None] - cells[None, :]
    number = torch.zeros(steps.shape[:2], dtype=torch.int64)
    for axis, extent in enumerate(stack.grid):
        number = number * (2 * extent) + steps[..., axis] + extent
    rows = logits.flatten(1)
    index = torch.unique(number.flatten(), return_inverse=True)[1].expand_as(rows)
    size = int(index.max()) + 1
    most = rows.new_full((len(rows), size), -math.inf).scatter_reduce(1, index, rows, "amax")
    least = rows.new_full((len(rows), size), math.inf).scatter_reduce(1, index, rows, "amin")
    scale = rows.abs().amax()
    return float((most - least).max() / scale), float((most.amax(1) - most.amin(1)).min() / scale)


def _axes(subject: Subject) -> Evidence:
    """A step down turns the first half of the pairs alone, a step to the right the second."""
    worst, moved = 0.0, math.inf
    for stack in stacks(_live(subject), subject.config.input.size):
        height, width = stack.grid
        for turns in measured_turns(stack).values():
            z = turns.view(len(turns), height, width, 2 * stack.pairs)
            down, right = z[:, 1:] / z[:, :-1] - 1, z[:, :, 1:] / z[:, :, :-1] - 1
            still = (down[..., stack.pairs :], right[..., : stack.pairs])
            turned = (down[..., : stack.pairs], right[..., stack.pairs :])
            worst = max(worst, *(float(part.abs().max()) for part in still))
            moved = min(moved, *(float(part.abs().max()) for part in turned))
    return within(
        {"largest turn of the other axis": (worst, FLOAT32)}, {"turn of its own": (moved, 0.1)}
    )


def _span(subject: Subject) -> Evidence:
    told: dict[str, tuple[float, float]] = {}
    objective = _live(subject)
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
    objective = _live(subject, {"encoder.positions.coordinates": "seconds"})
    worst, angles = 0.0, set()
    for size in sizes(subject):
        for stack in stacks(objective, size):
            expected = stack.turns()
            for turns in measured_turns(stack).values():
                worst = max(worst, _gap(turns[:, 1:] / turns[:, :-1], expected[1:] / expected[:-1]))
                if stack.name == "patches":
                    step = torch.angle(turns[:, 1, 0] / turns[:, 0, 0]).abs().mean()
                    angles.add(round(float(step), 4))
    told = {"largest difference from 2π · seconds / period": (worst, 1e-4)}
    return within(told, **{"turn of a patch at each length": str(sorted(angles))})


def _rescale(subject: Subject) -> Evidence:
    objective = _live(subject)
    patch, axes = subject.config.encoder.patch, len(subject.config.input.size)
    stack = next(stacks(objective, (4 * patch,) * axes))
    plain = stack.turns()
    evaluated = max(_gap(turns, plain) for turns in measured_turns(stack).values())
    limit = stack.rotary.rescale or 1.0
    exponents, worst = [], 0.0
    for step in range(600 if limit > 1 else 3):
        draw = Draw(subject.seed, step, torch.arange(1))
        factor = _factor(finest(objective), stack, draw, (4 * patch,) * axes)
        if step < 3:
            turned = measured_turns(stack, draw).values()
            worst = max(worst, *(_gap(turns, stack.turns(factor)) for turns in turned))
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
    gap = max(_gap(other[name], again[name]) for name in again)
    told["difference between samples of one step"] = (gap, 0.0)
    with torch.no_grad():
        inputs = real(subject)
        ids = torch.arange(len(inputs.values))
        losses = [objective(inputs, d).loss for d in (Draw(subject.seed, 3, ids), None)]
    wired = abs(float(losses[0] - losses[1]))
    return within(told, {"reach of the exponent to both sides": (reach, 0.9),
                         "change of the loss with training's factor": (wired, 1e-9)})  # fmt: skip


def _factor(encoder: PatchEncoder, stack: Stack, draw: Draw, size: Grid) -> float:
    """Of one step's coordinates, from the slowest angle that the last patch is turned by."""
    tables = encoder.tables(size, torch.device("cpu"), draw)
    assert tables is not None
    cosine, sine = (table[-1, stack.pairs - 1].double() for table in tables)
    angle = float(torch.atan2(sine, cosine))
    return angle / stack.frequency(stack.pairs - 1) / stack.coordinate(stack.cells[-1], 0)


def _kept(subject: Subject) -> Evidence:
    """Tokens that stay after others were dropped are turned as their own places say."""
    objective = _live(subject)
    size = subject.config.input.size
    stack, patches = next(stacks(objective, size)), finest(objective)
    kept = torch.arange(len(stack.cells) - 1, 0, -3).sort().values
    with torch.no_grad(), attention_calls() as calls:
        values = vector(stack.config.width, 1).expand(1, len(stack.cells), -1)
        patches.layers(values, size, None, kept.unsqueeze(0))
    expected, worst = stack.turns()[kept], 0.0
    for call in calls:
        for x in (call.q, call.k):
            z = paired(x)
            worst = max(worst, _gap(z / z[:, :1], expected / expected[:1]))
    told = {"largest difference of exp(i · angle)": (worst, stack.tolerance)}
    return within(told, kept=len(kept), of=len(stack.cells))


def is_rotary(subject: Subject) -> bool:
    return isinstance(subject.config.encoder.positions, Rotary)


def is_jepa(subject: Subject) -> bool:
    return isinstance(subject.config.objective, JepaConfig)


def _normalized(subject: Subject) -> bool:
    positions = subject.config.encoder.positions
    return isinstance(positions, Rotary) and positions.coordinates == "normalized"


def _only_rescaled(subject: Subject) -> bool:
    positions = subject.config.encoder.positions
    return isinstance(positions, Rotary) and positions.shift is None and positions.jitter is None


NEPA = "NEPA reference code, rotary positions"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "rope.angles",
        "Queries and keys of every block are turned by 2π · coordinate · θ^(-k/K) in each pair.",
        NEPA, _angles, is_rotary,
    ),
    Claim(
        "rope.cls-unrotated", "CLS is not rotated: it stands at coordinate 0.",
        NEPA, _cls, lambda s: _normalized(s) and s.config.encoder.cls,
    ),
    Claim(
        "rope.norm-preserved", "A rotation leaves the length of every pair as it is.",
        "Su et al. 2021", _norm, is_rotary,
    ),
    Claim(
        "rope.relative", "Logits between patches depend on their offset alone.",
        "Su et al. 2021", _relative, is_rotary,
    ),
    Claim(
        "rope.axes", "Rows turn the first half of the pairs, columns the second.",
        NEPA, _axes, lambda s: is_rotary(s) and len(s.config.input.size) == 2,
    ),
    Claim(
        "rope.span",
        "Coordinates are the patch centres in [-1, 1] along each axis, at any resolution.",
        NEPA, _span, _normalized,
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
        NEPA, _rescale, lambda s: _normalized(s) and _only_rescaled(s),
    ),
    Claim(
        "rope.kept-places", "A context's tokens keep the angles of their own places.",
        "our design", _kept, lambda s: is_rotary(s) and is_jepa(s),
    ),
)  # fmt: skip
