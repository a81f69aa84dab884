"""What a JEPA promises: who sees what, and what the loss is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest, true
from latentcast.verification.observe.config import (
    has_linear_patches,
    has_transformer,
    patch_by_patch,
)
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    Pass,
    apart,
    cells_with,
    is_hierarchy,
    is_jepa,
    layer_normed_teacher,
    live,
    marked,
    noise,
    normed,
    observe,
    one_pass,
    patch_flags,
    some_valid,
    unaugmented,
    values,
    watch,
)
from latentcast.verification.observe.twin import Twin
from latentcast.verification.parity import plain_ijepa

NEEDS = has_transformer

# Who sees what


@claim("jepa.context-blind", "What stands in the hidden patches reaches neither the context "
       "encoder, at any level, nor a prediction: not one bit changes.",
       source="I-JEPA (Assran et al. 2023), section 3; spec of JEPA, behaviour 6",
       about=is_jepa)  # fmt: skip
def context_blind(twin: Twin) -> Evidence:
    """Other content in the hidden patches, then other content in the visible ones."""
    objective, before = one_pass(twin)
    x = values(twin)
    hidden = ~marked(before.places, math.prod(twin.config.grids[0]))
    flags, other = patch_flags(twin, hidden), 3 * noise(x.shape)
    after = observe(objective, Inputs(torch.where(flags, other, x)), twin.draw())
    visible = observe(objective, Inputs(torch.where(flags, x, other)), twin.draw())
    parts = []
    for n, level in enumerate(before.context):
        contexts = [one.calls[n][0].arguments["context"] for one in (before, after)]
        for name, gap in (
            ("context", apart(level.values, after.context[n].values)),
            ("what the predictor reads", apart(*contexts)),
            ("predictions", apart(before.predictions[n], after.predictions[n])),
        ):
            parts.append(at_most(f"level {n}, {name}: changed by hidden patches", gap, 0.0))
    noticed = apart(before.context[0].values, visible.context[0].values)
    return all_of(
        *parts,
        above("context changed by visible patches", noticed, MATTERS),
        above("hidden patches", int(hidden[0].sum()), 0),
    )


@claim("jepa.context-dropped", "Hidden patches are dropped before the first block, not zeroed: "
       "the context costs its own tokens.",
       source="I-JEPA, section 3; spec of H-JEPA, defect D14",
       about=lambda twin: is_jepa(twin) and patch_by_patch(twin))  # fmt: skip
def context_dropped(twin: Twin) -> Evidence:
    """Tokens in the student's attention, counted where they enter it."""
    _, forward = one_pass(twin)
    drawn, patches = forward.drawn[-1][1].context, math.prod(twin.config.grids[0])
    return all_of(
        equal("tokens", forward.lengths[-1], drawn.shape[1]),
        above("patches that are left out", patches - drawn.shape[1], 0),
        true("read at the drawn places", torch.equal(forward.places, drawn)),
        true("and encoded there", torch.equal(forward.context[0].ids, drawn)),
        patches=patches,
    )


# The loss


@claim("jepa.loss", "The loss is smooth-L1 with β = 1 between predictions and layer-normed "
       "teacher outputs, its mean over all numbers of a level, and the weighted mean of the "
       "levels.",
       source="I-JEPA reference code (src/train.py); spec of JEPA, 1.5",
       about=layer_normed_teacher)  # fmt: skip
def loss(twin: Twin) -> Evidence:
    """One number at a time in float64."""
    return _against(twin, *one_pass(twin))


@claim("jepa.level-weights", "A level counts in the loss by its weight, and not by how many cells "
       "it has.",
       source="our design, section 5",
       about=lambda twin: layer_normed_teacher(twin) and is_hierarchy(twin))  # fmt: skip
def level_weights(twin: Twin) -> Evidence:
    """Levels that are to count differently; equal weights have to give another number."""
    grids = len(twin.config.grids)
    weights = [2.0 ** (1 - 2 * n) for n in range(grids)]
    changes: dict[str, Any] = {"objective.weight": weights[0]}
    changes |= {f"objective.coarser.{n}.weight": w for n, w in enumerate(weights[1:])}
    objective, forward = one_pass(twin, changes)
    means = _level_means(twin, objective, forward)
    gap = abs(sum(means) / grids - _weighted(means, weights))
    return all_of(
        _against(twin, objective, forward, weights),
        above("equal weights would differ by", gap, MATTERS),
    )


def _weights(twin: Twin) -> list[float]:
    jepa = twin.config.objective
    assert isinstance(jepa, JepaConfig)
    return [jepa.weight, *(level.weight for level in jepa.coarser)]


def _weighted(means: list[float], weights: list[float]) -> float:
    return sum(w * mean for w, mean in zip(weights, means, strict=True)) / sum(weights)


