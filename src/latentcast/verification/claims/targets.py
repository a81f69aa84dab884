"""What a JEPA predicts: the teacher's say of the whole input, and no gradient into it."""

from __future__ import annotations

import math
from typing import Any

import torch

from latentcast.batch import Inputs
from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    apart,
    changes,
    has_teacher,
    live,
    marked,
    move,
    noise,
    normed,
    observe,
    one_pass,
    patch_flags,
    said_by,
    some_valid,
    taught,
    values,
)
from latentcast.verification.observe.twin import Twin


def no_gradient(twin: Twin) -> Evidence:
    """The loss's gradient with respect to the input: 0 wherever only a target could see it."""
    objective = live(twin)
    x = values(twin).requires_grad_()
    seen = observe(objective, Inputs(x), twin.draw())
    seen.output.loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and objective.teacher is not None
    hidden = ~marked(seen.places, math.prod(twin.config.grids[0]))
    flags = patch_flags(twin, hidden)
    through = float(x.grad[flags].abs().max())
    known = float(x.grad[~flags].abs().max())
    found = sum(p.grad is not None for p in objective.teacher.parameters())
    asking = sum(p.requires_grad for p in objective.teacher.parameters())
    attached = sum(level.values.requires_grad for call in seen.teacher for level in call)
    return Evidence(
        through == 0 and not (found or asking or attached) and known > 0,
        {
            "gradient at hidden patches": through,
            "bound": 0,
            "gradient at visible patches": known,
            "teacher's parameters with a gradient": found,
            "that require one": asking,
            "levels of the teacher with a history": attached,
        },
    )


def by_the_teacher(twin: Twin) -> Evidence:
    """The student's weights moved, then the teacher's: whose targets are they?"""
    objective, x = live(twin), values(twin)
    assert objective.teacher is not None
    before, _ = objective.targets(x, None)
    first = observe(objective, Inputs(x), twin.draw())
    move(objective.student)
    held = max(changes(before, objective.targets(x, None)[0]))
    second = observe(objective, Inputs(x), twin.draw())
    move(objective.teacher)
    moved = min(changes(before, objective.targets(x, None)[0]))
    third = observe(objective, Inputs(x), twin.draw())
    student = apart(first.predictions[0], second.predictions[0])
    predictions = apart(second.predictions[0], third.predictions[0])
    loss = apart(second.output.loss, third.output.loss)
    return Evidence(
        held == 0 and predictions == 0 and min(moved, loss, student) > MATTERS,
        {
            "targets changed by the student": held,
            "predictions changed by the teacher": predictions,
            "bound": 0,
            "targets changed by the teacher": moved,
            "loss changed by the teacher": loss,
            "predictions changed by the student": student,
        },
    )


def untouched(twin: Twin) -> Evidence:
    """Everything an optimizer may move is moved; the targets stay, so no head is shared (D9)."""
    objective, x = live(twin), values(twin)
    before, _ = objective.targets(x, None)
    trainable = objective.trainable()
    with torch.no_grad():
        for number, parameter in enumerate(trainable.values()):
            parameter.add_(noise(parameter.shape, 1000 + number))
    after, _ = objective.targets(x, None)
    largest = max(changes(before, after))
    told = {"parameters moved": len(trainable), "targets changed": largest, "bound": 0}
    return Evidence(largest == 0 and len(trainable) > 0, told)


def whole_input(twin: Twin) -> Evidence:
    """Each token of the teacher answers to target patches, to context patches, to all others."""
    objective, before = one_pass(twin)
    x = values(twin)
    patches = math.prod(twin.config.grids[0])
    target = marked(before.targets[0].transpose(0, 1).flatten(1), patches)
    context = marked(before.places, patches)
    groups = {"target": target, "context": context, "other": ~(target | context)}
    least: dict[str, float] = {}
    for name, flags in groups.items():
        if not bool(flags.any(1).all()):
            continue  # of stretches, everything is one or the other
        other = torch.where(patch_flags(twin, flags), 3 * noise(x.shape), x)
        after = observe(objective, Inputs(other), twin.draw())
        least[name] = min(
            float((one.values - two.values).detach().abs().amax(-1).min())
            for one, two in zip(before.teacher[-1], after.teacher[-1], strict=True)
        )
    cells = [level.values.shape[1] for level in before.teacher[-1]]
    wanted = [math.prod(grid) for grid in twin.config.grids]
    told: dict[str, float | str] = {
        f"least change of a token by {name} patches": value for name, value in least.items()
    }
    told |= {"lower bound": 1e-12, "tokens": str(cells), "cells": str(wanted)}
    return Evidence(min(least.values()) > 1e-12 and cells == wanted, told)


