"""Rotary positions: the angles that queries and keys of the live attention are turned by."""

from __future__ import annotations

import math

import torch

from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.network import (
    AttentionCall,
    attention_calls,
    finest,
    within,
)
from latentcast.verification.observe.rotary import (
    FLOAT32,
    Stack,
    coordinates,
    gap_of,
    is_jepa,
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


def _angles(twin: Twin) -> Evidence:
    worst, many, allowed = 0.0, 0, FLOAT32
    objective = live(twin)
    for size in sizes(twin):
        for stack in stacks(objective, size):
            expected, allowed = stack.turns(), max(allowed, stack.tolerance)
            for turns in measured_turns(stack).values():
                worst = max(worst, gap_of(turns, expected))
                many += turns.numel()
    return within({"largest difference of exp(i · angle)": (worst, allowed)}, pairs=many)


def _cls(twin: Twin) -> Evidence:
    objective = live(twin)
    worst = 0.0
    for stack in stacks(objective, twin.config.input.size):
        # Coordinates run evenly to both sides of 0, so a token at angle 0 stands in their middle.
        middle = sum(
            stack.coordinate(cell, axis) for cell in stack.cells for axis in range(len(stack.grid))
        )
        for turns in measured_turns(stack).values():
            off = (coordinates(stack, turns).sum() - middle) / len(stack.cells)
            worst = max(worst, abs(float(off)))
    return within({"coordinate of CLS": (worst, FLOAT32)})


def _norm(twin: Twin) -> Evidence:
    objective, worst = live(twin), 0.0
    for stack in stacks(objective, twin.config.input.size):
        for turns in measured_turns(stack).values():
            worst = max(worst, float((turns.abs() - 1).abs().max()))
    return within({"largest change of a pair's length": (worst, 1e-7)})


def _relative(twin: Twin) -> Evidence:
    spread, varies, allowed = 0.0, math.inf, FLOAT32
    for stack in stacks(live(twin), twin.config.input.size):
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


def _axes(twin: Twin) -> Evidence:
    """A step down turns the first half of the pairs alone, a step to the right the second."""
    worst, moved = 0.0, math.inf
    for stack in stacks(live(twin), twin.config.input.size):
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


def _kept(twin: Twin) -> Evidence:
    """Tokens that stay after others were dropped are turned as their own places say."""
    objective = live(twin)
    size = twin.config.input.size
    stack, patches = next(stacks(objective, size)), finest(objective)
    kept = torch.arange(len(stack.cells) - 1, 0, -3).sort().values
    with torch.no_grad(), attention_calls() as calls:
        values = vector(stack.config.width, 1).expand(1, len(stack.cells), -1)
        patches.layers(values, size, None, kept.unsqueeze(0))
    expected, worst = stack.turns()[kept], 0.0
    for call in calls:
        for x in (call.q, call.k):
            z = paired(x)
            worst = max(worst, gap_of(z / z[:, :1], expected / expected[:1]))
    told = {"largest difference of exp(i · angle)": (worst, stack.tolerance)}
    return within(told, kept=len(kept), of=len(stack.cells))


NEPA = "NEPA reference code, rotary positions"


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "rope.angles",
        "Queries and keys of every block are turned by 2π · coordinate · θ^(-k/K) in each pair.",
        NEPA, _angles, is_rotary,
    ),
    Claim(
        "rope.cls-unrotated", "CLS is not rotated: it stands at coordinate 0.",
        NEPA, _cls, lambda s: is_normalized(s) and s.config.encoder.cls,
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
        "rope.kept-places", "A context's tokens keep the angles of their own places.",
        "our design", _kept, lambda s: is_rotary(s) and is_jepa(s),
    ),
)  # fmt: skip
