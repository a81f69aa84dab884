"""What the levels of an H-JEPA promise: true cells, no leak from below, and what joins them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.nn.hierarchy import Hierarchy, Tokens
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    Grid,
    Pass,
    apart,
    changes,
    has_teacher,
    is_hierarchy,
    live,
    marked,
    noise,
    observe,
    one_pass,
    parent_of_each,
    patch_flags,
    some_valid,
    values,
)
from latentcast.verification.observe.twin import Subject
from latentcast.verification.parity import plain_ijepa

TOP_DOWN = {"objective.top_down": True}


def pooling(subject: Subject) -> Evidence:
    """What enters each level's projection against the mean over the seen cells, by hand."""
    objective, x = live(subject), values(subject)
    valid = some_valid(subject, len(x))
    flags = patch_flags(subject, valid)
    largest, means = 0.0, 0
    for inputs in (Inputs(x), Inputs(torch.where(flags, x, 0.0), flags)):
        seen, entered = _merging(objective, inputs, subject)
        grids = subject.config.grids
        for level in range(1, len(grids)):
            below = seen.context[level - 1]
            expected = _mean_of_cells(below, grids[level - 1], grids[level])
            # The last ones: without a teacher the student has looked at the whole before.
            largest = max(largest, apart(entered[level - len(grids)], expected))
            means += expected.shape[0] * expected.shape[1]
    told = {"means": means, "largest difference": largest, "bound": ROUNDING}
    return Evidence(largest <= ROUNDING, told)


def _merging(objective: Jepa, inputs: Inputs, subject: Subject) -> tuple[Pass, list[Tensor]]:
    """A pass, and what the student's merges put into their projections."""
    entered: list[Tensor] = []
    handles = []
    for level in objective.student.coarser:
        merge = level.get_submodule("merge.proj")
        handles.append(
            merge.register_forward_pre_hook(lambda module, args: entered.append(args[0].detach()))
        )
    try:
        return observe(objective, inputs, subject.draw()), entered
    finally:
        for handle in handles:
            handle.remove()


def _mean_of_cells(below: Tokens, fine: Grid, coarse: Grid) -> Tensor:
    batch, _, width = below.values.shape
    total = torch.zeros(batch, math.prod(coarse), width, dtype=torch.float64)
    count = [[0] * math.prod(coarse) for _ in range(batch)]
    parents = parent_of_each(fine, coarse)
    for b in range(batch):
        for t, place in enumerate(below.places[b].tolist()):
            if below.seen is not None and not bool(below.seen[b, t]):
                continue
            cell = parents[place]
            total[b, cell] += below.values[b, t].detach()
            count[b][cell] += 1
    return total / torch.tensor(count, dtype=torch.float64).clamp(min=1).unsqueeze(-1)


def plain_levels(subject: Subject) -> Evidence:
    """Each level from the one below it: mean, projection, positions, blocks among seen cells, norm.

    Drop-path and moved coordinates are off; the level below is taken as it was.
    """
    changes: dict[str, Any] = {"encoder.drop_path": 0.0}
    if subject.config.encoder.positions.kind == "rotary":
        changes |= {f"encoder.positions.{name}": None for name in ("rescale", "shift", "jitter")}
    objective, seen = one_pass(subject, changes)
    weights = {name: p.detach() for name, p in objective.named_parameters()}
    jepa, grids = subject.config.objective, subject.config.grids
    assert isinstance(jepa, JepaConfig)
    largest = 0.0
    for n, config in enumerate(jepa.coarser):
        means = _mean_of_cells(seen.context[n], grids[n], grids[n + 1])
        sized = subject.config.updated(changes).encoder.sized(config)
        above = seen.context[n + 1]
        for b in range(len(means)):
            flags = torch.ones(len(means[b])).bool() if above.seen is None else above.seen[b]
            cells = flags.nonzero().flatten()
            at = f"student.coarser.{n}."
            plain = plain_ijepa.level(weights, at, sized, grids[n + 1], means[b, cells], cells)
            largest = max(largest, apart(above.values[b, cells], plain))
    bound = 1e-4 if subject.config.encoder.positions.kind == "rotary" else 1e-8
    return Evidence(largest <= bound, {"largest difference": largest, "bound": bound})


def seen_cells(subject: Subject) -> Evidence:
    """The flags of each level, and those that predictors are given, against the patches seen."""
    objective, seen = one_pass(subject)
    grids, wrong, unseen, whole = subject.config.grids, 0, 0, 0
    flags = marked(seen.places, math.prod(grids[0]))
    for level in range(1, len(grids)):
        expected = torch.zeros(len(flags), math.prod(grids[level]), dtype=torch.bool)
        for patch, cell in enumerate(parent_of_each(grids[0], grids[level])):
            expected[:, cell] |= flags[:, patch]
        found = seen.context[level].seen
        found = torch.ones_like(expected) if found is None else found
        given = seen.calls[level][0].given["seen"]
        given = torch.ones_like(expected) if given is None else given
        wrong += int((found != expected).sum()) + int((given != expected).sum())
        unseen += int((~expected).sum())
    for tokens in seen.teacher[-1] if seen.teacher else objective.student(values(subject)):
        whole += 0 if tokens.seen is None else int((~tokens.seen).sum())
    told = {"wrong flags": wrong, "unseen cells": unseen, "unseen in the whole input": whole}
    return Evidence(wrong == 0 and whole == 0, told | {"bound": 0})


