"""The angles by which queries and keys are turned, found in what goes into the live attention.

Every place is fed the same vector, so that what differs from place to place is positions alone.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from latentcast.config import EncoderConfig, Rotary
from latentcast.nn.blocks import QKNorm
from latentcast.nn.hierarchy import Hierarchy, Level, Tokens
from latentcast.objectives.base import Objective
from latentcast.objectives.jepa import JepaConfig
from latentcast.randomness import Draw
from latentcast.verification.observe.config import strides_of, transformer_of
from latentcast.verification.observe.jepa import noise
from latentcast.verification.observe.network import (
    attention_calls,
    finest,
    naive_norm,
    outputs_of,
    stirred,
    thirds,
)
from latentcast.verification.observe.twin import Twin

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
    rows: int = 1
    """Of leads, in each of which the grid lies once more."""

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
        """Row-major; of leads × time the time of each."""
        return list(product(*map(range, self.grid))) * self.rows

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
        return float(2 * math.pi * self.rotary.theta ** (-k / self.pairs))

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
    grid, leads = patches.patches.grid(size), int(patches.lead_rows is not None)
    same = vector(patches.config.width, 1)

    def through(draw: Draw | None) -> None:
        patches.layers(same.expand(1, patches.prefix + math.prod(grid), -1), size, draw)

    yield Stack(
        "patches", patches.config, grid[leads:], patches.prefix, patches.patch_seconds, through,
        list(patches.blocks), math.prod(grid[:leads]),
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
                f"level {number}", level.config, level.grid(fine)[leads:], 0, level.cell_seconds,
                climb, list(level.blocks), math.prod(level.grid(fine)[:leads]),
            )  # fmt: skip
        below, width = level.grid(below), level.config.width


@torch.no_grad()
def measured_turns(
    stack: Stack, draw: Draw | None = None, factor: float = 1.0
) -> dict[str, Tensor]:
    """What each pair of each query and key was multiplied with, against no rotation.

    Pairs are first half with second half of a head. A CLS token, which is not to be rotated, is
    what the others are compared with; without one it is the product itself, normed by hand.

    Args:
        factor: by which coordinates are known to be stretched under this draw.

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
                reference = z[:, :1] / stack.turns(factor)[:1]
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


def gap_of(turns: Tensor, expected: Tensor) -> float:
    return float((turns - expected).abs().max())


def paired(x: Tensor) -> Tensor:
    """``(1, heads, T, head)`` as complex ``(heads, T, head / 2)``."""
    half = x.shape[-1] // 2
    wide = x[0].double()
    return torch.complex(wide[..., :half].contiguous(), wide[..., half:].contiguous())


def vector(width: int, seed: int) -> Tensor:
    return noise((1, 1, width), seed)


def coordinates(stack: Stack, turns: Tensor) -> Tensor:
    """Coordinates ``(cells, axes)`` that the slowest pair of each axis was turned by."""
    slow = stack.pairs - 1
    columns = [turns[..., axis * stack.pairs + slow].mean(0) for axis in range(len(stack.grid))]
    return torch.stack([torch.angle(column) for column in columns], -1) / stack.frequency(slow)


def sizes(twin: Twin) -> list[Grid]:
    """The twin's input, and one of half the extent: positions must hold at any resolution."""
    size = twin.config.input.size
    step = twin.config.encoder.patch * strides(twin)
    half = tuple(n // 2 // step * step for n in size)
    return [size, half] if all(half) and half != size else [size]


def strides(twin: Twin) -> int:
    objective = twin.config.objective
    coarser = objective.coarser if isinstance(objective, JepaConfig) else ()
    axes = len(twin.config.grids[0])
    return math.prod(strides_of(level, axes)[-1] for level in coarser)


def live(twin: Twin, changes: dict[str, Any] | None = None) -> Objective:
    return stirred(twin.objective(changes), twin.seed)


def is_rotary(twin: Twin) -> bool:
    return isinstance(transformer_of(twin.config).positions, Rotary)


def is_normalized(twin: Twin) -> bool:
    positions = transformer_of(twin.config).positions
    return isinstance(positions, Rotary) and positions.coordinates == "normalized"
