"""What a JEPA predicts: the teacher's output on the input in full, and no gradient into it."""

from __future__ import annotations

import math
from typing import Any

import torch

from latentcast.batch import Inputs
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest
from latentcast.verification.observe.config import has_transformer, transformer_of
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    apart,
    changes,
    has_teacher,
    layer_normed_teacher,
    live,
    marked,
    move,
    noise,
    normed,
    observe,
    one_pass,
    patch_flags,
    some_valid,
    values,
    values_of,
)
from latentcast.verification.observe.twin import Twin

NEEDS = has_transformer


@claim("targets.no-gradient", "No gradient runs into the targets of any level: the loss does not "
       "answer to what only they can see, and the teacher's weights have no gradient.",
       source="I-JEPA, section 3; spec of JEPA, 1.4", about=has_teacher)  # fmt: skip
def no_gradient(twin: Twin) -> Evidence:
    """The loss's gradient with respect to the input: 0 wherever only a target could see it."""
    objective = live(twin)
    x = values(twin).requires_grad_()
    forward = observe(objective, Inputs(x), twin.draw())
    forward.output.loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and objective.teacher is not None
    hidden = ~marked(forward.places, math.prod(twin.config.grids[0]))
    flags = patch_flags(twin, hidden)
    teacher = list(objective.teacher.parameters())
    attached = sum(level.values.requires_grad for call in forward.teacher for level in call)
    return all_of(
        at_most("gradient at hidden patches", float(x.grad[flags].abs().max()), 0.0),
        above("gradient at visible patches", float(x.grad[~flags].abs().max()), 0.0),
        equal("teacher's parameters with a gradient", sum(p.grad is not None for p in teacher), 0),
        equal("that require one", sum(p.requires_grad for p in teacher), 0),
        equal("levels of the teacher with a history", attached, 0),
    )


@claim("targets.teacher", "Targets come from the teacher's weights, predictions from the "
       "student's, and nothing that an optimizer moves moves a target.",
       source="I-JEPA, section 3; spec of JEPA, 1.4; spec of H-JEPA, defect D9",
       about=has_teacher)  # fmt: skip
def by_the_teacher(twin: Twin) -> Evidence:
    """All that is trained is moved, so no head is shared (D9); then the student's weights, then
    the teacher's: whose targets are they?"""
    objective, x = live(twin), values(twin)
    assert objective.teacher is not None
    before, _ = objective.targets(x, None)
    trainable = objective.trainable()
    with torch.no_grad():
        for number, parameter in enumerate(trainable.values()):
            parameter.add_(noise(parameter.shape, 1000 + number))
    by_optimizer = max(changes(before, objective.targets(x, None)[0]))
    first = observe(objective, Inputs(x), twin.draw())
    move(objective.student)
    by_student = max(changes(before, objective.targets(x, None)[0]))
    second = observe(objective, Inputs(x), twin.draw())
    move(objective.teacher)
    by_teacher = min(changes(before, objective.targets(x, None)[0]))
    third = observe(objective, Inputs(x), twin.draw())
    predictions = [one.predictions[0] for one in (first, second, third)]
    return all_of(
        above("parameters that are trained", len(trainable), 0),
        at_most("targets changed by them", by_optimizer, 0.0),
        at_most("targets changed by the student", by_student, 0.0),
        at_most("predictions changed by the teacher", apart(*predictions[1:]), 0.0),
        above("targets changed by the teacher", by_teacher, MATTERS),
        above("loss changed by the teacher", apart(second.output.loss, third.output.loss),
              MATTERS),
        above("predictions changed by the student", apart(*predictions[:2]), MATTERS),
    )  # fmt: skip


@claim("targets.whole-input", "Each level's targets are the teacher's output with the input in "
       "full before it, not a masked one.",
       source="I-JEPA, section 3; spec of JEPA, 1.4", about=has_teacher)  # fmt: skip
