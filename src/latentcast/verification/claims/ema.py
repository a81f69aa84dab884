"""The average of the weights that makes a teacher, measured as what really moved it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from latentcast.engine.ema import Ema
from latentcast.nn.batch_norm import BatchNorm
from latentcast.verification.claim import claim
from latentcast.verification.evidence import (
    Evidence,
    above,
    all_of,
    at_most,
    equal,
    greatest,
    none,
    true,
)
from latentcast.verification.formulas import momentum_of
from latentcast.verification.observe.loop_recorder import (
    Attempt,
    LoopRecord,
    Weights,
    teacher_pairs,
)
from latentcast.verification.observe.rehearsal import (
    EARLIER,
    LATER,
    POISONED,
    accumulates,
    averages,
    rehearsed,
    resumed,
    short_run,
)
from latentcast.verification.observe.twin import Twin

IJEPA = "I-JEPA, train.py (specification 1.6)"
FLOAT = 2.0**-23
ULPS = 2.0
"""Roundings of float32 that ``t + (1 − m)(s − t)`` may be away from the exact average."""
CLOSE = 1e-4
"""Of a momentum that was measured in weights of float32."""

Pairs = list[tuple[str, str]]


def _averaged(
    teacher: Weights, student: Weights, end: Weights, names: Pairs
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Each weight in float64: teacher, student, the teacher at the end, a rounding of float32."""
    for own, average in names:
        t, s, e = (w.double() for w in (teacher[average], student[own], end[average]))
        yield t, s, e, FLOAT * torch.maximum(t.abs(), s.abs()) + 1e-30


def moved_by(teacher: Weights, student: Weights, end: Weights, names: Pairs) -> float:
    """The momentum that took a teacher from ``teacher`` to ``end``, given the student.

    Least squares over all weights, each counted by how well float32 can show its step.
    """
    above = below = 0.0
    for t, s, e, grain in _averaged(teacher, student, end, names):
        gap = (s - t) / grain
        above += float((gap * (e - t) / grain).sum())
        below += float((gap * gap).sum())
    return 1 - above / below if below else math.nan


def roundings(
    teacher: Weights, student: Weights, end: Weights, names: Pairs, momentum: float
) -> float:
    """How far ``end`` is from the average, in roundings of float32; the worst weight."""
    worst = 0.0
    for t, s, e, grain in _averaged(teacher, student, end, names):
        gap = float(((e - momentum * t - (1 - momentum) * s).abs() / grain).max())
        worst = math.inf if math.isnan(gap) else max(worst, gap)
    return worst


def _momenta(run: LoopRecord) -> list[float]:
    names = teacher_pairs(run.objective)
    return [moved_by(a.before, a.after, a.end, names) for a in run.steps]


def _listed(numbers: list[float]) -> str:
    return " ".join(f"{number:.5f}" for number in numbers)


def _against_schedule(run: LoopRecord, begin: int = 0) -> tuple[list[float], list[float]]:
    """Momenta that were measured and those of the formula."""
    measured = _momenta(run)
    return measured, [momentum_of(run.config, begin + n) for n in range(len(measured))]


def _largest(measured: list[float], expected: list[float]) -> float:
    return greatest(*(abs(a - b) for a, b in zip(measured, expected, strict=True)))


# The momentum


@claim("ema.linear", "The momentum that moves the teacher stays as it begins in the warm-up, and "
       "then goes linearly, and not as a cosine, to its last value over all optimizer steps.",
       source=IJEPA, about=averages)  # fmt: skip
