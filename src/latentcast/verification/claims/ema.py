"""The average of the weights that makes a teacher, measured as what really moved it."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from latentcast.engine.ema import Ema
from latentcast.engine.schedules import Schedules
from latentcast.objectives.base import Objective
from latentcast.objectives.jepa import Jepa
from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence, Number, below
from latentcast.verification.formulas import momentum_of
from latentcast.verification.observe.rehearsal import (
    EARLIER,
    LATER,
    POISONED,
    Attempt,
    accumulates,
    averages,
    pairs,
    rehearsed,
    resumed,
    swift,
)
from latentcast.verification.observe.twin import Subject, Weights

IJEPA = "I-JEPA, train.py (specification 1.6)"
FLOAT = 2.0**-23
ULPS = 2.0
"""Roundings of float32 that ``t + (1 − m)(s − t)`` may be away from the exact average."""

Pairs = list[tuple[str, str]]


def moved_by(teacher: Weights, student: Weights, end: Weights, names: Pairs) -> float:
    """The momentum that took a teacher from ``teacher`` to ``end``, given the student.

    Least squares over all weights, each counted by how well float32 can show its step.
    """
    above = below = 0.0
    for own, average in names:
        t, s, e = (w.double() for w in (teacher[average], student[own], end[average]))
        grain = FLOAT * torch.maximum(t.abs(), s.abs()) + 1e-30
        gap = (s - t) / grain
        above += float((gap * (e - t) / grain).sum())
        below += float((gap * gap).sum())
    return 1 - above / below if below else math.nan


def roundings(
    teacher: Weights, student: Weights, end: Weights, names: Pairs, momentum: float
) -> float:
    """How far ``end`` is from the average, in roundings of float32; the worst weight."""
    worst = 0.0
    for own, average in names:
        t, s, e = (w.double() for w in (teacher[average], student[own], end[average]))
        grain = FLOAT * torch.maximum(t.abs(), s.abs()) + 1e-30
        expected = momentum * t + (1 - momentum) * s
        found = float(((e - expected).abs() / grain).max())
        worst = math.inf if math.isnan(found) else max(worst, found)
    return worst


def _curve(attempts: list[Attempt], names: Pairs) -> list[float]:
    return [moved_by(a.before, a.after, a.end, names) for a in attempts]


def _listed(numbers: list[float]) -> str:
    return " ".join(f"{number:.5f}" for number in numbers)


# The momentum


def _linear(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    measured = _curve(run.counted, pairs(run.objective))
    expected = [momentum_of(run.config, n) for n in range(len(measured))]
    ema = run.config.ema
    assert ema is not None and ema.base is not None and ema.final is not None
    moving = run.config.train.steps - ema.warmup_steps
    cosine = [
        ema.final - (ema.final - ema.base)
        * (1 + math.cos(math.pi * max(0, n - ema.warmup_steps) / moving)) / 2
        for n in range(len(measured))
    ]  # fmt: skip
    worst = max(abs(a - b) for a, b in zip(measured, expected, strict=True))
    from_cosine = max(abs(a - b) for a, b in zip(measured, cosine, strict=True))
    told: dict[str, Number] = {
        "measured": _listed(measured), "linear": _listed(expected), "difference": worst,
        "from a cosine": from_cosine, "bound": 1e-4,
    }  # fmt: skip
    return Evidence(worst <= 1e-4 and len(measured) == run.config.train.steps, told)


def _shipped(subject: Subject) -> Evidence:
    """With the recipe's own numbers; a rounding hides more of a smaller step."""
    run = subject.trained()
    names = pairs(run.objective)
    measured = [moved_by(s.before, s.after, s.end, names) for s in run.steps]
    expected = [momentum_of(run.config, n) for n in range(len(measured))]
    worst = max(abs(a - b) / (1 - b) for a, b in zip(measured, expected, strict=True))
    told: dict[str, Number] = {
        "measured": _listed(measured), "scheduled": _listed(expected),
        "difference, of 1 − momentum": worst, "bound": 0.02,
    }  # fmt: skip
    return Evidence(worst <= 0.02, told)