def whole_input(twin: Twin) -> Evidence:
    """Each token of the teacher answers to target patches, to context patches, to all others."""
    objective, before = one_pass(twin)
    x = values(twin)
    patches = math.prod(twin.config.grids[0])
    target = marked(before.targets[0].transpose(0, 1).flatten(1), patches)
    context = marked(before.places, patches)
    groups = {"target": target, "context": context, "other": ~(target | context)}
    parts = []
    for name, flags in groups.items():
        if not bool(flags.any(1).all()):
            continue  # of stretches, everything is one or the other
        other = torch.where(patch_flags(twin, flags), 3 * noise(x.shape), x)
        after = observe(objective, Inputs(other), twin.draw())
        least = min(
            float((one.values - two.values).detach().abs().amax(-1).min())
            for one, two in zip(before.teacher[-1], after.teacher[-1], strict=True)
        )
        parts.append(above(f"least change of a token by {name} patches", least, 1e-12))
    tokens = [level.values.shape[1] for level in before.teacher[-1]]
    cells = [math.prod(grid) for grid in twin.config.grids]
    return all_of(*parts, equal("tokens of each level", str(tokens), str(cells)))


@claim("targets.deterministic", "The teacher drops no path and moves no coordinates, in training "
       "mode too: its output is the same whatever is drawn.",
       source="spec of H-JEPA, defect D18 and behaviour 7", about=has_teacher)  # fmt: skip
def deterministic(twin: Twin) -> Evidence:
    """Drop-path and augmentation of positions switched on; two steps, other samples' draws, and
    evaluation mode."""
    switched: dict[str, Any] = {"encoder.drop_path": 0.5}
    if transformer_of(twin.config).positions.kind == "rotary":
        switched["encoder.positions.rescale"] = 2.0
    objective, x = live(twin, switched), values(twin)
    assert objective.teacher is not None
    seed, ids = twin.config.train.seed, twin.draw().ids
    draws = [Draw(seed, 0, ids), Draw(seed, 1, ids), Draw(seed, 0, ids + 600)]
    runs = [observe(objective, Inputs(x), draw) for draw in draws]
    student = [objective.student(x, draw=draw) for draw in draws[:2]]
    objective.eval()
    with torch.no_grad():
        others = [*(one.teacher[-1] for one in runs[1:]), objective.teacher(x)]
    first = values_of(runs[0].teacher[-1])
    return all_of(
        at_most("teacher between draws",
                max(max(changes(first, values_of(other))) for other in others), 0.0),
        above("student between steps",
              apart(student[0][0].values, student[1][0].values), MATTERS),
        above("loss between samples", apart(runs[0].output.loss, runs[2].output.loss), 0.0),
    )  # fmt: skip


@claim("targets.layer-normed", "Targets are layer-normed over their channels, each token by "
       "itself, without scale or offset.",
       source="I-JEPA reference code (src/train.py); spec of JEPA, 1.4",
       about=layer_normed_teacher)  # fmt: skip
def layer_normed(twin: Twin) -> Evidence:
    """Each target token against ``(h - mean) / sqrt(variance + 1e-5)`` of the teacher's output."""
    objective, x = live(twin), values(twin)
    assert objective.teacher is not None
    with torch.no_grad():
        targets, _ = objective.targets(x, None)
        levels = objective.teacher(x)
    largest = max(changes(targets, [normed(level.values) for level in levels]))
    return at_most("difference", largest, ROUNDING)


@claim("targets.instance-normed", "With target_norm instance, each channel of a target is normed "
       "over the measured tokens of its sample.",
       source="data2vec (Baevski et al. 2022)", about=has_teacher)  # fmt: skip
def instance_normed(twin: Twin) -> Evidence:
    objective, x = live(twin, {"objective.target_norm": "instance"}), values(twin)
    valid = some_valid(twin, len(x))
    targets, levels = objective.targets(torch.where(patch_flags(twin, valid), x, 0.0), valid)
    largest = 0.0
    for target, level in zip(targets, levels, strict=True):
        for b in (0, 1, 2):
            measured = slice(None) if level.valid is None else level.valid[b]
            rows = level.values[b, measured]
            centred = rows - rows.sum(0) / len(rows)
            deviation = (centred.square().sum(0) / len(rows) + 1e-5).sqrt()
            largest = greatest(largest, apart(target[b, measured], centred / deviation))
    return at_most("largest difference", largest, ROUNDING)