def deterministic(twin: Twin) -> Evidence:
    """Drop-path and augmentation of positions switched on; two steps and evaluation mode."""
    switched: dict[str, Any] = {"encoder.drop_path": 0.5}
    if twin.config.encoder.positions.kind == "rotary":
        switched["encoder.positions.rescale"] = 2.0
    objective, x = live(twin, switched), values(twin)
    assert objective.teacher is not None
    draws = [twin.draw(), Draw(twin.config.train.seed, 1, twin.draw().ids)]
    said = [observe(objective, Inputs(x), draw).teacher[-1] for draw in draws]
    student = [objective.student(x, draw=draw) for draw in draws]
    objective.eval()
    with torch.no_grad():
        said.append(objective.teacher(x))
    largest = max(max(changes(said_by(said[0]), said_by(other))) for other in said[1:])
    alive = min(changes(said_by(student[0]), said_by(student[1]))[:1])
    told = {"teacher between steps": largest, "bound": 0, "student between steps": alive}
    return Evidence(largest == 0 and alive > MATTERS, told)


def layer_normed(twin: Twin) -> Evidence:
    """Each target token against ``(h - mean) / sqrt(variance + 1e-5)`` of the teacher's output."""
    objective, x = live(twin), values(twin)
    assert objective.teacher is not None
    with torch.no_grad():
        targets, _ = objective.targets(x, None)
        whole = objective.teacher(x)
    largest = max(
        apart(target, normed(level.values)) for target, level in zip(targets, whole, strict=True)
    )
    mean = max(float(target.mean(-1).abs().max()) for target in targets)
    spread = max(float((target.var(-1, unbiased=False) - 1).abs().max()) for target in targets)
    told = {"mean of a token": mean, "variance less 1": spread, "difference": largest}
    return Evidence(largest <= ROUNDING, told | {"bound": ROUNDING})


def instance_normed(twin: Twin) -> Evidence:
    """With ``target_norm`` instance: each channel over the measured tokens of a sample, by hand."""
    objective, x = live(twin, {"objective.target_norm": "instance"}), values(twin)
    assert objective.teacher is not None
    valid = some_valid(twin, len(x))
    targets, whole = objective.targets(torch.where(patch_flags(twin, valid), x, 0.0), valid)
    largest = 0.0
    for target, level in zip(targets, whole, strict=True):
        for b in (0, 1, 2):
            told = slice(None) if level.seen is None else level.seen[b]
            rows = level.values[b, told]
            centred = rows - rows.sum(0) / len(rows)
            deviation = (centred.square().sum(0) / len(rows) + 1e-5).sqrt()
            largest = max(largest, apart(target[b, told], centred / deviation))
    return Evidence(largest <= ROUNDING, {"largest difference": largest, "bound": ROUNDING})


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "targets.no-gradient",
        "No gradient runs into the targets of any level: the loss does not answer to what only "
        "they can see, and the teacher's weights have no gradient.",
        "I-JEPA, section 3; spec of JEPA, 1.4",
        no_gradient,
        has_teacher,
    ),
    Claim(
        "targets.teacher",
        "Targets come from the teacher's weights and predictions from the student's.",
        "I-JEPA, section 3; spec of JEPA, 1.4",
        by_the_teacher,
        has_teacher,
    ),
    Claim(
        "targets.untouched",
        "Nothing that an optimizer moves moves a target.",
        "spec of H-JEPA, defect D9",
        untouched,
        has_teacher,
    ),
    Claim(
        "targets.whole-input",
        "Each level's targets are what the teacher says with the whole input before it, not a "
        "masked one.",
        "I-JEPA, section 3; spec of JEPA, 1.4",
        whole_input,
        has_teacher,
    ),
    Claim(
        "targets.deterministic",
        "The teacher drops no path and moves no coordinates, in training mode too.",
        "spec of H-JEPA, defect D18 and behaviour 7",
        deterministic,
        has_teacher,
    ),
    Claim(
        "targets.layer-normed",
        "Targets are layer-normed over their channels, each token by itself, without scale or "
        "offset.",
        "I-JEPA reference code (src/train.py); spec of JEPA, 1.4",
        layer_normed,
        taught,
    ),
    Claim(
        "targets.instance-normed",
        "With target_norm instance, each channel of a target is normed over the measured tokens of "
        "its sample.",
        "data2vec (Baevski et al. 2022)",
        instance_normed,
        has_teacher,
    ),
)