def context_blind(subject: Subject) -> Evidence:
    """Other content in the hidden patches; every coarser level, and everything predictors read."""
    objective, before = one_pass(subject)
    x = values(subject)
    hidden = ~marked(before.places, math.prod(subject.config.grids[0]))
    flags = patch_flags(subject, hidden)
    after = observe(objective, Inputs(torch.where(flags, 3 * noise(x.shape), x)), subject.draw())
    largest = noticed = 0.0
    other = observe(objective, Inputs(torch.where(flags, x, 3 * noise(x.shape))), subject.draw())
    for n, level in enumerate(before.context):
        largest = max(largest, apart(level.values, after.context[n].values))
        noticed = max(noticed, apart(level.values, other.context[n].values))
        read = [each.calls[n][0].given["context"] for each in (before, after)]
        largest = max(largest, apart(*read))
    told = {"changed by hidden patches": largest, "bound": 0, "by visible patches": noticed}
    return Evidence(largest == 0 and noticed > MATTERS, told)


def coarse_hides(subject: Subject) -> Evidence:
    """The cells asked for, at each level, against the patches in the context of the same pass."""
    objective, x = live(subject), values(subject)
    grids, inside, asked = subject.config.grids, 0, 0
    for step in range(3):
        seen = observe(objective, Inputs(x), subject.draw(step))
        context = marked(seen.places, math.prod(grids[0]))
        for level in range(1, len(grids)):
            parents = torch.tensor(parent_of_each(grids[0], grids[level]))
            targets = seen.targets[level].transpose(0, 1).flatten(1)
            for b in range(len(context)):
                under = torch.isin(parents, targets[b])
                inside += int((under & context[b]).sum())
                asked += len(set(targets[b].tolist()))
    told = {"coarse targets": asked, "patches under them in the context": inside, "bound": 0}
    return Evidence(inside == 0 and asked > 0, told)


# What joins the levels


def fusion(subject: Subject) -> Evidence:
    """``u_L = z_L``, ``u_l = z_l + W · u_{l+1}`` of the cell above, token by token."""
    objective, seen = one_pass(subject)
    student, grids = objective.student, subject.config.grids
    fused = [call[0].given["context"].detach() for call in seen.calls]
    assert student.fusion is not None
    above = seen.context[-1].values.detach()
    largest = apart(fused[-1], above)
    added = math.inf
    for n in range(len(grids) - 2, -1, -1):
        level = seen.context[n]
        weight, bias = (p.detach() for p in student.fusion.lateral[n].parameters())
        parents = parent_of_each(grids[n], grids[n + 1])
        rows = []
        for b in range(len(level.places)):
            cells = [parents[place] for place in level.places[b].tolist()]
            rows.append(torch.stack([weight @ above[b, cell] + bias for cell in cells]))
        expected = level.values.detach() + torch.stack(rows)
        largest = max(largest, apart(fused[n], expected))
        added = min(added, apart(fused[n], level.values))
        above = expected
        if n and level.places.shape[1] != math.prod(grids[n]):
            return Evidence(False, {"level without a token for each cell": n})
    told = {"largest difference": largest, "bound": ROUNDING, "what is added": added}
    return Evidence(largest <= ROUNDING and added > MATTERS, told)


def fusion_trained(subject: Subject) -> Evidence:
    """By the predictors alone: it has gradients, and moving it leaves every target as it is."""
    objective, x = live(subject), values(subject)
    before, _ = objective.targets(x, None)
    first = observe(objective, Inputs(x), subject.draw())
    first.output.loss.backward()  # type: ignore[no-untyped-call]
    assert objective.student.fusion is not None
    least = min(
        0.0 if p.grad is None else float(p.grad.abs().max())
        for p in objective.student.fusion.parameters()
    )
    networks = [objective.student, *([objective.teacher] if objective.teacher else [])]
    leaked = sum(
        p.grad is not None
        for network in networks[1:]
        for name, p in network.named_parameters()
        if name.startswith("fusion")
    )
    with torch.no_grad():
        for network in networks:
            assert isinstance(network, Hierarchy) and network.fusion is not None
            for number, parameter in enumerate(network.fusion.parameters()):
                parameter.add_(noise(parameter.shape, number))
    largest = max(changes(before, objective.targets(x, None)[0]))
    second = observe(objective, Inputs(x), subject.draw())
    predictions = apart(first.predictions[0], second.predictions[0])
    return Evidence(
        largest == 0 and least > 0 and leaked == 0 and predictions > MATTERS,
        {
            "least gradient of its weights": least,
            "teacher's fusion with a gradient": leaked,
            "targets changed by it": largest,
            "bound": 0,
            "predictions changed by it": predictions,
        },
    )


