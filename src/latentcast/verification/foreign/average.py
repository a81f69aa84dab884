"""Is the teacher the average of its student? Measured at each event of a training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from latentcast.errors import LatentcastError
from latentcast.verification.evidence import above, all_of, at_most, equal
from latentcast.verification.foreign.buffers import Buffers
from latentcast.verification.foreign.events import Observer, Session
from latentcast.verification.foreign.heap import listed
from latentcast.verification.foreign.moves import AVERAGED, Move, State, fit, scaled_fit
from latentcast.verification.foreign.pairs import APART, Pair, pair_of
from latentcast.verification.foreign.passes import Passes
from latentcast.verification.foreign.sample import Sample
from latentcast.verification.foreign.verified import Lines, Verified
from latentcast.verification.report.lines import Line

SOURCE = "mean teacher (Tarvainen and Valpola 2017), equation 1; order: I-JEPA, train.py"
ROUNDINGS = 2.0
"""Of each weight that one averaging may cost; ``mul_`` and ``add_`` are one each."""
BLURRED = 0.5
"""The share of a step from which on roundings leave nothing to measure."""
RATE = 0.25
"""Of the expected change of the momentum over the steps; twice the rate is off by 1."""
SURE = 6.0
"""Standard deviations of a measured momentum that a difference must exceed."""
STILL = 5e-5
"""The smallest gain that is looked for; 1 − momentum is larger but at the end of a schedule."""
Momentum = float | Callable[[int], float]
FORMULA = {
    "ema.formula": "Each move is momentum × teacher + (1 − momentum) × student.",
    "ema.updated-weights": "The student it averages has the weights of now.",
    "ema.momentum": "Its momentum is the expected one.",
}
HAPPENS = "The teacher moves."
START = "Before the first step the teacher has its student's weights."


class Average(Observer):
    """One pair, event by event; of both networks a few thousand places of each tensor are kept.

    Args:
        momentum: what it should be, a number or a function of the optimizer's step from 0.
        found: the pair was found and not named, so it may be no average at all.
    """

    def __init__(self, pair: Pair, momentum: Momentum | None = None, found: bool = False) -> None:
        self.pair, self.momentum, self.found = pair, momentum, found
        self.name = f"average of {pair.name}"
        self.moves = list[Move]()
        self.taken = self.listed = self.with_gradient = 0
        self.outside = 0
        """Moves that no optimizer made."""
        self.start_distance: float | None = None
        self._sample = Sample(pair.teacher())
        self._last: State | None = None
        self._older: Tensor | None = None
        self._weights = {id(p) for p in pair.student_module.parameters()}
        self._step: int | None = None
        teacher = pair.teacher_module
        self.passes = None if teacher is None else Passes(teacher)
        self._both = {id(m) for part in (pair.student_module, teacher) if part is not None
                      for m in part.modules()}  # fmt: skip
        self._depth = 0
        self.buffers = Buffers(pair.student_module, teacher) if teacher is not None else None
        self._note("begin")

    @property
    def used(self) -> bool:
        """Whether the training reads the teacher."""
        return self.passes is not None and bool(self.passes.entries)

    @property
    def is_average(self) -> bool:
        """It moves beside the optimizer, or is read and not trained."""
        if not self.taken:  # its student belongs to another training
            return False
        return self.outside > 0 or (not self.listed and self.used)

    def start(self, optimizer: Optimizer) -> None:
        if not optimizer.state:  # else it goes on from a checkpoint
            self.start_distance = self.pair.distance()

    def enter(self, module: nn.Module, args: Any) -> None:
        if id(module) not in self._both:
            return
        if self.passes is not None and id(module) in self.passes.parts:
            self.passes.enter(module, args, outermost=not self._depth)
        if not self._depth:
            if self.buffers is not None and self._last and self._last.what in ("after", "end"):
                self.buffers.compare()
            self._note("forward")
        self._depth += 1

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if id(module) not in self._both:
            return
        self._depth = max(0, self._depth - 1)
        if not self._depth and self.passes is not None and id(module) in self.passes.parts:
            self.passes.leave_entry(module, args, kwargs, output)

    def before(self, optimizer: Optimizer, step: int) -> None:
        moved = {id(p) for p in listed(optimizer)}
        teacher = self.pair.teacher_module
        if teacher is not None:
            own = [p for p in teacher.parameters() if id(p) not in self._weights]
            self.listed = max(self.listed, sum(id(p) in moved for p in own))
            self.with_gradient += sum(p.grad is not None and bool(p.grad.any()) for p in own)
        if moved & self._weights and step != self._step:
            self._depth = 0
            self._note("before")

    def after(self, optimizer: Optimizer, step: int) -> None:
        moved = {id(p) for p in listed(optimizer)}
        if not moved & self._weights:
            return
        self._note("after", again=step == self._step)
        self._step = step

    def end(self) -> None:
        """Also of a step function of the caller."""
        self._note("end")

    def _note(self, what: str, again: bool = False) -> None:
        teacher = self._sample.take(self.pair.teacher())
        last = self._last
        moved = last is not None and not _same(last.teacher, teacher)
        if last is None or moved or what != last.what or what == "after":
            student = self._sample.take(self.pair.student())
            if last is not None and moved:
                self._measure(last, teacher, student)
            self._last = State(what, teacher, student)
        self.taken += what == "after" and not again

    def _measure(self, last: State, teacher: Tensor, student: Tensor) -> None:
        """``θ_t ← m θ_t + (1 − m) θ_s``: which m, and which student's weights fit the move.

        Args:
            student: its weights now; those of the last event, if nothing but an optimizer moves
                them, and else what a clipping after the step has made of them.
        """
        if not bool(teacher.isfinite().all()):
            self.outside += last.what != "before"
            self.moves.append(Move(last.what, self.taken, math.inf))
            return
        if not torch.equal(student, last.student):
            both = (State(last.what, last.teacher, one) for one in (last.student, student))
            last = min(both, key=lambda s: fit(teacher - s.teacher, s.student - s.teacher, 0.0)[1])
        delta, towards = teacher - last.teacher, last.student - last.teacher
        way = max(float(delta.norm()), 1e-300)
        rounding = ROUNDINGS * float((self._sample.eps * last.teacher).norm())
        steps, older, self._older = self.taken, self._older, last.student
        self.outside += last.what != "before"
        gain, left = fit(delta, towards, rounding)
        unsure = rounding / max(float(towards.norm()), 1e-300)
        deviation = unsure / math.sqrt(len(delta))
        if rounding > BLURRED * way:
            if abs(gain) < SURE * deviation < STILL:
                return  # roundings, as of an average with what it is itself
            self.moves.append(Move(last.what, steps, rounding / way))
            return
        stale_gain, stale_left = 0.0, math.inf
        if older is not None:  # weights that the optimizer has meanwhile moved on from
            stale_gain, stale_left = fit(delta, older - last.teacher, rounding)
        gain = stale_gain if stale_left < left else gain
        scaled_gain = scaled_fit(delta, towards, last.teacher)
        self.moves.append(
            Move(last.what, steps, rounding / way, left, stale_left, unsure, deviation, gain,
                  scaled_gain)
        )  # fmt: skip

    def lines(self) -> Sequence[Line]:
        if self.found and not self.moves and not self._may_be_average():
            return ()
        if self.found and (not self.taken or (self.listed and not self.is_average)):
            return ()  # of another training, or one of two networks that start alike
        lines = Lines(SOURCE)
        self._start(lines)
        if self.found and not self.moves and not self._should_move():
            lines.unmeasured("ema.happens", HAPPENS, self._why_still())
            return lines
        lines.add("ema.happens", HAPPENS, above("moves", len(self.moves), 0), steps=self.taken)
        self._gradient(lines)
        if self.passes is not None:
            self.passes.add(lines)
        if self.moves:
            self._when(lines)
            self._formula(lines)
        if self.buffers is not None and (self.moves or not self.found):
            batch_mode = self.passes is not None and self.passes.normalising > 0
            self.buffers.add(lines, batch_mode)
        return lines

    def _may_be_average(self) -> bool:
        """Of what never moved: a copy of the student, or a network of its size."""
        if self.pair.teacher_module is None or self.start_distance is None:
            return False
        return self.start_distance == 0.0 or self.used

    def _should_move(self) -> bool:
        return self.used and self.start_distance is not None and self.start_distance < APART

    def _why_still(self) -> str:
        if not self.used:
            return f"it did not move in {self.taken} steps, and nothing read it"
        return (
            f"it did not move in {self.taken} steps and never was near the student; if it is meant "
            "to be its average, it is none"
        )

    def _start(self, lines: Lines) -> None:
        if not self.found or self.start_distance is None:
            return
        if self.moves or self._should_move():
            lines.add("ema.start", START, at_most("distance", self.start_distance, 1e-2))

    def _gradient(self, lines: Lines) -> None:
        no_gradient = equal("weights with gradient", self.with_gradient, 0)
        lines.add("ema.frozen", "The teacher gets no gradient.", no_gradient)
        if self.listed and not self.with_gradient:
            sentence = "Weights of the teacher are in the optimizer, without a gradient."
            lines.note("ema.listed", sentence, weights=self.listed)

    def _when(self, lines: Lines) -> None:
        """Once for each optimizer step, after it, and before anybody reads the teacher again."""
        most = max(Counter(move.steps for move in self.moves).values())
        sentence = "It moves once for each optimizer step, not for each micro-batch."
        moves = len(self.moves)
        lines.add("ema.once", sentence, equal("most moves in a step", most, 1), moves=moves,
                  steps=self.taken)  # fmt: skip
        followed = {move.steps for move in self.moves if move.late}
        # A second move after a right one is of a micro-batch, which the line above has counted.
        early = sum(m.what == "forward" and m.steps not in followed for m in self.moves)
        inside = sum(move.what == "before" for move in self.moves)
        # The last step's may come at the start of a next one, before anybody reads the teacher.
        missing = len(set(range(1, self.taken)) - followed)
        beside: dict[str, int] = {"steps_without_a_move": missing} if missing else {}
        lines.add(
            "ema.after-step",
            "It moves after the optimizer's step and before the next forward.",
            equal("moves between forward pass and optimizer", early, 0),
            equal("moves by the optimizer", inside, 0),
            **beside,
        )

    def _formula(self, lines: Lines) -> None:
        blur = min(move.rounding for move in self.moves)
        moves = [move for move in self.moves if move.rounding <= BLURRED]
        if not moves:
            reason = (
                f"the teacher's roundings are {blur:.2g} of its way in a step; give a step with a "
                "larger learning rate or a smaller momentum"
            )
            for name, sentence in FORMULA.items():
                lines.unmeasured(name, sentence, reason)
            return
        worst = max(min(move.left, move.stale_left) for move in moves)
        stale = sum(move.stale for move in moves)
        name = "ema.formula"
        lines.add(name, FORMULA[name], at_most("largest residual", worst, AVERAGED))
        name = "ema.updated-weights"
        lines.add(name, FORMULA[name], equal("moves towards older weights", stale, 0))
        if worst > AVERAGED or stale:
            lines.unmeasured("ema.momentum", FORMULA["ema.momentum"], "it is no such average")
        else:
            self._momentum(lines, moves)

    def _momentum(self, lines: Lines, moves: Sequence[Move]) -> None:
        first, last = 1 - moves[0].gain, 1 - moves[-1].gain
        name = "ema.momentum"
        if self.momentum is None:
            lowest = min(1 - move.gain for move in moves)
            highest = max(1 - move.gain for move in moves)
            # Of 0 it is a copy from time to time; what is between is the gain for the momentum.
            swapped = 1e-3 < lowest < 0.5
            lines.add(
                name, "Its momentum keeps most of the teacher and is below 1.",
                equal("keeps less than half", swapped, False), at_most("highest", highest, 1.0),
                measured_first=first, last=last,
            )  # fmt: skip
            return
        gaps = []
        for move in moves:
            number, measured = move.steps - move.late, 1 - move.gain
            expected = self._expected(number)
            gap = max(0.0, abs(measured - expected) - move.unsure) / max(1 - expected, 1e-6)
            gaps.append((gap, number, measured, expected))
        gap, number, measured, expected = max(gaps)
        parts = [at_most("difference of the gain", gap, 1e-2)]
        change = [moves[0].scaled_gain - moves[-1].scaled_gain,
                  self._expected(moves[-1].steps - moves[-1].late)
                  - self._expected(moves[0].steps - moves[0].late)]  # fmt: skip
        noise = SURE * (moves[0].deviation + moves[-1].deviation)
        if abs(change[1]) * RATE > noise:
            parts.append(at_most("difference of its rate", abs(change[0] / change[1] - 1), RATE))
        evidence = all_of(*parts, step=number, measured=measured, expected=expected)
        lines.append(Line.of(name, FORMULA[name], SOURCE, evidence))

    def _expected(self, step: int) -> float:
        assert self.momentum is not None
        return self.momentum(step) if callable(self.momentum) else self.momentum


def verify_ema(
    step: Callable[[], object],
    student: nn.Module,
    teacher: nn.Module,
    momentum: Momentum | None = None,
    steps: int = 4,
) -> Verified:
    """Look at a training step from outside: is the teacher the average of its student?

    It trains: ``steps`` steps are taken, and what they changed stays.

    Args:
        step: does one optimizer step of the code in question, average and all.
        student: what the optimizer moves.
        teacher: its average; parameters in the student's order.
        momentum: what it should be, a number or a function of the step from 0; None only shows it.
        steps: how often ``step`` is called; from the second on student and teacher differ.

    Raises:
        LatentcastError: student and teacher do not match, or no optimizer moved in ``step``.
    """
    shapes = [[tuple(p.shape) for p in module.parameters()] for module in (student, teacher)]
    if shapes[0] != shapes[1]:
        raise LatentcastError(
            "verify_ema: student and teacher have different parameters; give the module that is "
            "averaged and its average"
        )
    average = Average(pair_of(student, teacher), momentum)
    with Session([average]) as session:
        for _ in range(steps):
            step()
            average.end()
    if average.name in session.failures:
        raise LatentcastError(f"verify_ema: {session.failures[average.name]}")
    if not average.taken:
        raise LatentcastError(
            "verify_ema: no torch optimizer took a step of the student; step() must do a whole "
            "training step"
        )
    return Verified(tuple(average.lines()))


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal, where NaN is its own equal."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())
