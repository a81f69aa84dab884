"""What the levels of an H-JEPA promise: true cells, no leak from below, and what joins them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.nn.hierarchy import Hierarchy, Tokens
from latentcast.objectives.jepa import JepaConfig
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest, none
from latentcast.verification.observe.config import has_transformer, transformer_of
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    Grid,
    apart,
    cells_with,
    changes,
    has_teacher,
    is_hierarchy,
    live,
    marked,
    move,
    noise,
    observe,
    one_pass,
    parent_of_each,
    patch_flags,
    some_valid,
    unaugmented,
    values,
)
from latentcast.verification.observe.masks import drawn_and_live, places_of
from latentcast.verification.observe.network import inputs_of
from latentcast.verification.observe.twin import Twin
from latentcast.verification.parity import plain_ijepa

DESIGN = "our design, section 5"


def has_levels(twin: Twin) -> bool:
    return has_transformer(twin) and is_hierarchy(twin)


NEEDS = has_levels


@claim("hierarchy.pooling", "A coarse cell is the mean of the valid tokens of a true cell of the "
       "grid: no straddling of rows, and nothing that is not valid is counted.",
       source="our design, section 5; spec of H-JEPA, defect D17 and behaviour 12")  # fmt: skip
def pooling(twin: Twin) -> Evidence:
    """What enters each level's projection against the mean, by hand."""
    objective, x, grids = live(twin), values(twin), twin.config.grids
    flags = patch_flags(twin, some_valid(twin, len(x)))
    projections = [level.get_submodule("merge.proj") for level in objective.student.coarser]
    largest, means = 0.0, 0
    for inputs in (Inputs(x), Inputs(torch.where(flags, x, 0.0), flags)):
        with inputs_of(*projections) as entered:
            forward = observe(objective, inputs, twin.draw())
        # The last ones: without a teacher the student has read the input in full before.
        for level, read in enumerate(entered[-len(projections) :], start=1):
            below = forward.context[level - 1]
            expected = _mean_of_cells(below, grids[level - 1], grids[level])
            largest = greatest(largest, apart(read, expected))
            means += expected.shape[0] * expected.shape[1]
    return all_of(at_most("largest difference", largest, ROUNDING), means=means)


def _mean_of_cells(below: Tokens, fine: Grid, coarse: Grid) -> Tensor:
    batch, _, width = below.values.shape
    cells, parents = math.prod(coarse), parent_of_each(fine, coarse)
    total = torch.zeros(batch, cells, width, dtype=torch.float64)
    count = torch.zeros(batch, cells, 1, dtype=torch.float64)
    for b, places in enumerate(below.ids.tolist()):
        for t, place in enumerate(places):
            if below.valid is None or bool(below.valid[b, t]):
                total[b, parents[place]] += below.values[b, t].detach()
                count[b, parents[place]] += 1
    return total / count.clamp(min=1)


@claim("hierarchy.level", "A level is z = f(merge(z below)): its tokens are those of projection, "
       "positions, blocks and norm written out plainly, on the cells that are valid.",
       source=DESIGN,
       about=lambda twin: plain_ijepa.knows(twin.config))  # fmt: skip
def plain_levels(twin: Twin) -> Evidence:
    """Drop-path and moved coordinates are off; the level below is taken as it was."""
    config = twin.config.updated(unaugmented(twin))
    objective, forward = one_pass(twin, unaugmented(twin))
    weights = {name: p.detach() for name, p in objective.named_parameters()}
    jepa, grids = twin.config.objective, twin.config.grids
    assert isinstance(jepa, JepaConfig)
    largest = 0.0
    for n, coarser in enumerate(jepa.coarser):
        means = _mean_of_cells(forward.context[n], grids[n], grids[n + 1])
        sized = transformer_of(config).sized(coarser)
        level = forward.context[n + 1]
        for b in range(len(means)):
            valid = torch.ones(len(means[b])).bool() if level.valid is None else level.valid[b]
            cells = valid.nonzero().flatten()
            at = f"student.coarser.{n}."
            plain = plain_ijepa.level(
                weights, at, sized, grids[n + 1], means[b, cells], cells,
                twin.config.input.lead_rows is not None,
            )  # fmt: skip
            largest = greatest(largest, apart(level.values[b, cells], plain))
    rotary = transformer_of(config).positions.kind == "rotary"
    return at_most("largest difference", largest, 1e-4 if rotary else 1e-8)


