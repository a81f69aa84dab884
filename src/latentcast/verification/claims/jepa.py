"""What a JEPA promises: who sees what, and what the loss is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    Grid,
    Pass,
    apart,
    is_hierarchy,
    is_jepa,
    live,
    marked,
    noise,
    normed,
    observe,
    one_pass,
    parent_of_each,
    patch_flags,
    some_valid,
    taught,
    values,
    watch,
)
from latentcast.verification.observe.twin import Subject
from latentcast.verification.parity import plain_ijepa

# Who sees what


def context_blind(subject: Subject) -> Evidence:
    """Other content in the hidden patches, then other content in the visible ones."""
    objective, before = one_pass(subject)
    x = values(subject)
    hidden = ~marked(before.places, math.prod(subject.config.grids[0]))
    other = torch.where(patch_flags(subject, hidden), 3 * noise(x.shape), x)
    after = observe(objective, Inputs(other), subject.draw())
    other = torch.where(patch_flags(subject, hidden), x, 3 * noise(x.shape))
    seen = observe(objective, Inputs(other), subject.draw())
    context = apart(before.context[0].values, after.context[0].values)
    levels = zip(before.predictions, after.predictions, strict=True)
    predictions = max(apart(one, two) for one, two in levels)
    noticed = apart(before.context[0].values, seen.context[0].values)
    return Evidence(
        context == 0 and predictions == 0 and noticed > MATTERS and bool(hidden.any()),
        {
            "hidden patches": int(hidden[0].sum()),
            "context changed by hidden patches": context,
            "predictions changed by hidden patches": predictions,
            "bound": 0,
            "context changed by visible patches": noticed,
        },
    )


def context_dropped(subject: Subject) -> Evidence:
    """Tokens in the student's attention, counted where they enter it."""
    _, seen = one_pass(subject)
    drawn = seen.drawn[-1][1].context
    patches = math.prod(subject.config.grids[0])
    length, kept = seen.lengths[-1], drawn.shape[1]
    right = torch.equal(seen.places, drawn) and torch.equal(seen.context[0].places, drawn)
    return Evidence(
        length == kept < patches and right,
        {"tokens": length, "expected": kept, "patches": patches, "at the drawn places": right},
    )


# The loss


def formula(subject: Subject) -> Evidence:
    """One number at a time in float64: smooth-L1 with β = 1, mean over terms, weighted levels."""
    objective, seen = one_pass(subject)
    return _against(subject, objective, seen, _weights(subject))


def level_weights(subject: Subject) -> Evidence:
    """Levels told to count differently; equal weights have to give another number."""
    grids = len(subject.config.grids)
    chosen = [2.0 ** (1 - 2 * n) for n in range(grids)]
    changes: dict[str, Any] = {"objective.weight": chosen[0]}
    changes |= {f"objective.coarser.{n}.weight": w for n, w in enumerate(chosen[1:])}
    objective, seen = one_pass(subject, changes)
    found = _against(subject, objective, seen, chosen)
    means = _level_means(subject, objective, seen)
    equal = abs(sum(means) / grids - float(found.numbers["expected"]))
    return Evidence(
        found.holds and equal > MATTERS, {**found.numbers, "equal weights would differ by": equal}
    )


def _weights(subject: Subject) -> list[float]:
    jepa = subject.config.objective
    assert isinstance(jepa, JepaConfig)
    return [jepa.weight, *(level.weight for level in jepa.coarser)]


def _against(subject: Subject, objective: Jepa, seen: Pass, weights: list[float]) -> Evidence:
    means = _level_means(subject, objective, seen)
    share = [weight / sum(weights) for weight in weights]
    expected = sum(s * mean for s, mean in zip(share, means, strict=True))
    measured = float(seen.output.loss.detach())
    difference = abs(measured - expected)
    told = {"measured": measured, "expected": expected, "difference": difference}
    told |= {f"level {n}": mean for n, mean in enumerate(means)}
    return Evidence(difference <= ROUNDING, told | {"bound": ROUNDING})


def _level_means(
    subject: Subject, objective: Jepa, seen: Pass, valid: Tensor | None = None, x: Any = None
) -> list[float]:
    """Mean smooth-L1 of each level; of the told targets when some patches are not valid."""
    assert objective.teacher is not None
    with torch.no_grad():
        whole = objective.teacher(values(subject) if x is None else x, valid)
    means = []
    for n, (predicted, asked) in enumerate(zip(seen.predictions, seen.targets, strict=True)):
        target = normed(whole[n].values).tolist()
        told = None if valid is None else _told(valid, subject.config.grids, n)
        rows, places = predicted.detach().tolist(), asked.tolist()
        total, terms = 0.0, 0
        for m, block in enumerate(places):
            for b, cells in enumerate(block):
                for t, cell in enumerate(cells):
                    if told is not None and not told[b][cell]:
                        continue
                    for p, h in zip(rows[m][b][t], target[b][cell], strict=True):
                        gap = abs(p - h)
                        total += gap * gap / 2 if gap < 1 else gap - 0.5
                        terms += 1
        means.append(total / max(terms, 1))
    return means