def linear(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    measured, expected = _against_schedule(run)
    ema, steps = run.config.ema, run.config.train.steps
    assert ema is not None and ema.base is not None and ema.final is not None
    warm, base, final = ema.warmup_steps, ema.base, ema.final
    cosine = [
        final - (final - base) * (1 + math.cos(math.pi * max(0, n - warm) / (steps - warm))) / 2
        for n in range(len(measured))
    ]  # fmt: skip
    return all_of(
        at_most("difference from the line", _largest(measured, expected), CLOSE),
        at_most("from the first value in the warm-up",
                greatest(*(abs(value - base) for value in measured[: warm + 1])), CLOSE),
        above("rise after it", measured[warm + 1] - base, 1e-3),
        equal("steps", len(measured), steps),
        measured=_listed(measured), linear=_listed(expected),
        **{"from a cosine": _largest(measured, cosine), "warm-up": warm},
    )  # fmt: skip


@claim("ema.recipe-momentum", "With the recipe's own momenta the teacher moves by them, the first "
       "step by exactly the first.",
       source="the recipe (I-JEPA: 0.996 → 1.0)", about=averages)  # fmt: skip
def recipe_momentum(twin: Twin) -> Evidence:
    """A rounding hides more of a smaller step."""
    measured, expected = _against_schedule(twin.trained())
    worst = greatest(*(abs(a - b) / (1 - b) for a, b in zip(measured, expected, strict=True)))
    return all_of(
        at_most("difference, of 1 − momentum", worst, 0.02),
        measured=_listed(measured), scheduled=_listed(expected),
    )  # fmt: skip


@claim("ema.index-survives-resume", "After a resume the momentum goes on at the step where the "
       "run stands.",
       source="specification 1.6: the index is the optimizer step", about=averages)  # fmt: skip
def index_survives_resume(twin: Twin) -> Evidence:
    measured, expected = _against_schedule(resumed(twin, LATER), LATER)
    return all_of(
        at_most("difference", _largest(measured, expected), CLOSE),
        above("steps", len(measured), 1),
        resumed_at=LATER, measured=_listed(measured), scheduled=_listed(expected),
    )  # fmt: skip


# When, and from what


@claim("ema.once-per-step", "The teacher moves once for each optimizer step, however many "
       "micro-batches it has, and never while gradients are taken.",
       source="specification, D2: in every micro-batch", about=averages)  # fmt: skip
def once_per_step(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    counts = [attempt.events.count("average") for attempt in run.steps]
    inside = sum(
        not torch.equal(now.end[name], after.before[name])
        for now, after in zip(run.steps[POISONED:], run.steps[POISONED + 1 :], strict=False)
        for _, name in teacher_pairs(run.objective)
    )
    return all_of(
        equal("steps with one average", counts.count(1), len(counts)),
        equal("tensors moved while gradients were taken", inside, 0),
        micro_batches=len(run.steps[0].ids), averages=" ".join(map(str, counts)),
    )  # fmt: skip


@claim("ema.after-step", "The teacher moves after the optimizer, towards the weights of after the "
       "step.", source="specification, D1: before backward", about=averages)  # fmt: skip
def after_step(twin: Twin) -> Evidence:
    """By whatever momentum: held against both students, that of an early average too."""
    run = rehearsed(twin)
    names = teacher_pairs(run.objective)
    late = max(_left_over(a.before, a.after, a.end, names) for a in run.steps)
    early = max(_left_over(a.before, a.before, a.end, names) for a in run.steps)
    moved = [t for a in run.steps for _, t in names if not torch.equal(a.before[t], a.after[t])]
    return all_of(
        at_most("off the way to the weights after the step, of its length", late, 1e-3),
        above("off the way to those before it", early, 0.1),
        none("moved before the optimizer was done", moved),
    )


def _left_over(teacher: Weights, student: Weights, end: Weights, names: Pairs) -> float:
    """How far the teacher went aside from the straight way to the student, of how far it went."""
    pairs = [(e - t, s - t) for t, s, e, _ in _averaged(teacher, student, end, names)]
    along = sum(float((step * gap).sum()) for step, gap in pairs)
    way, square = (sum(float(x.square().sum()) for x in xs) for xs in zip(*pairs, strict=True))
    gain = along / square if square else 0.0
    aside = sum(float((step - gain * gap).square().sum()) for step, gap in pairs)
    return math.sqrt(aside / way) if way else math.inf


def _worst_rounding(run: LoopRecord, attempts: list[Attempt]) -> float:
    """Of the average by the momentum that was measured, over attempts."""
    names, worst = teacher_pairs(run.objective), 0.0
    for a in attempts:
        momentum = moved_by(a.before, a.after, a.end, names)
        gap = roundings(a.before, a.after, a.end, names, momentum)
        worst = math.inf if math.isnan(momentum) else max(worst, gap)
    return worst


@claim("ema.formula", "The average is m · teacher + (1 − m) · student with one m for all weights, "
       "to rounding.", source=IJEPA, about=averages)  # fmt: skip
def formula(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    return all_of(
        at_most("largest difference, in roundings", _worst_rounding(run, run.steps), ULPS),
        measured_m=_listed(_momenta(run)),
    )


@claim("ema.every-weight", "Every weight of the teacher is averaged.",
       source="specification, D3: off under wrappers", about=averages)  # fmt: skip
def every_weight(twin: Twin) -> Evidence:
    """A teacher of which some part stands still is no average of it."""
    run = rehearsed(twin)
    names = teacher_pairs(run.objective)
    first, last = run.attempts[0].before, run.attempts[-1].end
    moves = {own for own, _ in names if not torch.equal(first[own], last[own])}
    still = [t for own, t in names if own in moves and torch.equal(first[t], last[t])]
    teachers = {n for n in first if "teacher." in n}
    strange = teachers - {t for _, t in names} - {n for n, _ in run.objective.named_buffers()}
    return all_of(
        above("weights of the student that moved", len(moves), 0),
        none("of the teacher, still", still),
        none("of the teacher, without a student", sorted(strange)),
        weights=len(names),
    )


@claim("ema.accumulation", "A batch in pieces moves the teacher as the batch in one piece does.",
       source="specification, D2",
       about=lambda twin: averages(twin) and accumulates(twin))  # fmt: skip
def accumulation(twin: Twin) -> Evidence:
    """The first step in three pieces and in one."""
    pieces, one = rehearsed(twin), short_run(twin, "in one piece", {}, 1)
    (cut, *_), (one_piece, *_) = _momenta(pieces), _momenta(one)
    first = pieces.steps[0]
    return all_of(
        at_most("difference of the momentum", abs(cut - one_piece), CLOSE),
        equal("averages", first.events.count("average"), 1),
        momentum_in_pieces=cut, in_one=one_piece, pieces=len(first.ids),
    )  # fmt: skip


@claim("ema.refused", "A refused step moves neither the teacher nor its momentum.",
       source="specification, executable requirement 18", about=averages)  # fmt: skip
def refused(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    bad, following = run.attempts[POISONED], run.attempts[POISONED + 1]
    names = teacher_pairs(run.objective)
    measured = moved_by(following.before, following.after, following.end, names)
    scheduled = momentum_of(run.config, POISONED)
    return all_of(
        none("of the teacher, moved",
             [t for _, t in names if not torch.equal(bad.before[t], bad.end[t])]),
        at_most("difference of the momentum after it", abs(measured - scheduled), CLOSE),
        gradient_norm=bad.norm, momentum=measured, scheduled=scheduled,
    )  # fmt: skip


# The teacher


@claim("ema.frozen", "The teacher requires no gradient, gets none, and is not in the optimizer.",
       source=IJEPA, about=averages)  # fmt: skip
def frozen(twin: Twin) -> Evidence:
    run, fresh = rehearsed(twin), twin.objective()
    fresh(twin.inputs(), twin.draw()).loss.backward()
    weights = [p for one in (run.objective, fresh) for p in one.encoder("teacher").parameters()]
    names = {average for _, average in teacher_pairs(run.objective)}
    return all_of(
        equal("require a gradient", sum(p.requires_grad for p in weights), 0),
        equal("got one", sum(p.grad is not None for p in weights), 0),
        none("in the optimizer", sorted(names & set(run.attempts[0].in_optimizer))),
        above("weights", len(names), 0),
    )


@claim("ema.equal-at-start", "At step 0 the teacher equals the student, in storage of its own.",
       source=IJEPA, about=averages)  # fmt: skip
def equal_at_start(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    first, names = run.attempts[0].before, teacher_pairs(run.objective)
    students, teachers = (
        {id(p) for p in run.objective.encoder(role).parameters()} for role in ("student", "teacher")
    )
    return all_of(
        none("differ", [t for own, t in names if not torch.equal(first[own], first[t])]),
        equal("are the student's own", len(students & teachers), 0),
        above("weights", len(names), 0),
    )


@claim("ema.float32", "Teacher and average are float32, under bf16 too.",
       source="our design, section 6: losses and norms in fp32", about=averages)  # fmt: skip
def float32(twin: Twin) -> Evidence:
    run = short_run(twin, "bf16", {"train.precision": "bf16"}, 2)
    names = teacher_pairs(run.objective)
    types = {str(a.end[t].dtype) for a in run.attempts for _, t in names}
    return all_of(
        equal("type", ", ".join(sorted(types)), "torch.float32"),
        at_most("largest difference, in roundings", _worst_rounding(run, run.attempts), ULPS),
    )


@claim("ema.repeatable", "The same steps leave the same teacher, bit for bit.",
       source="our design, law 1: the state is the step", about=averages)  # fmt: skip
def repeatable(twin: Twin) -> Evidence:
    uninterrupted, again = rehearsed(twin), resumed(twin, EARLIER)
    names = [average for _, average in teacher_pairs(uninterrupted.objective)]
    ends = zip(uninterrupted.attempts[EARLIER:], again.attempts, strict=False)
    differing = [n for a, b in ends for n in names if not torch.equal(a.end[n], b.end[n])]
    return all_of(none("tensors that differ", differing), steps=len(again.steps))


@claim("ema.buffers", "Buffers are copied and not averaged, but for those of batch norms.",
       source="specification, executable requirement 18")  # fmt: skip
def buffers(twin: Twin) -> Evidence:
    """Only batch norms of ours have buffers that move; the rule is measured on torch's own."""
    linear, generator = nn.Linear(3, 4), torch.Generator().manual_seed(twin.seed)
    for parameter in linear.parameters():
        parameter.detach().normal_(generator=generator)
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
    trained = {
        f"{place}.{name}": buffer
        for place, module in rehearsed(twin).objective.named_modules()
        if not isinstance(module, BatchNorm)  # batch-norm.running is about theirs
        for name, buffer in module.named_buffers(recurse=False)
    }
    teachers = {n: n.replace("teacher.", "student.", 1) for n in trained if "teacher." in n}
    differing += [t for t, s in teachers.items() if not torch.equal(trained[t], trained[s])]
    return all_of(
        none("differ", differing),
        none("of the student, moved",
             [name for name in running if not torch.equal(own[name], running[name])]),
        at_most("a weight beside them, from its average",
                float((average - expected).abs().max()), 1e-6),
        true("the student's had moved before", bool(running["1.running_mean"].any())),
        buffers_of_a_batchnorm=len(running), buffers_of_the_teacher=len(teachers),
    )  # fmt: skip