@claim("hierarchy.seen", "A cell is valid where something of it is in the context, and of an "
       "input in full every cell is, at every level.",
       source="spec of H-JEPA, defect D13 and behaviour 12")  # fmt: skip
def valid_cells(twin: Twin) -> Evidence:
    """The flags of each level, and those that predictors are given, against the patches."""
    objective, forward = one_pass(twin)
    grids, wrong, empty, missing = twin.config.grids, 0, 0, 0
    flags = marked(forward.places, math.prod(grids[0]))
    for level in range(1, len(grids)):
        expected = cells_with(flags, grids[0], grids[level])
        arguments = forward.calls[level][0].arguments
        for valid in (forward.context[level].valid, arguments["context_valid"]):
            wrong += int((expected != (True if valid is None else valid)).sum())
        empty += int((~expected).sum())
    for tokens in forward.teacher[-1] if forward.teacher else objective.student(values(twin)):
        missing += 0 if tokens.valid is None else int((~tokens.valid).sum())
    return all_of(
        equal("wrong flags", wrong, 0),
        equal("not valid of an input in full", missing, 0),
        cells_without_context=empty,
    )


@claim("hierarchy.coarse-hides", "A coarse target hides every finer token under it from the "
       "context.", source=DESIGN)  # fmt: skip
def coarse_hides(twin: Twin) -> Evidence:
    """In masks as they are drawn, at full size too, and in the forward pass."""
    inside = targets = 0
    for masks, grids in drawn_and_live(twin):
        context = marked(masks.context, math.prod(grids[0]))
        for block, grid in list(places_of(masks, grids).values())[2:]:
            cells = marked(block, math.prod(grid))
            targets += int(cells.sum())
            inside += int((cells[:, list(parent_of_each(grids[0], grid))] & context).sum())
    return all_of(
        equal("patches under them in the context", inside, 0), above("coarse targets", targets, 0)
    )


# What joins the levels


def has_fusion(twin: Twin) -> bool:
    jepa = twin.recipe.objective
    return isinstance(jepa, JepaConfig) and jepa.fusion


@claim("hierarchy.fusion", "Fusion adds to each token a projection of the cell above it, and "
       "nothing of another cell.",
       source=DESIGN, about=has_fusion)  # fmt: skip
def fusion(twin: Twin) -> Evidence:
    """``u_L = z_L``, ``u_l = z_l + W · u_{l+1}`` of the cell above, token by token."""
    objective, forward = one_pass(twin)
    student, grids = objective.student, twin.config.grids
    fused = [call[0].arguments["context"].detach() for call in forward.calls]
    assert student.fusion is not None
    above_it = forward.context[-1].values.detach()
    largest, added, gaps = apart(fused[-1], above_it), math.inf, list[int]()
    for n in range(len(grids) - 2, -1, -1):
        level = forward.context[n]
        if n and level.ids.shape[1] != math.prod(grids[n]):
            gaps.append(n)
            break
        weight, bias = (p.detach() for p in student.fusion.lateral[n].parameters())
        parents = parent_of_each(grids[n], grids[n + 1])
        expected = level.values.detach() + torch.stack([
            torch.stack([weight @ above_it[b, parents[place]] + bias for place in places])
            for b, places in enumerate(level.ids.tolist())
        ])  # fmt: skip
        largest = greatest(largest, apart(fused[n], expected))
        added = min(added, apart(fused[n], level.values))
        above_it = expected
    return all_of(
        none("coarse levels without a token for each cell", gaps),
        at_most("largest difference", largest, ROUNDING),
        above("what is added", added, MATTERS),
    )