def _told(valid: Tensor, grids: tuple[Grid, ...], level: int) -> list[list[bool]]:
    """Cells of a level with anything measured in them."""
    told = torch.zeros(len(valid), math.prod(grids[level]), dtype=torch.bool)
    for patch, cell in enumerate(parent_of_each(grids[0], grids[level])):
        told[:, cell] |= valid[:, patch]
    return [list(row) for row in told.tolist()]


def padding(subject: Subject) -> Evidence:
    """Whatever stands where nothing was measured, not one bit of loss or gradient depends on it."""
    x, found = values(subject), []
    valid = some_valid(subject, len(x))
    flags = patch_flags(subject, valid)
    for garbage in (0.0, 1e3):
        objective = live(subject)
        inputs = Inputs(torch.where(flags, x, garbage), flags)
        seen = observe(objective, inputs, subject.draw())
        seen.output.loss.backward()  # type: ignore[no-untyped-call]
        found.append((objective, seen))
    (one, before), (two, after) = found
    grown = [p for p in one.parameters() if p.grad is not None]
    others = [p for p in two.parameters() if p.grad is not None]
    gradients = max(
        apart(p.grad, q.grad)
        for p, q in zip(grown, others, strict=True)
        if p.grad is not None and q.grad is not None
    )
    loss = apart(before.output.loss, after.output.loss)
    told = [_told(valid, subject.config.grids, n) for n in range(len(before.targets))]
    counted, share, expected = [], [], 0.0
    means = _level_means(subject, one, before, valid, torch.where(flags, x, 0.0))
    for n, asked in enumerate(before.targets):
        hits = [
            told[n][b][cell]
            for block in asked.tolist()
            for b, cells in enumerate(block)
            for cell in cells
        ]
        counted.append(sum(hits))
        share.append(_weights(subject)[n] / sum(_weights(subject)) * sum(hits) / len(hits))
    expected = sum(s / sum(share) * mean for s, mean in zip(share, means, strict=True))
    difference = abs(float(before.output.loss.detach()) - expected)
    return Evidence(
        loss == 0 and gradients == 0 and difference <= ROUNDING and min(counted) > 0,
        {
            "loss changed by padding": loss,
            "gradient changed by padding": gradients,
            "bound": 0,
            "counted targets": str(counted),
            "difference from the mean over them": difference,
            "rounding": ROUNDING,
        },
    )


def pieces(subject: Subject) -> Evidence:
    """A partly measured batch in one piece, and in two of different size, joined by weight."""
    x, objective = values(subject), live(subject)
    valid = some_valid(subject, len(x))
    flags = patch_flags(subject, valid)
    x, ids = torch.where(flags, x, 0.0), subject.draw().ids

    def output(rows: slice) -> tuple[float, float]:
        draw = Draw(subject.config.train.seed, 0, ids[rows])
        with torch.no_grad():
            found = objective(Inputs(x[rows], flags[rows]), draw)
        return float(found.loss), float(found.weight)

    whole, weight = output(slice(None))
    parts = [output(rows) for rows in (slice(0, 2), slice(2, None))]
    total = sum(own for _, own in parts)
    joined = sum(loss * own for loss, own in parts) / total
    plain = sum(loss for loss, _ in parts) / len(parts)
    difference, weights = abs(joined - whole), abs(total - weight)
    told = {"whole": whole, "joined": joined, "difference": difference}
    told |= {"difference of the weights": weights, "bound": ROUNDING, "plain mean": plain}
    return Evidence(max(difference, weights) <= ROUNDING and weight > 0, told)


ONE_LEVEL: dict[str, Any] = {
    "objective.coarser": [],
    "objective.fusion": False,
    "objective.top_down": False,
}


def one_level(subject: Subject) -> Evidence:
    """Loss and every gradient against I-JEPA written out plainly, for two samples."""
    changes = ONE_LEVEL | {"objective.regularizer": None, "encoder.drop_path": 0.0}
    if subject.config.encoder.positions.kind == "rotary":
        changes |= {f"encoder.positions.{name}": None for name in ("rescale", "shift", "jitter")}
    objective, x = live(subject, changes), values(subject)[:2]
    seen = observe(objective, Inputs(x), Draw(0, 0, subject.draw().ids[:2]))
    seen.output.loss.backward()  # type: ignore[no-untyped-call]
    weights, names = dict(objective.named_parameters()), list(objective.trainable())
    config = subject.config.updated(changes)
    expected = plain_ijepa.loss(weights, config, x, seen.places, seen.targets[0])
    gradients = torch.autograd.grad(expected, [weights[name] for name in names])
    largest = 0.0
    for name, gradient in zip(names, gradients, strict=True):
        own = weights[name].grad
        largest = max(largest, math.inf if own is None else apart(own, gradient))
    difference = apart(seen.output.loss, expected)
    bound = 1e-6  # rotary coordinates are computed in float32
    told = {"loss": float(seen.output.loss.detach()), "plain I-JEPA": float(expected.detach())}
    told |= {"difference": difference, "largest difference of a gradient": largest}
    told |= {"gradients": len(names), "bound": bound}
    return Evidence(max(difference, largest) <= bound, told)


