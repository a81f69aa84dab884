"""A training step watched from outside: is the teacher the average of its student?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from latentcast.errors import LatentcastError
from latentcast.verification.evidence import above, at_most, equal
from latentcast.verification.foreign.verified import Lines, Verified
from latentcast.verification.observe.hooks import hooked
from latentcast.verification.report.lines import Line

AVERAGED = 1e-3
"""How far from the formula a teacher's step may be, relative to it, beyond its type's roundings."""
ROUNDINGS = 2.0
"""Of each weight that one averaging may cost; ``mul_`` and ``add_`` are one each."""
BLURRED = 0.5
"""The share of a step from which on roundings leave nothing to measure."""
DROPPING = ("Drop", "BatchNorm", "InstanceNorm")
"""In the class names of modules that compute something else in training."""
Momentum = float | Callable[[int], float]
FORMULA = {
    "ema.formula": "Each move is momentum × teacher + (1 − momentum) × student.",
    "ema.updated-weights": "The student it averages has the weights of now.",
    "ema.momentum": "Its momentum is the expected one.",
}


@dataclass
class _Event:
    """Something that happened, and the teacher as it was then."""

    what: str  # "forward", "before" or "after" the optimizer, "end" of the step function
    teacher: list[Tensor]
    student: list[Tensor]


@dataclass
class _Watched:
    """What was recorded of a stretch of training."""

    events: list[_Event] = field(default_factory=list)
    optimizers: set[int] = field(default_factory=set)
    with_gradient: int = 0
    in_training: int = 0


@dataclass(frozen=True)
class _Move:
    """A change of the teacher, somewhere between two events."""

    after: _Event
    before: _Event
    steps_so_far: int

    @property
    def late(self) -> bool:
        """After an optimizer's step, with no forward pass between."""
        return self.after.what in ("after", "end") and self.steps_so_far > 0

    @property
    def way(self) -> float:
        gone = _flat(self.before.teacher) - _flat(self.after.teacher)
        return max(float(gone.norm()), 1e-300)

    @property
    def rounding(self) -> float:
        """Norm of what the teacher's type may round away in one move."""
        norms = [torch.finfo(t.dtype).eps * float(t.double().norm()) for t in self.after.teacher]
        return ROUNDINGS * math.hypot(*norms)


def verify_ema(
    step: Callable[[], object],
    student: nn.Module,
    teacher: nn.Module,
    momentum: Momentum | None = None,
    steps: int = 4,
    buffers_copied: bool = True,
) -> Verified:
    """Look at a training step from outside: is the teacher the average of its student?

    It trains: ``steps`` steps are taken, and what they changed stays.

    Args:
        step: does one optimizer step of the code in question, average and all.
        student: what the optimizer moves.
        teacher: its average; parameters in the student's order.
        momentum: what it should be, a number or a function of the step from 0; None only shows it.
        steps: how often ``step`` is called; from the second on student and teacher differ.
        buffers_copied: the teacher's buffers are to be the student's.

    Raises:
        LatentcastError: student and teacher do not match, or no optimizer moved in ``step``.
    """
    shapes = [[tuple(p.shape) for p in module.parameters()] for module in (student, teacher)]
    if shapes[0] != shapes[1]:
        raise LatentcastError(
            "verify_ema: student and teacher have different parameters; give the module that is "
            "averaged and its average"
        )
    watched = _observe(step, student, teacher, steps)
    if not any(event.what == "after" for event in watched.events):
        raise LatentcastError(
            "verify_ema: no torch optimizer took a step; step() must do a whole training step"
        )
    lines = Lines()
    moves = list(_moves(watched.events))
    taken = sum(event.what == "after" for event in watched.events)
    lines.add("ema.happens", "The teacher moves.", above("moves", len(moves), 0), steps=taken)
    own = {id(p) for p in teacher.parameters()}
    lines.add(
        "ema.frozen",
        "The teacher is not in the optimizer and gets no gradient.",
        equal("in the optimizer", len(own & watched.optimizers), 0),
        equal("with gradient", watched.with_gradient, 0),
    )
    lines.add(
        "ema.eval",
        "The teacher does not drop or normalise as in training.",
        equal("forwards in training mode", watched.in_training, 0),
    )
    if moves:
        _when(lines, moves, taken)
        _formula(lines, moves, momentum)
    _buffers(lines, student, teacher, buffers_copied)
    return Verified(tuple(lines))


def _observe(
    step: Callable[[], object], student: nn.Module, teacher: nn.Module, steps: int
) -> _Watched:
    watched = _Watched()

    def note(what: str) -> None:
        last = watched.events[-1] if watched.events else None
        # Of a forward pass with many modules one event is enough, while nothing moves.
        if last is None or what != last.what or not _same(last.teacher, _parameters(teacher)):
            copies = ([p.clone() for p in _parameters(m)] for m in (teacher, student))
            watched.events.append(_Event(what, *copies))

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        watched.optimizers |= {id(p) for group in optimizer.param_groups for p in group["params"]}
        gradients = [p.grad for p in teacher.parameters() if p.grad is not None]
        watched.with_gradient += sum(bool(g.any()) for g in gradients)
        note("before")

    def forward(module: nn.Module, args: Any) -> None:
        note("forward")

    def in_training(module: nn.Module, args: Any) -> None:
        watched.in_training += module.training and _drops(module)

    handles = [
        register_optimizer_step_pre_hook(before),
        register_optimizer_step_post_hook(lambda *_: note("after")),
        *(m.register_forward_pre_hook(forward) for m in (*student.modules(), *teacher.modules())),
        *(m.register_forward_pre_hook(in_training) for m in teacher.modules()),
    ]
    with hooked(handles):
        note("end")
        for _ in range(steps):
            step()
            note("end")
    return watched


