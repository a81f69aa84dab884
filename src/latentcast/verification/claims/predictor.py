"""What a predictor of a JEPA knows: places, its own block, and nothing of the other blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.nn.hierarchy import Tokens
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, greatest
from latentcast.verification.observe.config import has_transformer
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    Pass,
    changes,
    has_teacher,
    live,
    noise,
    observe,
    values,
)
from latentcast.verification.observe.network import finest
from latentcast.verification.observe.twin import Twin

NEEDS = has_transformer


def _with_other_targets(objective: Jepa, twin: Twin) -> tuple[Pass, list[Tensor]]:
    """A pass, and other cells to predict: in each of two blocks half of a level, in no order."""
    forward = observe(objective, Inputs(values(twin)), twin.draw())
    targets = []
    for level, grid in enumerate(twin.config.grids):
        cells = math.prod(grid)
        order = noise((2, len(forward.places), cells), 50 + level).argsort(-1)
        targets.append(order[:, :, : max(1, cells // 2)])
    return forward, targets


def _predicted(
    objective: Jepa,
    twin: Twin,
    forward: Pass,
    targets: Sequence[Tensor],
    context: list[Tokens] | None = None,
    rows: slice = slice(None),
) -> list[Tensor]:
    """What the objective predicts for some samples of a pass, from its context or another."""
    grid = forward.calls[0][0].arguments["grid"][-len(twin.config.input.size) :]
    size = tuple(n * finest(objective).patches.patch for n in grid)
    if context is None:
        context = objective.student.fused(forward.context, size)
    own, teacher = ([_part(t, rows) for t in levels] for levels in (context, forward.teacher[-1]))
    with torch.no_grad():
        return objective.predict(own, teacher, targets, size)


def _part(tokens: Tokens, index: Any) -> Tokens:
    valid = None if tokens.valid is None else tokens.valid[index]
    return Tokens(tokens.values[index], tokens.ids[index], valid)


@claim("predictor.positions", "The predictor knows the place of each context token and of each "
       "query: equal content elsewhere gives another prediction, the order of the list none.",
       source="I-JEPA reference code, vision_transformer.py; spec of H-JEPA, defect D15",
       about=has_teacher)  # fmt: skip
def positions(twin: Twin) -> Evidence:
    objective = live(twin)
    forward, targets = _with_other_targets(objective, twin)
    context = [
        Tokens(*(call[0].arguments[name] for name in ("context", "context_ids", "context_valid")))
        for call in forward.calls
    ]
    before = _predicted(objective, twin, forward, targets, context)
    moved = [Tokens(t.values, t.ids.roll(1, 1), t.valid) for t in context]
    carried = [_part(t, (slice(None), torch.arange(t.ids.shape[1]).roll(1))) for t in context]
    elsewhere = min(changes(before, _predicted(objective, twin, forward, targets, moved)))
    together = max(changes(before, _predicted(objective, twin, forward, targets, carried)))
    least = min(float(torch.pdist(p[0, 0], math.inf).min()) for p in before if p.shape[2] > 1)
    return all_of(
        above("change by moving the context's places", elsewhere, MATTERS),
        above("least difference of two queries", least, MATTERS),
        at_most("change by reordering it with its places", together, ROUNDING),
    )


@claim("predictor.queries-permute", "Queries in another order give the same predictions in that "
       "order.", source="spec of JEPA, behaviour 10", about=has_teacher)  # fmt: skip
def queries_permute(twin: Twin) -> Evidence:
    objective = live(twin)
    forward, targets = _with_other_targets(objective, twin)
    before = _predicted(objective, twin, forward, targets)
    flipped = _predicted(objective, twin, forward, [cells.flip(-1) for cells in targets])
    largest = max(changes(before, [p.flip(2) for p in flipped]))
    return all_of(
        at_most("largest difference", largest, ROUNDING),
        above("by the order alone", changes(before, flipped)[0], MATTERS),
    )


@claim("predictor.blocks-alone", "Each target block of each sample is predicted on its own: the "
       "cells of another block change nothing, and rows are in their order.",
       source="spec of JEPA, 1.3 and behaviour 10", about=has_teacher)  # fmt: skip
def blocks_alone(twin: Twin) -> Evidence:
    """The second block is of other cells; then each is predicted without all others."""
    objective = live(twin)
    forward, targets = _with_other_targets(objective, twin)
    before = _predicted(objective, twin, forward, targets)
    others = [torch.stack([a[0], a[0].flip(-1).roll(1, -1)]) for a in targets]
    after = _predicted(objective, twin, forward, others)
    first, second = (changes([p[m] for p in before], [p[m] for p in after]) for m in (0, 1))
    largest = 0.0
    for b in (0, len(forward.places) - 1):
        row = slice(b, b + 1)
        for m in range(2):
            own = [cells[m : m + 1, row] for cells in targets]
            alone = _predicted(objective, twin, forward, own, rows=row)
            largest = greatest(largest, *changes([p[m : m + 1, row] for p in before], alone))
    return all_of(
        at_most("change of the first block", max(first), ROUNDING),
        above("of the second", second[0], MATTERS),
        at_most("difference of a block of a sample alone", largest, ROUNDING),
    )
