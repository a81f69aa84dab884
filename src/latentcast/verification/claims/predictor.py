"""What a predictor of a JEPA knows: places, its own block, and nothing of the other blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.nn.hierarchy import Tokens
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import Claim, Evidence
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
from latentcast.verification.observe.twin import Twin

EVERY = slice(None)


def _asked(objective: Jepa, twin: Twin, blocks: int = 2) -> tuple[Pass, list[Tensor]]:
    """A pass, and other cells to ask for: half of each level a block, in no order."""
    seen = observe(objective, Inputs(values(twin)), twin.draw())
    batch, asked = len(seen.places), []
    for level, grid in enumerate(twin.config.grids):
        cells = math.prod(grid)
        order = noise((blocks, batch, cells), 50 + level).argsort(-1)
        asked.append(order[:, :, : max(1, cells // 2)])
    return seen, asked


def _predicted(
    objective: Jepa,
    seen: Pass,
    asked: Sequence[Tensor],
    context: list[Tokens] | None = None,
    rows: slice = EVERY,
) -> list[Tensor]:
    """What the objective predicts for some samples of a pass, from its context or another."""
    grids = seen.calls[0][0].given["grid"]
    size = tuple(n * objective.student.patches.patch for n in grids)
    if context is None:
        context = objective.student.fused(seen.context, size)
    with torch.no_grad():
        return objective.predict(_rows(context, rows), _rows(seen.teacher[-1], rows), asked, size)


def _rows(levels: list[Tokens], rows: slice) -> list[Tokens]:
    return [
        Tokens(t.values[rows], t.places[rows], None if t.seen is None else t.seen[rows])
        for t in levels
    ]


def positions(twin: Twin) -> Evidence:
    """Equal content elsewhere: in the context by moving its places, and in the queries."""
    objective = live(twin)
    seen, asked = _asked(objective, twin)
    context = [
        Tokens(call[0].given["context"], call[0].given["places"], call[0].given["seen"])
        for call in seen.calls
    ]
    before = _predicted(objective, seen, asked, context)
    moved = [Tokens(t.values, t.places.roll(1, 1), t.seen) for t in context]
    carried = [
        Tokens(
            t.values.roll(1, 1),
            t.places.roll(1, 1),
            t.seen if t.seen is None else t.seen.roll(1, 1),
        )
        for t in context
    ]
    elsewhere = min(changes(before, _predicted(objective, seen, asked, moved)))
    together = max(changes(before, _predicted(objective, seen, asked, carried)))
    least = math.inf
    for predicted in before:
        rows = predicted[0, 0]
        distance = (rows[:, None] - rows[None]).abs().amax(-1)
        others = ~torch.eye(len(rows), dtype=torch.bool)
        least = min(least, float(distance[others].min()) if len(rows) > 1 else math.inf)
    return Evidence(
        min(elsewhere, least) > MATTERS and together <= ROUNDING,
        {
            "context's places moved": elsewhere,
            "least difference of two queries": least,
            "bound": MATTERS,
            "context reordered with its places": together,
            "rounding": ROUNDING,
        },
    )


def queries_permute(twin: Twin) -> Evidence:
    objective = live(twin)
    seen, asked = _asked(objective, twin)
    before = _predicted(objective, seen, asked)
    flipped = _predicted(objective, seen, [cells.flip(-1) for cells in asked])
    largest = max(changes(before, [p.flip(2) for p in flipped]))
    moved = min(changes(before, flipped)[:1])
    told = {"largest difference": largest, "bound": ROUNDING, "by the order alone": moved}
    return Evidence(largest <= ROUNDING and moved > MATTERS, told)


def blocks_alone(twin: Twin) -> Evidence:
    """The second block asks for other cells; the first must not notice."""
    objective = live(twin)
    seen, asked = _asked(objective, twin)
    before = _predicted(objective, seen, asked)
    others = [torch.stack([a[0], a[0].flip(-1).roll(1, -1)]) for a in asked]
    after = _predicted(objective, seen, others)
    largest = max(changes([p[:1] for p in before], [p[:1] for p in after]))
    second = min(changes([p[1:] for p in before], [p[1:] for p in after])[:1])
    told = {"first block": largest, "bound": ROUNDING, "second block": second}
    return Evidence(largest <= ROUNDING and second > MATTERS, told)


def rows_in_order(twin: Twin) -> Evidence:
    """Each block of each sample predicted by itself: the same as its row among all."""
    objective = live(twin)
    seen, asked = _asked(objective, twin)
    together = _predicted(objective, seen, asked)
    largest = 0.0
    for b in (0, len(seen.places) - 1):
        row = slice(b, b + 1)
        for m in range(2):
            alone = _predicted(objective, seen, [a[m : m + 1, row] for a in asked], rows=row)
            whole = [p[m : m + 1, row] for p in together]
            largest = max(largest, *changes(whole, alone))
    return Evidence(largest <= ROUNDING, {"largest difference": largest, "bound": ROUNDING})


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "predictor.positions",
        "The predictor knows the place of each context token and of each query: equal content "
        "elsewhere gives another prediction, the order of the list none.",
        "I-JEPA reference code (src/models/vision_transformer.py); spec of H-JEPA, defect D15",
        positions,
        has_teacher,
    ),
    Claim(
        "predictor.queries-permute",
        "Queries in another order give the same predictions in that order.",
        "spec of JEPA, behaviour 10",
        queries_permute,
        has_teacher,
    ),
    Claim(
        "predictor.blocks-alone",
        "Each target block is predicted on its own: what another block asks changes nothing.",
        "spec of JEPA, 1.3 and behaviour 10",
        blocks_alone,
        has_teacher,
    ),
    Claim(
        "predictor.rows",
        "The prediction of a block of a sample is the one it has alone: rows are in their order.",
        "spec of JEPA, 1.3",
        rows_in_order,
        has_teacher,
    ),
)