def has_fusion(subject: Subject) -> bool:
    jepa = subject.recipe.objective
    return isinstance(jepa, JepaConfig) and jepa.fusion


def top_down(subject: Subject) -> Evidence:
    """With ``top_down`` on: which network's say, and of which cell, each query is given."""
    objective, before = one_pass(subject, TOP_DOWN)
    x, grids = values(subject), subject.config.grids
    hidden = ~marked(before.places, math.prod(grids[0]))
    flags = patch_flags(subject, hidden)
    other = torch.where(flags, 3 * noise(x.shape), x)
    after = observe(objective, Inputs(other), subject.draw())
    leaked = wrong = 0.0
    for n in range(len(grids) - 1):
        hint = before.calls[n][0].given["hint"]
        leaked = max(leaked, apart(hint, after.calls[n][0].given["hint"]))
        # The coarser predictor's answer for every cell: its second call of the pass.
        every = before.calls[n + 1][1]
        cells = every.given["targets"][0]
        for patch, cell in enumerate(parent_of_each(grids[n], grids[n + 1])):
            at = (cells[0] == cell).nonzero().flatten()
            wrong = max(wrong, apart(hint[:, patch], every.said[0, :, int(at[0])]))
    with torch.no_grad():
        bias = objective.predictors[-1].get_parameter("proj.bias")
        bias.add_(1)
    moved = observe(objective, Inputs(x), subject.draw())
    heard = apart(before.predictions[0], moved.predictions[0])
    return Evidence(
        leaked == 0 and wrong == 0 and heard > MATTERS,
        {
            "hint changed by hidden patches": leaked,
            "hint from the coarse prediction of its cell": wrong,
            "bound": 0,
            "finest prediction changed by the coarsest predictor": heard,
        },
    )


def levels_apart(subject: Subject) -> Evidence:
    """Without ``top_down`` no predictor hears another: each level is predicted for itself."""
    off: dict[str, Any] = {"objective.top_down": False}
    objective, before = one_pass(subject, off)
    with torch.no_grad():
        for predictor in list(objective.predictors)[1:]:
            predictor.get_parameter("proj.bias").add_(1)
    after = observe(objective, Inputs(values(subject)), subject.draw())
    finest = apart(before.predictions[0], after.predictions[0])
    own = min(changes(before.predictions[1:], after.predictions[1:]))
    told = {"finest predictions changed": finest, "bound": 0, "their own changed": own}
    return Evidence(finest == 0 and own > MATTERS, told)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "hierarchy.pooling",
        "A coarse cell is the mean of the seen tokens of a true cell of the grid: no straddling of "
        "rows, and nothing unseen is counted.",
        "our design, section 5; spec of H-JEPA, defect D17 and behaviour 12",
        pooling,
        is_hierarchy,
    ),
    Claim(
        "hierarchy.level",
        "A level is z = f(merge(z below)): its tokens are those of projection, positions, blocks "
        "and norm written out plainly, on the cells that are seen.",
        "our design, section 5",
        plain_levels,
        lambda subject: is_hierarchy(subject) and plain_ijepa.knows(subject.config),
    ),
    Claim(
        "hierarchy.seen",
        "A cell counts as seen where something of it is seen, and a whole input is seen as a whole "
        "at every level.",
        "spec of H-JEPA, defect D13 and behaviour 12",
        seen_cells,
        is_hierarchy,
    ),
    Claim(
        "hierarchy.context-blind",
        "What stands in the hidden patches reaches no coarser level of the context: not one bit "
        "changes.",
        "our design, section 5; spec of JEPA, behaviour 6",
        context_blind,
        is_hierarchy,
    ),
    Claim(
        "hierarchy.coarse-hides",
        "A coarse target hides every finer token under it from the context.",
        "our design, section 5",
        coarse_hides,
        lambda subject: is_hierarchy(subject),
    ),
    Claim(
        "hierarchy.fusion",
        "Fusion adds to each token what the cell above it says, and nothing of another cell.",
        "our design, section 5",
        fusion,
        lambda subject: is_hierarchy(subject) and has_fusion(subject),
    ),
    Claim(
        "hierarchy.fusion-trained",
        "Fusion is trained by the predictions, and no target answers to it.",
        "our design, section 5",
        fusion_trained,
        lambda subject: has_fusion(subject) and has_teacher(subject),
    ),
    Claim(
        "hierarchy.top-down",
        "With top_down, a query is told the coarser prediction for the cell it lies in, made from "
        "the context alone.",
        "our design, section 5",
        top_down,
        is_hierarchy,
    ),
    Claim(
        "hierarchy.levels-apart",
        "Without top_down, no level's prediction depends on another level's predictor.",
        "our design, section 5",
        levels_apart,
        is_hierarchy,
    ),
)
