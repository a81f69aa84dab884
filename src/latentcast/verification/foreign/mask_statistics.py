"""Masks over many draws: is the context drawn, from both ends alike, and are its blocks?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from latentcast.verification.evidence import at_most, equal
from latentcast.verification.foreign.verified import Lines

SURE = 6.0
"""Standard errors beyond which a difference of two rows is none of chance."""
LOPSIDED = 0.05
"""Difference of the share of draws in which mirrored rows are context."""
COUPLED = 0.3
"""Correlation of a block's size with its shape, beyond three standard errors."""
BLOCKS = 30
"""Blocks of different size that a correlation takes."""
FEWEST = 10
"""Draws that a patch takes to have been visible by chance each time."""


def add_context(lines: Lines, context: Tensor, hidden: Tensor) -> None:
    """Whether the context is a fixed region less its targets.

    Args:
        context, hidden: ``(draws, patches)``, True where a patch is context or target.
    """
    visible = (~hidden).sum(0)
    share = (context & ~hidden).sum(0) / visible.clamp(min=1)
    often = visible >= FEWEST
    if not bool(often.any()):
        return
    fixed = bool(((share == 0) | (share == 1))[often].all())
    never = int((share[often] == 0).sum())
    lines.add(
        "masks.context-drawn",
        "The region that a context is cut from is drawn, or the whole grid.",
        equal("patches outside of a region that is always the same", never * fixed, 0),
    )


def add_grid(lines: Lines, context: Tensor, boxes: Sequence[Sequence[Tensor]],
             size: tuple[int, int]) -> None:  # fmt: skip
    """Visits by row and column, and the blocks of the targets on a grid.

    Args:
        context: ``(draws, patches)``, True where a patch is context.
        boxes: the indices of each target of each draw.
        size: rows and columns of the grid, in which patches are counted row by row.
    """
    on_grid = context.view(-1, *size).double()
    worst, first = max((_lopsided(on_grid.mean(2)), "row"), (_lopsided(on_grid.mean(1)), "column"))
    by_row = on_grid.mean((0, 2))
    lines.add(
        "masks.mirrored",
        "A row is context as often as the one at the other end, and so is a column.",
        at_most("difference beyond chance", worst, LOPSIDED), of_a=first,
        first_row=float(by_row[0]), last_row=float(by_row[-1]),
        last_row_but_one=float(by_row[-2]) if size[0] > 1 else 0.0,
    )  # fmt: skip
    _blocks(lines, boxes, size[1])


def _lopsided(visits: Tensor) -> float:
    """Of ``(draws, rows)``, the largest difference of mirrored rows that chance leaves."""
    difference = visits - visits.flip(1)
    error = difference.std(0) / math.sqrt(len(visits))
    return float((difference.mean(0).abs() - SURE * error).clamp(min=0).max())


def _blocks(lines: Lines, boxes: Sequence[Sequence[Tensor]], columns: int) -> None:
    sizes, changes = list[tuple[int, int]](), 0
    for targets in boxes:
        blocks = [block for block in (_rectangle(t, columns) for t in targets) if block]
        changes += bool(blocks) and (not sizes or blocks[0] != sizes[-1])
        sizes += blocks
    heights, widths = (torch.tensor(x).double() for x in zip(*sizes, strict=True)) if sizes else (
        torch.zeros(0), torch.zeros(0))  # fmt: skip
    area, shape = (heights * widths).log(), (heights / widths).log()
    if changes < BLOCKS or not len(area) or float(area.std()) == 0 or float(shape.std()) == 0:
        return
    correlation = float(torch.corrcoef(torch.stack([area, shape]))[0, 1])
    beyond = max(0.0, abs(correlation) - 3 / math.sqrt(changes))
    lines.add(
        "masks.scale-aspect",
        "The size of a target block says nothing of its shape.",
        at_most("correlation beyond chance", beyond, COUPLED),
        correlation=correlation, blocks=len(area), kinds=len(set(sizes)),
    )  # fmt: skip


def _rectangle(target: Tensor, columns: int) -> tuple[int, int] | None:
    """Height and width, where the target is a full rectangle."""
    if not len(target):
        return None
    rows, columns_of = target // columns, target % columns
    height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns_of))
    return (height, width) if height * width == len(target) else None


def shared_targets(boxes: Sequence[Sequence[Tensor]]) -> float:
    """The share of hidden patches that lie in more than one target."""
    shared = hidden = 0
    for targets in boxes:
        counts = torch.cat([t.unique() for t in targets]).bincount()  # type: ignore[no-untyped-call]
        shared, hidden = shared + int((counts > 1).sum()), hidden + int((counts > 0).sum())
    return shared / max(1, hidden)


def repeats(indices: Tensor) -> int:
    """Entries of a list that it has already."""
    ordered = indices.sort().values.tolist()
    return sum(a == b for a, b in pairwise(ordered))
