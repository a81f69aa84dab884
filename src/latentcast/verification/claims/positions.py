"""Rotary positions: the angles that queries and keys of the live attention are turned by."""

from __future__ import annotations

import math

import torch

from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, greatest
from latentcast.verification.observe.config import has_transformer, transformer_of
from latentcast.verification.observe.jepa import is_jepa
from latentcast.verification.observe.network import AttentionCall, attention_calls, finest
from latentcast.verification.observe.rotary import (
    FLOAT32,
    Stack,
    coordinates,
    gap_of,
    is_normalized,
    is_rotary,
    live,
    measured_turns,
    paired,
    sizes,
    stacks,
    vector,
)
from latentcast.verification.observe.twin import Twin

NEEDS = has_transformer

NEPA = "NEPA reference code, rotary positions"


@claim("rope.angles", "Queries and keys of every block are turned, and not stretched, by 2π · "
       "coordinate · θ^(-k/K) in each pair; rows turn the first half of the pairs, columns the "
       "second.", source=f"{NEPA}; Su et al. 2021", about=is_rotary)  # fmt: skip
def angles(twin: Twin) -> Evidence:
    worst, length, many, allowed = 0.0, 0.0, 0, FLOAT32
    other, own = 0.0, math.inf
    objective = live(twin)
    for size in sizes(twin):
        for stack in stacks(objective, size):
            expected, allowed = stack.turns(), max(allowed, stack.tolerance)
            for turns in measured_turns(stack).values():
                worst = greatest(worst, gap_of(turns, expected))
                length = greatest(length, float((turns.abs() - 1).abs().max()))
                many += turns.numel()
                if len(stack.grid) == 2:
                    still, turned = _by_axis(stack, turns)
                    other, own = max(other, still), min(own, turned)
    parts = [
        at_most("largest difference of exp(i · angle)", worst, allowed),
        at_most("largest change of a pair's length", length, 1e-7),
    ]
    if math.isfinite(own):
        parts.append(at_most("largest turn of the other axis", other, FLOAT32))
        parts.append(above("turn of its own", own, 0.1))
    return all_of(*parts, pairs=many)


def _by_axis(stack: Stack, turns: torch.Tensor) -> tuple[float, float]:
    """A step down turns the first half of the pairs alone, a step to the right the second: the
    most that one turns the other's, and the least that it turns its own."""
    height, width = stack.grid
    z = turns.view(len(turns), height, width, 2 * stack.pairs)
    down, right = z[:, 1:] / z[:, :-1] - 1, z[:, :, 1:] / z[:, :, :-1] - 1
    still = (down[..., stack.pairs :], right[..., : stack.pairs])
    turned = (down[..., : stack.pairs], right[..., stack.pairs :])
    return greatest(*(float(p.abs().max()) for p in still)), min(
        float(p.abs().max()) for p in turned
    )


@claim("rope.cls-unrotated", "CLS is not rotated: it stands at coordinate 0.",
       source=NEPA,
       about=lambda twin: is_normalized(twin) and transformer_of(twin.config).cls)  # fmt: skip
def cls_unrotated(twin: Twin) -> Evidence:
    worst = 0.0
    for stack in stacks(live(twin), twin.config.input.size):
        # Coordinates run evenly to both sides of 0, so a token at angle 0 stands in their middle.
        axes = range(len(stack.grid))
        middle = sum(stack.coordinate(cell, axis) for cell in stack.cells for axis in axes)
        for turns in measured_turns(stack).values():
            off = (coordinates(stack, turns).sum() - middle) / len(stack.cells)
            worst = greatest(worst, abs(float(off)))
    return at_most("coordinate of CLS", worst, FLOAT32)


@claim("rope.relative", "Logits between patches depend on their offset alone.",
       source="Su et al. 2021", about=is_rotary)  # fmt: skip
def relative(twin: Twin) -> Evidence:
    spread, varies, allowed = 0.0, math.inf, FLOAT32
    for stack in stacks(live(twin), twin.config.input.size):
        allowed = greatest(allowed, stack.tolerance)
        with torch.no_grad(), attention_calls() as calls:
            stack.run(None)
        for call in calls:
            same, other = _by_offset(stack, call)
            spread, varies = max(spread, same), min(varies, other)
    return all_of(
        at_most("largest difference of logits at one offset", spread, 2 * allowed),
        above("spread of logits over offsets", varies, 1e-3),
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


@claim("rope.kept-places", "A context's tokens keep the angles of their own places.",
       source="our design", about=lambda twin: is_rotary(twin) and is_jepa(twin))  # fmt: skip
def kept_places(twin: Twin) -> Evidence:
    objective, size = live(twin), twin.config.input.size
    stack, patches = next(stacks(objective, size)), finest(objective)
    kept = torch.arange(len(stack.cells) - 1, 0, -3).sort().values
    with torch.no_grad(), attention_calls() as calls:
        values = vector(stack.config.width, 1).expand(1, len(stack.cells), -1)
        patches.layers(values, size, None, kept.unsqueeze(0))
    expected, worst = stack.turns()[kept], 0.0
    for call in calls:
        for x in (call.q, call.k):
            z = paired(x)
            worst = greatest(worst, gap_of(z / z[:, :1], expected / expected[:1]))
    return all_of(
        at_most("largest difference of exp(i · angle)", worst, stack.tolerance),
        kept=len(kept), of=len(stack.cells),
    )  # fmt: skip