def _warmup(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    assert run.config.ema is not None and run.config.ema.base is not None
    warm = run.config.ema.warmup_steps
    measured = _curve(run.counted[: warm + 2], pairs(run.objective))
    base = run.config.ema.base
    still = max(abs(value - base) for value in measured[: warm + 1])
    told: dict[str, Number] = {
        "measured": _listed(measured), "warm-up": warm, "base": base, "difference": still,
        "bound": 1e-4, "moves after it": measured[-1] > base + 1e-3,
    }  # fmt: skip
    return Evidence(still <= 1e-4 and measured[-1] > base + 1e-3, told)


def _stays(subject: Subject) -> Evidence:
    config = rehearsed(subject).config
    assert config.ema is not None and config.ema.final is not None
    momentum, end = Schedules.of(config).momentum, config.train.steps
    worst = max(abs(momentum(n) - config.ema.final) for n in (end, end + 1, 2 * end, 10 * end))
    return below(worst, 1e-12, "largest distance from the final momentum beyond the end")


def _resumed_index(subject: Subject) -> Evidence:
    run = resumed(subject, LATER)
    measured = _curve(run.counted, pairs(run.objective))
    expected = [momentum_of(run.config, LATER + n) for n in range(len(measured))]
    worst = max(abs(a - b) for a, b in zip(measured, expected, strict=True))
    told: dict[str, Number] = {
        "resumed at": LATER, "measured": _listed(measured), "scheduled": _listed(expected),
        "difference": worst, "bound": 1e-4,
    }  # fmt: skip
    return Evidence(worst <= 1e-4 and len(measured) > 1, told)


# When, and from what


def _once(subject: Subject) -> Evidence:
    attempts = rehearsed(subject).counted
    counts = [attempt.events.count("average") for attempt in attempts]
    pieces = len(attempts[0].ids)
    names = [average for _, average in pairs(rehearsed(subject).objective)]
    inside = sum(
        not torch.equal(now.end[name], after.before[name])
        for now, after in zip(attempts[POISONED:], attempts[POISONED + 1 :], strict=False)
        for name in names
    )
    told: dict[str, Number] = {
        "micro-batches": pieces, "averages of each step": " ".join(map(str, counts)),
        "tensors moved while gradients were taken": inside,
    }  # fmt: skip
    return Evidence(set(counts) == {1} and inside == 0, told)


def _after(subject: Subject) -> Evidence:
    """Held against the weights of before the step, of which an early average would be made."""
    run = rehearsed(subject)
    names = pairs(run.objective)
    late = early = 0.0
    for n, a in enumerate(run.counted):
        momentum = momentum_of(run.config, n)
        late = max(late, _missed(a.before, a.after, a.end, names, momentum))
        early = max(early, _missed(a.before, a.before, a.end, names, momentum))
    unmoved = all(torch.equal(a.before[t], a.after[t]) for a in run.counted for _, t in names)
    told: dict[str, Number] = {
        "missed, of its way, from the weights after the step": late, "bound": 1e-3,
        "from those before it": early, "still until the optimizer was done": unmoved,
    }  # fmt: skip
    return Evidence(late <= 1e-3 and early > 0.1 and unmoved, told)


def _missed(
    teacher: Weights, student: Weights, end: Weights, names: Pairs, momentum: float
) -> float:
    """How far the teacher is from the average, over how far it went."""
    gap = way = 0.0
    for own, average in names:
        t, s, e = (w.double() for w in (teacher[average], student[own], end[average]))
        gap += float((e - (momentum * t + (1 - momentum) * s)).square().sum())
        way += float((e - t).square().sum())
    return math.sqrt(gap / way) if way else math.inf


def _formula(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    names = pairs(run.objective)
    worst = max(
        roundings(a.before, a.after, a.end, names, momentum_of(run.config, n))
        for n, a in enumerate(run.counted)
    )
    return below(worst, ULPS, "largest difference, in roundings of float32")


def _every_weight(subject: Subject) -> Evidence:
    """A teacher of which some part stands still is no average of it."""
    run = rehearsed(subject)
    names = pairs(run.objective)
    first, last = run.attempts[0].before, run.attempts[-1].end
    moves = {own for own, _ in names if not torch.equal(first[own], last[own])}
    still = [t for own, t in names if own in moves and torch.equal(first[t], last[t])]
    teachers = {n for n in first if n.startswith("teacher.")}
    strange = teachers - {t for _, t in names} - {n for n, _ in run.objective.named_buffers()}
    told: dict[str, Number] = {
        "weights": len(names), "still": ", ".join(still[:3]) or "none",
        "without a student": ", ".join(sorted(strange)[:3]) or "none",
    }  # fmt: skip
    return Evidence(bool(moves) and not still and not strange, told)


def _accumulated(subject: Subject) -> Evidence:
    """The first step in three pieces and in one: the teacher goes the same way."""
    cut = rehearsed(subject)
    whole = swift(subject, "in one piece", {}, 1)
    names = pairs(cut.objective)
    a, b = cut.attempts[0], whole.attempts[0]
    measured = [moved_by(one.before, one.after, one.end, names) for one in (a, b)]
    told: dict[str, Number] = {
        "momentum in pieces": measured[0], "in one": measured[1], "pieces": len(a.ids),
        "expected": momentum_of(cut.config, 0), "bound": 1e-4,
    }  # fmt: skip
    expected = momentum_of(cut.config, 0)
    return Evidence(
        all(abs(m - expected) <= 1e-4 for m in measured) and a.events.count("average") == 1, told
    )


def _refused(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    bad, following = run.attempts[POISONED], run.attempts[POISONED + 1]
    names = pairs(run.objective)
    moved = [t for _, t in names if not torch.equal(bad.before[t], bad.end[t])]
    measured = moved_by(following.before, following.after, following.end, names)
    expected = momentum_of(run.config, POISONED)
    told: dict[str, Number] = {
        "gradient norm": bad.norm, "teacher tensors moved": len(moved),
        "momentum of the step after it": measured, "scheduled": expected, "bound": 1e-4,
    }  # fmt: skip
    return Evidence(not moved and abs(measured - expected) <= 1e-4, told)


# The teacher


def _frozen(subject: Subject) -> Evidence:
    objective = rehearsed(subject).objective
    fresh = subject.objective()
    fresh(subject.inputs(), subject.draw()).loss.backward()
    asks = [p for one in (objective, fresh) for p in _teacher(one) if p.requires_grad]
    got = [p for one in (objective, fresh) for p in _teacher(one) if p.grad is not None]
    told: dict[str, Number] = {
        "weights": len(_teacher(fresh)),
        "require a gradient": len(asks),
        "got one": len(got),
    }
    return Evidence(not asks and not got and bool(_teacher(fresh)), told)


def _teacher(objective: Objective) -> list[nn.Parameter]:
    return list(objective.encoder("teacher").parameters())


def _absent(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    averages_of = {average for _, average in pairs(run.objective)}
    held = averages_of & set(run.attempts[0].held)
    told: dict[str, Number] = {
        "in the optimizer": len(run.attempts[0].held),
        "of the teacher": len(held),
    }
    return Evidence(not held and bool(averages_of), told)


def _equal_at_start(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    first, names = run.attempts[0].before, pairs(run.objective)
    differing = [average for own, average in names if not torch.equal(first[own], first[average])]
    shared = [n for n, p in run.objective.named_parameters() if id(p) in _doubles(run.objective)]
    told: dict[str, Number] = {
        "weights": len(names), "differ": ", ".join(differing[:3]) or "none",
        "are the student's own": len(shared),
    }  # fmt: skip
    return Evidence(not differing and not shared and bool(names), told)


def _doubles(objective: Objective) -> set[int]:
    own = {id(p) for p in objective.encoder("student").parameters()}
    return own & {id(p) for p in objective.encoder("teacher").parameters()}


def _float32(subject: Subject) -> Evidence:
    run = swift(subject, "bf16", {"train.precision": "bf16"}, 2)
    names = pairs(run.objective)
    types = {str(a.end[t].dtype) for a in run.attempts for _, t in names}
    worst = max(
        roundings(a.before, a.after, a.end, names, momentum_of(run.config, n))
        for n, a in enumerate(run.attempts)
    )
    told: dict[str, Number] = {
        "type": ", ".join(types), "largest difference, in roundings of float32": worst,
        "bound": ULPS,
    }  # fmt: skip
    return Evidence(types == {"torch.float32"} and worst <= ULPS, told)


def _deterministic(subject: Subject) -> Evidence:
    """Drop-path is on, and the teacher's answer to the same input does not depend on the draw."""
    objective = subject.objective({"encoder.drop_path": 0.5})
    inputs, answers = subject.inputs(), list[list[Tensor]]()
    ids = subject.batch().ids

    def told(module: nn.Module, given: object, levels: list[object]) -> None:
        answers.append([getattr(level, "values", level).detach() for level in levels])  # type: ignore[attr-defined]

    teacher = objective.encoder("teacher")
    handle = teacher.register_forward_hook(told)
    losses = [float(objective(inputs, Draw(0, 0, ids + shift)).loss.detach()) for shift in (0, 600)]
    handle.remove()
    same = all(torch.equal(a, b) for a, b in zip(answers[0], answers[1], strict=True))
    told_of: dict[str, Number] = {"answers": len(answers), "equal": same, "losses": _listed(losses)}
    return Evidence(same and len(answers) == 2 and losses[0] != losses[1], told_of)


def _repeatable(subject: Subject) -> Evidence:
    whole, again = rehearsed(subject), resumed(subject, EARLIER)
    names = [average for _, average in pairs(whole.objective)]
    ends = zip(whole.attempts[EARLIER:], again.attempts, strict=False)
    differing = sum(not torch.equal(a.end[n], b.end[n]) for a, b in ends for n in names)
    return Evidence(differing == 0, {"steps": len(again.counted), "tensors differ": differing})


def _buffers(subject: Subject) -> Evidence:
    """No encoder of ours has a buffer that is trained; the rule is measured on one that does."""
    linear = nn.Linear(3, 4)
    student = nn.Sequential(linear, nn.BatchNorm1d(4))
    teacher = copy.deepcopy(student)
    student(torch.linspace(-1, 2, 24).reshape(8, 3))  # moves the running statistics
    average = next(teacher.parameters()).detach()
    linear.weight.detach().add_(1)
    expected = (linear.weight.detach() + average) / 2
    running = {name: own.clone() for name, own in student.named_buffers()}
    Ema([(student, teacher)]).update(0.5)
    copied, own = dict(teacher.named_buffers()), dict(student.named_buffers())
    differing = [name for name in running if not torch.equal(copied[name], running[name])]
    moved = [name for name in running if not torch.equal(own[name], running[name])]
    missed = float((average - expected).abs().max())
    run = rehearsed(subject)
    kept = dict(run.objective.named_buffers())
    held = [n for n in kept if n.startswith("teacher.")]
    differing += [
        n for n in held if not torch.equal(kept[n], kept[n.replace("teacher.", "student.", 1)])
    ]
    told: dict[str, Number] = {
        "buffers of a BatchNorm": len(running), "buffers of the teacher": len(held),
        "differ": ", ".join(differing) or "none",
        "of the student, moved": ", ".join(moved) or "none",
        "a weight beside them, from its average": missed, "bound": 1e-6,
    }  # fmt: skip
    return Evidence(not differing and not moved and missed <= 1e-6, told)


def _jepa(subject: Subject) -> bool:
    return averages(subject) and isinstance(subject.objective(), Jepa)


def _cut(subject: Subject) -> bool:
    return averages(subject) and accumulates(subject)


CLAIMS: tuple[Claim, ...] = (
    Claim("ema.linear", "The momentum that moves the teacher goes linearly, and not as a cosine, "
          "from its first value to its last over all optimizer steps after the warm-up.",
          IJEPA, _linear, averages),
    Claim("ema.recipe-momentum", "With the recipe's own momenta the teacher moves by them, the "
          "first step by exactly the first.", "the recipe (I-JEPA: 0.996 → 1.0)",
          _shipped, averages),
    Claim("ema.warm-up", "In the warm-up the momentum stays as it begins.",
          "our design, section 4: Schedule", _warmup, averages),
    Claim("ema.stays-at-the-end", "Beyond the last step the momentum stays at its final value.",
          "specification, executable requirement 17", _stays, averages),
    Claim("ema.index-survives-resume", "After a resume the momentum goes on at the step where the "
          "run stands.", "specification 1.6: the index is the optimizer step", _resumed_index,
          averages),
    Claim("ema.once-per-step", "The teacher moves once for each optimizer step, however many "
          "micro-batches it has, and never while gradients are taken.",
          "specification, D2: in every micro-batch", _once, averages),
    Claim("ema.after-step", "The teacher moves after the optimizer, towards the weights of after "
          "the step.", "specification, D1: before backward", _after, averages),
    Claim("ema.formula", "The average is m · teacher + (1 − m) · student, to rounding.",
          IJEPA, _formula, averages),
    Claim("ema.every-weight", "Every weight of the teacher is averaged.",
          "specification, D3: off under wrappers", _every_weight, averages),
    Claim("ema.accumulation", "A batch in pieces moves the teacher as the batch in one piece does.",
          "specification, D2", _accumulated, _cut),
    Claim("ema.refused", "A refused step moves neither the teacher nor its momentum.",
          "specification, executable requirement 18", _refused, averages),
    Claim("ema.frozen", "The teacher requires no gradient and gets none.", IJEPA, _frozen,
          averages),
    Claim("ema.absent", "No weight of the teacher is in the optimizer.", IJEPA, _absent, averages),
    Claim("ema.equal-at-start", "At step 0 the teacher equals the student, in storage of its own.",
          IJEPA, _equal_at_start, averages),
    Claim("ema.float32", "Teacher and average are float32, under bf16 too.",
          "our design, section 6: losses and norms in fp32", _float32, averages),
    Claim("ema.deterministic", "The teacher answers the same whatever is drawn: no drop-path.",
          "specification, D18: the target in training mode", _deterministic, _jepa),
    Claim("ema.repeatable", "The same steps leave the same teacher, bit for bit.",
          "our design, law 1: the state is the step", _repeatable, averages),
    Claim("ema.buffers", "Buffers are copied and not averaged.",
          "specification, executable requirement 18", _buffers),
)  # fmt: skip