def _drops(module: nn.Module) -> bool:
    name = type(module).__name__
    rate = getattr(module, "p", getattr(module, "drop_prob", 1.0))
    return any(part in name for part in DROPPING) and bool(rate)


def _parameters(module: nn.Module) -> list[Tensor]:
    return [p.detach() for p in module.parameters()]


def _same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _moves(events: Sequence[_Event]) -> Iterator[_Move]:
    taken = 0
    for a, b in pairwise(events):
        taken += a.what == "after"
        if not _same(a.teacher, b.teacher):
            yield _Move(a, b, taken)


def _when(lines: Lines, moves: Sequence[_Move], taken: int) -> None:
    """Once for each optimizer step, after it, and before anybody reads the teacher again."""
    most = max(Counter(move.steps_so_far for move in moves).values())
    lines.add(
        "ema.once",
        "It moves once for each optimizer step, not for each micro-batch.",
        equal("most moves in a step", most, 1),
        moves=len(moves),
        steps=taken,
    )
    inside = sum(move.after.what == "before" for move in moves)
    early = sum(move.after.what == "forward" for move in moves)
    # The last step's may come at the start of a next one, before anybody reads the teacher.
    followed = {move.steps_so_far for move in moves if move.late}
    never = len(set(range(1, taken)) - followed)
    lines.add(
        "ema.after-step",
        "It moves after the optimizer's step and before the next forward.",
        equal("moves between forward pass and optimizer", early, 0),
        equal("moves by the optimizer", inside, 0),
        equal("steps without a move after them", never, 0),
    )


def _formula(lines: Lines, moves: Sequence[_Move], momentum: Momentum | None) -> None:
    """``θ_t ← m θ_t + (1 − m) θ_s``: which m, and which student's weights fit the move."""
    worst, stale, found = 0.0, 0, list[tuple[int, float, float]]()
    previous: list[Tensor] | None = None
    blur = min(move.rounding / move.way for move in moves)
    if blur > BLURRED:
        reason = (
            f"the teacher's roundings are {blur:.2g} of its way in a step; give a step with a "
            "larger learning rate or a smaller momentum"
        )
        for name, sentence in FORMULA.items():
            lines.append(Line(name, sentence, "measured", "not measured", {"reason": reason}))
        return
    for move in moves:
        delta = _flat(move.before.teacher) - _flat(move.after.teacher)
        towards = _flat(move.after.student) - _flat(move.after.teacher)
        rounding, last, previous = move.rounding, previous, move.after.student
        if rounding > BLURRED * move.way:
            continue
        fits = [_fit(delta, towards, rounding)]
        if last is not None:  # weights that the optimizer has meanwhile moved on from
            fits.append(_fit(delta, _flat(last) - _flat(move.after.teacher), rounding))
        best = min(range(len(fits)), key=lambda i: fits[i][1])
        stale += best == 1 and fits[0][1] > AVERAGED
        worst = max(worst, fits[best][1])
        unsure = rounding / max(float(towards.norm()), 1e-300)
        found.append((move.steps_so_far - move.late, 1 - fits[best][0], unsure))
    name = "ema.formula"
    lines.add(name, FORMULA[name], at_most("largest residual", worst, AVERAGED))
    name = "ema.updated-weights"
    lines.add(name, FORMULA[name], equal("moves towards older weights", stale, 0))
    if momentum is None:
        numbers = {"measured first": found[0][1], "last": found[-1][1]}
        lines.append(Line("ema.momentum", "Its momentum.", "measured", "holds", numbers))
        return
    gaps = []
    for number, measured, unsure in found:
        expected = momentum(number) if callable(momentum) else momentum
        gap = max(0.0, abs(measured - expected) - unsure) / max(1 - expected, 1e-6)
        gaps.append((gap, number, measured, expected))
    gap, number, measured, expected = max(gaps)
    lines.add(
        "ema.momentum",
        FORMULA["ema.momentum"],
        at_most("difference of the gain", gap, 1e-2),
        step=number,
        measured=measured,
        expected=expected,
    )


def _fit(delta: Tensor, towards: Tensor, rounding: float) -> tuple[float, float]:
    """The gain that explains a move best, and the share of it left over beyond roundings."""
    square = float(towards.square().sum())
    if square == 0.0:
        return 0.0, float("inf")
    gain = float((delta * towards).sum()) / square
    left = max(0.0, float((delta - gain * towards).norm()) - rounding)
    return gain, left / max(float(delta.norm()), 1e-300)


def _buffers(lines: Lines, student: nn.Module, teacher: nn.Module, copied: bool) -> None:
    pairs = list(zip(student.buffers(), teacher.buffers(), strict=False))
    if not pairs or not copied:
        return
    differ = equal("different", sum(not torch.equal(a, b) for a, b in pairs), 0)
    lines.add("ema.buffers", "The teacher's buffers are the student's.", differ, buffers=len(pairs))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors])