@claim("hierarchy.fusion-trained", "Fusion is trained by the predictions, and no target answers "
       "to it.",
       source=DESIGN, about=lambda twin: has_fusion(twin) and has_teacher(twin))  # fmt: skip
def fusion_trained(twin: Twin) -> Evidence:
    """It has gradients, and moving it leaves every target as it is."""
    objective, x = live(twin), values(twin)
    before, _ = objective.targets(x, None)
    first = observe(objective, Inputs(x), twin.draw())
    first.output.loss.backward()  # type: ignore[no-untyped-call]
    assert objective.student.fusion is not None and objective.teacher is not None
    least = min(
        0.0 if p.grad is None else float(p.grad.abs().max())
        for p in objective.student.fusion.parameters()
    )
    leaked = [
        name for name, p in objective.teacher.named_parameters()
        if name.startswith("fusion") and p.grad is not None
    ]  # fmt: skip
    for network in (objective.student, objective.teacher):
        assert isinstance(network, Hierarchy) and network.fusion is not None
        move(network.fusion)
    targets = max(changes(before, objective.targets(x, None)[0]))
    second = observe(objective, Inputs(x), twin.draw())
    return all_of(
        above("least gradient of its weights", least, 0.0),
        none("teacher's fusion with a gradient", leaked),
        at_most("targets changed by it", targets, 0.0),
        above("predictions changed by it", apart(first.predictions[0], second.predictions[0]),
              MATTERS),
    )  # fmt: skip


@claim("hierarchy.top-down", "With top_down, a query is given the coarser prediction for the cell "
       "it lies in, made from the context alone.", source=DESIGN)  # fmt: skip
def top_down(twin: Twin) -> Evidence:
    """Whose prediction, and of which cell."""
    objective, before = one_pass(twin, {"objective.top_down": True})
    x, grids = values(twin), twin.config.grids
    hidden = ~marked(before.places, math.prod(grids[0]))
    other = torch.where(patch_flags(twin, hidden), 3 * noise(x.shape), x)
    after = observe(objective, Inputs(other), twin.draw())
    leaked = wrong = 0.0
    for n in range(len(grids) - 1):
        hint = before.calls[n][0].arguments["hint"]
        leaked = greatest(leaked, apart(hint, after.calls[n][0].arguments["hint"]))
        # The coarser predictor's output for every cell: its second call of the pass.
        every = before.calls[n + 1][1]
        cells = every.arguments["target_ids"][0]
        for patch, cell in enumerate(parent_of_each(grids[n], grids[n + 1])):
            at = (cells[0] == cell).nonzero().flatten()
            wrong = greatest(wrong, apart(hint[:, patch], every.out[0, :, int(at[0])]))
    with torch.no_grad():
        objective.predictors[-1].get_parameter("proj.bias").add_(1)
    moved = observe(objective, Inputs(x), twin.draw())
    return all_of(
        at_most("hint changed by hidden patches", leaked, 0.0),
        at_most("hint from the coarse prediction of its cell", wrong, 0.0),
        above("finest prediction changed by the coarsest predictor",
              apart(before.predictions[0], moved.predictions[0]), MATTERS),
    )  # fmt: skip


@claim("hierarchy.levels-apart", "Without top_down, no level's prediction depends on another "
       "level's predictor.", source=DESIGN)  # fmt: skip
def levels_apart(twin: Twin) -> Evidence:
    objective, before = one_pass(twin, {"objective.top_down": False})
    with torch.no_grad():
        for predictor in list(objective.predictors)[1:]:
            predictor.get_parameter("proj.bias").add_(1)
    after = observe(objective, Inputs(values(twin)), twin.draw())
    finest, *others = changes(before.predictions, after.predictions)
    return all_of(
        at_most("finest predictions changed", finest, 0.0),
        above("their own changed", min(others), MATTERS),
    )