def is_plain(subject: Subject) -> bool:
    return taught(subject) and plain_ijepa.knows(subject.config)


def constant_answer(subject: Subject) -> Evidence:
    """All that is trained set to 0, the answer that knows nothing: the loss must not be near 0.

    Against the mean smooth-L1 of 0 and the layer-normed outputs of the teacher. Were a trainable
    head shared by both sides, targets would be 0 as well, and this the optimum.
    """
    objective = live(subject)
    with torch.no_grad():
        for parameter in objective.trainable().values():
            parameter.zero_()
    seen = observe(objective, Inputs(values(subject)), subject.draw())
    found = _against(subject, objective, seen, _weights(subject))
    said = max(float(p.detach().abs().max()) for p in seen.predictions)
    loss, bound = float(seen.output.loss.detach()), 0.2
    told = {"loss": loss, "lower bound": bound, "largest prediction": said}
    return Evidence(found.holds and said == 0 and loss > bound, {**told, **found.numbers})


def surprise(subject: Subject) -> Evidence:
    """The reported error of each patch, from what the predictor was given and said meanwhile."""
    objective, x = live(subject), values(subject)
    valid = some_valid(subject, len(x))
    inputs = Inputs(x, patch_flags(subject, valid))
    errors, seen = watch(objective, lambda: objective.patch_errors(inputs))
    target = normed(seen.teacher[0][0].values)
    worst, beside = 0.0, 0
    asked = torch.zeros(valid.shape[1])
    for call in seen.calls[0]:
        cells, places = call.given["targets"][0, 0], call.given["places"][0]
        asked[cells] += 1
        beside += len(set(cells.tolist()) & set(places.tolist()))
        said, wanted = call.said[0], target[:, cells]
        cosine = (said * wanted).sum(-1) / (said.norm(dim=-1) * wanted.norm(dim=-1))
        known = valid[:, cells]
        worst = max(worst, apart((1 - cosine)[known], errors[:, cells][known]))
    blank = int(errors[~valid].isfinite().sum())
    once = bool((asked == 1).all())
    told = {
        "largest difference": worst, "bound": ROUNDING, "patches": len(asked),
        "each asked for once": once, "asked for and seen": beside,
        "told though not measured": blank,
    }  # fmt: skip
    return Evidence(worst <= ROUNDING and once and not beside and not blank, told)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "jepa.context-blind",
        "What stands in the hidden patches reaches neither the context encoder nor a prediction: "
        "not one bit changes.",
        "I-JEPA (Assran et al. 2023), section 3; spec of JEPA, behaviour 6",
        context_blind,
        is_jepa,
    ),
    Claim(
        "jepa.context-dropped",
        "Hidden patches are dropped before the first block, not zeroed: the context costs its own "
        "tokens.",
        "I-JEPA, section 3; spec of H-JEPA, defect D14",
        context_dropped,
        is_jepa,
    ),
    Claim(
        "jepa.loss",
        "The loss is smooth-L1 with β = 1 between predictions and layer-normed teacher outputs, "
        "its mean over all numbers of a level, and the weighted mean of the levels.",
        "I-JEPA reference code (src/train.py); spec of JEPA, 1.5",
        formula,
        taught,
    ),
    Claim(
        "jepa.level-weights",
        "A level counts in the loss by its weight, and not by how many cells it has.",
        "our design, section 5",
        level_weights,
        lambda subject: taught(subject) and is_hierarchy(subject),
    ),
    Claim(
        "jepa.padding",
        "Where nothing was measured, nothing of loss or gradient comes from, at any level.",
        "spec of H-JEPA, defect D11 and behaviour 11",
        padding,
        taught,
    ),
    Claim(
        "jepa.pieces",
        "Micro-batches, however different in size and in what was measured, join by their weights "
        "to the loss of the whole batch.",
        "our design, law 2; spec of JEPA, behaviour 20",
        pieces,
        taught,
    ),
    Claim(
        "jepa.one-level",
        "With one level, loss and every gradient are those of I-JEPA written out plainly.",
        "I-JEPA (Assran et al. 2023); our design, section 5",
        one_level,
        is_plain,
    ),
    Claim(
        "jepa.constant-answer",
        "A constant is no good answer: with all that is trained at 0, the loss is what targets of "
        "unit variance cost, so no trainable head is shared by predictions and targets.",
        "spec of H-JEPA, defects D9 and D10, behaviour 16",
        constant_answer,
        taught,
    ),
    Claim(
        "jepa.surprise",
        "The error of a patch that is reported is 1 − cos with its prediction from patches outside "
        "its block, each patch once, and nothing where nothing was measured.",
        "our design",
        surprise,
        taught,
    ),
)