def _against(
    twin: Twin, objective: Jepa, forward: Pass, weights: list[float] | None = None
) -> Evidence:
    """The loss of a pass against the weighted mean of its levels; by the twin's own weights."""
    means = _level_means(twin, objective, forward)
    measured = float(forward.output.loss.detach())
    expected = _weighted(means, weights or _weights(twin))
    return all_of(
        at_most("difference", abs(measured - expected), ROUNDING),
        measured=measured, expected=expected,
        **{f"level {n}": mean for n, mean in enumerate(means)},
    )  # fmt: skip


def _level_means(
    twin: Twin, objective: Jepa, forward: Pass, valid: Tensor | None = None, x: Any = None
) -> list[float]:
    """Mean smooth-L1 of each level; over the valid targets where some patches are not."""
    assert objective.teacher is not None
    with torch.no_grad():
        levels = objective.teacher(values(twin) if x is None else x, valid)
    means = []
    for n, (predicted, cells) in enumerate(zip(forward.predictions, forward.targets, strict=True)):
        target = normed(levels[n].values).tolist()
        measured = None if valid is None else _valid_cells(twin, valid, n)
        rows = predicted.detach().tolist()
        total, terms = 0.0, 0
        for m, b, t, cell in _each_target(cells):
            if measured is not None and not measured[b][cell]:
                continue
            for p, h in zip(rows[m][b][t], target[b][cell], strict=True):
                gap = abs(p - h)
                total += gap * gap / 2 if gap < 1 else gap - 0.5
                terms += 1
        means.append(total / max(terms, 1))
    return means


def _each_target(cells: Tensor) -> list[tuple[int, int, int, int]]:
    """Block, sample, place in the block, and cell of each target ``(M, B, T)``."""
    return [
        (m, b, t, cell)
        for m, block in enumerate(cells.tolist())
        for b, row in enumerate(block)
        for t, cell in enumerate(row)
    ]


def _valid_cells(twin: Twin, valid: Tensor, level: int) -> list[list[bool]]:
    """Cells of a level with anything measured in them."""
    grids = twin.config.grids
    return [list(row) for row in cells_with(valid, grids[0], grids[level]).tolist()]


@claim("jepa.padding", "Where nothing was measured, nothing of loss or gradient comes from, at "
       "any level.",
       source="spec of H-JEPA, defect D11 and behaviour 11",
       about=lambda twin: layer_normed_teacher(twin) and patch_by_patch(twin))  # fmt: skip
def padding(twin: Twin) -> Evidence:
    """Whatever stands where nothing was measured, not one bit depends on it; and the loss is the
    mean over the targets that were."""
    x, runs = values(twin), []
    valid = some_valid(twin, len(x))
    flags = patch_flags(twin, valid)
    for garbage in (0.0, 1e3):
        objective = live(twin)
        forward = observe(objective, Inputs(torch.where(flags, x, garbage), flags), twin.draw())
        forward.output.loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in objective.parameters() if p.grad is not None]
        runs.append((objective, forward, gradients))
    (objective, first, gradients), (_, second, others) = runs
    means = _level_means(twin, objective, first, valid, torch.where(flags, x, 0.0))
    counted, shares = [], []
    for n, cells in enumerate(first.targets):
        measured = _valid_cells(twin, valid, n)
        hits = [measured[b][cell] for _, b, _, cell in _each_target(cells)]
        counted.append(sum(hits))
        shares.append(_weights(twin)[n] * sum(hits) / len(hits))
    return all_of(
        at_most("loss changed by padding", apart(first.output.loss, second.output.loss), 0.0),
        at_most("gradient changed by padding",
                greatest(*(apart(p, q) for p, q in zip(gradients, others, strict=True))), 0.0),
        at_most("difference from the mean over what counts",
                abs(float(first.output.loss.detach()) - _weighted(means, shares)), ROUNDING),
        above("fewest targets that count", min(counted), 0),
    )  # fmt: skip


@claim("jepa.pieces", "Micro-batches, however different in size and in what was measured, join by "
       "their weights to the loss of the batch in one piece.",
       source="our design, law 2; spec of JEPA, behaviour 20",
       about=layer_normed_teacher)  # fmt: skip
def pieces(twin: Twin) -> Evidence:
    """A partly measured batch in one piece, and in two of different size."""
    x, objective = values(twin), live(twin)
    flags = patch_flags(twin, some_valid(twin, len(x)))
    x, ids = torch.where(flags, x, 0.0), twin.draw().ids

    def output(rows: slice) -> tuple[float, float]:
        draw = Draw(twin.config.train.seed, 0, ids[rows])
        with torch.no_grad():
            out = objective(Inputs(x[rows], flags[rows]), draw)
        return float(out.loss), float(out.weight)

    batch, weight = output(slice(None))
    losses, weights = zip(*(output(rows) for rows in (slice(0, 2), slice(2, None))), strict=True)
    joined = _weighted(list(losses), list(weights))
    return all_of(
        at_most("difference of the loss", abs(joined - batch), ROUNDING),
        at_most("difference of the weights", abs(sum(weights) - weight), ROUNDING),
        above("weight", weight, 0.0),
        in_one_piece=batch, joined=joined, plain_mean=sum(losses) / 2,
    )  # fmt: skip


def is_plain(twin: Twin) -> bool:
    return (
        layer_normed_teacher(twin) and has_linear_patches(twin) and plain_ijepa.knows(twin.config)
    )


@claim("jepa.one-level", "With one level, loss and every gradient are those of I-JEPA written out "
       "plainly.",
       source="I-JEPA (Assran et al. 2023); our design, section 5", about=is_plain)  # fmt: skip
def one_level(twin: Twin) -> Evidence:
    """For two samples."""
    one = {"coarser": [], "fusion": False, "top_down": False, "regularizer": None}
    changes = unaugmented(twin) | {f"objective.{name}": value for name, value in one.items()}
    objective, x = live(twin, changes), values(twin)[:2]
    forward = observe(objective, Inputs(x), Draw(0, 0, twin.draw().ids[:2]))
    forward.output.loss.backward()  # type: ignore[no-untyped-call]
    weights, names = dict(objective.named_parameters()), list(objective.trainable())
    config = twin.config.updated(changes)
    expected = plain_ijepa.loss(weights, config, x, forward.places, forward.targets[0])
    gradients = torch.autograd.grad(expected, [weights[name] for name in names])
    largest = 0.0
    for name, gradient in zip(names, gradients, strict=True):
        own = weights[name].grad
        largest = greatest(largest, math.inf if own is None else apart(own, gradient))
    bound = 1e-6  # rotary coordinates are computed in float32
    return all_of(
        at_most("difference", apart(forward.output.loss, expected), bound),
        at_most("largest difference of a gradient", largest, bound),
        loss=float(forward.output.loss.detach()), plain=float(expected.detach()),
        gradients=len(names),
    )  # fmt: skip


@claim("jepa.constant-answer", "A constant is no good prediction: with all that is trained at 0, "
       "the loss is what targets of unit variance cost, so no trainable head is shared by "
       "predictions and targets.",
       source="spec of H-JEPA, defects D9 and D10, behaviour 16",
       about=layer_normed_teacher)  # fmt: skip
def constant_answer(twin: Twin) -> Evidence:
    """Were a trainable head shared by both, targets would be 0 as well, and this the optimum."""
    objective = live(twin)
    with torch.no_grad():
        for parameter in objective.trainable().values():
            parameter.zero_()
    forward = observe(objective, Inputs(values(twin)), twin.draw())
    return all_of(
        _against(twin, objective, forward),
        at_most("largest prediction",
                greatest(*(float(p.detach().abs().max()) for p in forward.predictions)), 0.0),
        above("loss", float(forward.output.loss.detach()), 0.2),
    )  # fmt: skip


@claim("jepa.surprise", "The error of a patch that is reported is 1 − cos with its prediction "
       "from patches outside its block, each patch once, and nothing where nothing was measured.",
       source="our design", about=layer_normed_teacher)  # fmt: skip
def surprise(twin: Twin) -> Evidence:
    """From what the predictor was given meanwhile and what it gave."""
    objective, x = live(twin), values(twin)
    valid = some_valid(twin, len(x))
    inputs = Inputs(x, patch_flags(twin, valid))
    errors, forward = watch(objective, lambda: objective.patch_errors(inputs))
    target = normed(forward.teacher[0][0].values)
    worst, beside = 0.0, 0
    times = torch.zeros(valid.shape[1])
    for call in forward.calls[0]:
        cells, places = call.arguments["target_ids"][0, 0], call.arguments["context_ids"][0]
        times[cells] += 1
        beside += len(set(cells.tolist()) & set(places.tolist()))
        predicted, own = call.out[0], target[:, cells]
        cosine = (predicted * own).sum(-1) / (predicted.norm(dim=-1) * own.norm(dim=-1))
        measured = valid[:, cells]
        worst = greatest(worst, apart((1 - cosine)[measured], errors[:, cells][measured]))
    return all_of(
        at_most("largest difference", worst, ROUNDING),
        equal("patches that are not predicted once", int((times != 1).sum()), 0),
        equal("predicted from themselves", beside, 0),
        equal("reported though not measured", int(errors[~valid].isfinite().sum()), 0),
        patches=len(times),
    )
