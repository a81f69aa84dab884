"""Bugs of the average of the weights: when it moves, how far, from what, and what it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentcast.config import Config
from latentcast.engine import checkpoint, loop
from latentcast.engine.ema import Ema
from latentcast.engine.ranks import ALONE
from latentcast.engine.schedules import EmaSchedule, Schedules
from latentcast.objectives.base import Objective
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.nepa import Nepa
from latentcast.randomness import Draw
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.rehearsal import accumulates, averages
from latentcast.verification.observe.twin import Subject

Patch = AbstractContextManager[None]
HJEPA = "specification, H-JEPA"
CLASSIC = "classic"


@contextmanager
def several(*patches: Patch) -> Iterator[None]:
    """All of them at once."""
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def scheduled(change: Callable[[Schedules, Config], Schedules]) -> Patch:
    """Every run gets other schedules."""

    def make(was: Any) -> Any:
        return classmethod(lambda cls, config: change(was.__func__(cls, config), config))

    return replaced(Schedules, "of", make)


def _momentum(change: Callable[[Schedules, Config, int], float]) -> Patch:
    return scheduled(
        lambda was, config: replace(was, momentum=lambda step: change(was, config, step))
    )


# When


class _Held:
    """What a slip has at hand in the wrong place: the average, the schedules, the pieces."""

    def __init__(self) -> None:
        self.ema: Ema | None = None
        self.schedules: Schedules | None = None
        self.step = self.pieces = 0
        self.move = Ema.update

    @contextmanager
    def listening(self, *patches: Patch) -> Iterator[None]:
        def made(was: Any) -> Any:
            def init(ema: Ema, pairs: Any, ranks: Any = ALONE) -> None:
                was(ema, pairs, ranks)
                self.ema = ema

            return init

        def note(was: Schedules, config: Config) -> Schedules:
            self.schedules = was
            return was

        def accumulate(was: Any) -> Any:
            def noting(called: Any, preprocess: Any, batches: Any, seed: int, state: Any,
                       context: Any) -> Any:  # fmt: skip
                self.step, self.pieces = state.step, len(batches)
                return was(called, preprocess, batches, seed, state, context)

            return noting

        with several(replaced(Ema, "__init__", made), scheduled(note),
                     replaced(loop, "accumulate", accumulate), *patches):  # fmt: skip
            yield

    def update(self, refused: Tensor | None = None) -> None:
        assert self.ema is not None and self.schedules is not None
        self.move(self.ema, self.schedules.momentum(self.step), refused)


def _nothing(was: Any) -> Any:
    return lambda *given, **named: None


def _before_step() -> Patch:
    held = _Held()

    def make(was: Any) -> Any:
        def take(optimizer: Any, refused: Tensor) -> None:
            held.update(refused)
            was(optimizer, refused)

        return take

    return held.listening(replaced(loop, "take_step", make), replaced(Ema, "update", _nothing))


def _in_every_piece() -> Patch:
    """As the public H-JEPA has it: in the step function, before backward."""
    held = _Held()

    def make(was: Any) -> Any:
        def forward(self: Any, inputs: Any, draw: Any) -> Any:
            output = was(self, inputs, draw)
            if self.training and held.ema is not None and torch.is_grad_enabled():
                held.update()
            return output

        return forward

    return held.listening(
        replaced(Ema, "update", _nothing),
        replaced(Jepa, "forward", make),
        replaced(Nepa, "forward", make),
    )


def _as_often_as_pieces() -> Patch:
    held = _Held()

    def make(was: Any) -> Any:
        def update(self: Ema, momentum: float, refused: Tensor | None = None) -> None:
            for _ in range(max(1, held.pieces)):
                was(self, momentum, refused)

        return update

    return held.listening(replaced(Ema, "update", make))


def _moved(change: Callable[[Any, Ema, float, Tensor | None], None]) -> Patch:
    def make(was: Any) -> Any:
        def update(self: Ema, momentum: float, refused: Tensor | None = None) -> None:
            change(was, self, momentum, refused)

        return update

    return replaced(Ema, "update", make)


def _old_weights() -> Patch:
    """The right place, and the weights of the step before: a copy taken too early."""

    def change(was: Any, self: Any, momentum: float, refused: Tensor | None) -> None:
        now = [student.clone() for student in self._students]
        live, self._students = self._students, getattr(self, "_before", now)
        was(self, momentum, refused)
        self._students, self._before = live, now

    return _moved(change)


def _starts_late() -> Patch:
    """ema-pytorch waits for 100 steps."""

    def change(was: Any, self: Any, momentum: float, refused: Tensor | None) -> None:
        self._count = getattr(self, "_count", 0) + 1
        if self._count > 3:
            was(self, momentum, refused)

    return _moved(change)


def _copies_first() -> Patch:
    def change(was: Any, self: Any, momentum: float, refused: Tensor | None) -> None:
        was(self, momentum if hasattr(self, "_begun") else 0.0, refused)
        self._begun = True

    return _moved(change)


# How far


def _cosine() -> Patch:
    def make(was: Any) -> Any:
        def at(self: EmaSchedule, step: int) -> float:
            linear = (was(self, step) - self.base) / ((self.final - self.base) or 1.0)
            gone = (1 - math.cos(math.pi * linear)) / 2
            return self.base + (self.final - self.base) * gone

        return at

    return replaced(EmaSchedule, "__call__", make)


def _without_warmup() -> Patch:
    def make(was: Any) -> Any:
        return lambda self, step: was(replace(self, warmup_epochs=0), step)

    return replaced(EmaSchedule, "__call__", make)


def _unclamped() -> Patch:
    def make(was: Any) -> Any:
        def at(self: EmaSchedule, step: int) -> float:
            warmup = self.warmup_epochs * self.steps_per_epoch
            moving = max(1, self.epochs * self.steps_per_epoch - warmup)
            return self.base + (self.final - self.base) * max(0, step - warmup) / moving

        return at

    return replaced(EmaSchedule, "__call__", make)


def _final_too_soon() -> Patch:
    def make(was: Any) -> Any:
        def at(self: EmaSchedule, step: int) -> float:
            return float(was(replace(self, epochs=max(1, self.epochs // 2)), step))

        return at

    return replaced(EmaSchedule, "__call__", make)


def _restarts() -> Patch:
    begun = [0]

    def make(was: Any) -> Any:
        def resume(*given: Any) -> Any:
            state = was(*given)
            begun[0] = state.step
            return state

        return resume

    return several(
        replaced(checkpoint, "resume", make),
        _momentum(lambda was, config, step: was.momentum(step - begun[0])),
    )


# What


def _built(change: Callable[[Any], None]) -> Patch:
    def make(was: Any) -> Any:
        def init(self: Ema, pairs: Any, ranks: Any = ALONE) -> None:
            was(self, pairs, ranks)
            change(self)

        return init

    return replaced(Ema, "__init__", make)


def _copies_of_students(self: Any) -> None:
    self._students = [student.clone() for student in self._students]


def _last_left_out(self: Any) -> None:
    self._students, self._teachers = self._students[:-1], self._teachers[:-1]


def _no_buffers(self: Any) -> None:
    self._buffers = []


def _buffers_back(self: Any) -> None:
    self._buffers = [(theirs, ours) for ours, theirs in self._buffers]


def _in_bf16() -> Patch:
    def change(was: Any, self: Any, momentum: float, refused: Tensor | None) -> None:
        was(self, momentum, refused)
        for teacher in self._teachers:
            teacher.copy_(teacher.to(torch.bfloat16))

    return _moved(change)


def _teachers(change: Callable[[Any], None], method: str) -> Patch:
    """After ``method`` of an objective with a teacher."""

    def make(was: Any) -> Any:
        def then(self: Any, *given: Any, **named: Any) -> None:
            was(self, *given, **named)
            if self.teacher is not None:
                change(self)

        return then

    return several(replaced(Jepa, method, make), replaced(Nepa, method, make))


def _own_draw(self: Any) -> None:
    self.teacher.initialise(12345)


def _trains(self: Any) -> None:
    self.teacher.requires_grad_(True)


def _in_optimizer() -> Patch:
    return replaced(Objective, "trainable", lambda was: lambda self: dict(self.named_parameters()))


def _gets_gradient() -> Patch:
    """Targets without ``no_grad``, and a teacher that is not frozen: both are needed."""

    def make(was: Any) -> Any:
        def targets(self: Jepa, values: Tensor, valid: Tensor | None) -> Any:
            if self.teacher is None:
                return was(self, values, valid)
            whole = self.teacher(values, valid)
            return [self._normalised(level) for level in whole], whole

        return targets

    return several(_teachers(_trains, "__init__"), replaced(Jepa, "targets", make))


def _drops_paths() -> Patch:
    """The teacher in training mode: it gets the draw that the student gets."""
    draws: list[Draw | None] = [None]

    def energy(was: Any) -> Any:
        def noting(self: Jepa, values: Any, valid: Any, masks: Any, draw: Draw | None) -> Any:
            draws[0] = draw
            return was(self, values, valid, masks, draw)

        return noting

    def make(was: Any) -> Any:
        def targets(self: Jepa, values: Tensor, valid: Tensor | None) -> Any:
            if self.teacher is None:
                return was(self, values, valid)
            with torch.no_grad():
                whole = self.teacher(values, valid, None, draws[0])
                return [self._normalised(level) for level in whole], whole

        return targets

    return several(replaced(Jepa, "energy", energy), replaced(Jepa, "targets", make))


def _jepa(subject: Subject) -> bool:
    return averages(subject) and subject.config.objective.kind == "jepa"


def _cut(subject: Subject) -> bool:
    return averages(subject) and accumulates(subject)


FAULTS: tuple[Fault, ...] = (
    Fault("ema.before-step", "The average is taken before the optimizer's step.",
          f"{HJEPA}, D1", _before_step, ("ema.after-step", "ema.formula", "loop.order"), averages),
    Fault("ema.old-weights", "The average is taken after the step, of the weights of before.",
          CLASSIC, _old_weights, ("ema.after-step", "ema.formula"), averages),
    Fault("ema.in-every-piece", "The teacher moves in every micro-batch, before backward.",
          f"{HJEPA}, D2", _in_every_piece, ("ema.once-per-step", "ema.after-step", "loop.order"),
          _cut),
    Fault("ema.as-often-as-pieces", "After the step the teacher moves once for each micro-batch: "
          "by momentum to the power of k.", f"{HJEPA}, D2", _as_often_as_pieces,
          ("ema.linear", "ema.formula", "ema.accumulation"), _cut),
    Fault("ema.index-in-pieces", "The momentum's index counts micro-batches.", CLASSIC,
          lambda: _momentum(lambda w, config, n: w.momentum(n * config.train.micro_batches)),
          ("ema.linear",), _cut),
    Fault("ema.index-one-ahead", "The first update uses the second momentum.", CLASSIC,
          lambda: _momentum(lambda was, config, step: was.momentum(step + 1)),
          ("ema.linear", "ema.warm-up"), averages),
    Fault("ema.cosine", "The momentum follows a cosine.", "BYOL's schedule, in I-JEPA's place",
          _cosine, ("ema.linear",), averages),
    Fault("ema.no-warm-up", "The momentum moves from the first step on.", CLASSIC,
          _without_warmup, ("ema.warm-up", "ema.linear"), averages),
    Fault("ema.final-too-soon", "The momentum is at its end after half of the run.",
          f"{HJEPA}, D4: frozen for ever", _final_too_soon, ("ema.linear",), averages),
    Fault("ema.beyond-its-end", "The momentum goes on rising beyond the last step.", CLASSIC,
          _unclamped, ("ema.stays-at-the-end",), averages),
    Fault("ema.restarts", "After a resume the momentum begins at its first value.",
          f"{HJEPA}, D6", _restarts, ("ema.index-survives-resume", "resume.bit-exact"), averages),
    Fault("ema.swapped", "m and 1 − m are exchanged.", CLASSIC,
          lambda: _moved(lambda was, ema, m, refused: was(ema, 1 - m, refused)),
          ("ema.linear", "ema.recipe-momentum", "ema.formula"), averages),
    Fault("ema.constant", "The momentum stays at its first value.", CLASSIC,
          lambda: _momentum(lambda was, config, step: was.momentum(0)), ("ema.linear",), averages),
    Fault("ema.copies-first", "The first update copies the student.",
          "torch.optim.swa_utils.AveragedModel", _copies_first,
          ("ema.linear", "ema.recipe-momentum"), averages),
    Fault("ema.starts-late", "The average waits for some steps.", "ema-pytorch", _starts_late,
          ("ema.once-per-step", "ema.linear"), averages),
    Fault("ema.of-a-copy", "The average holds copies of the student's weights, which stand still.",
          CLASSIC, lambda: _built(_copies_of_students), ("ema.every-weight", "ema.linear"),
          averages),
    Fault("ema.last-left-out", "The last weight is never averaged.", CLASSIC,
          lambda: _built(_last_left_out), ("ema.every-weight", "ema.formula"), averages),
    Fault("ema.off", "The teacher stays at its initial weights.", f"{HJEPA}, D3",
          lambda: replaced(Ema, "update", _nothing), ("ema.once-per-step", "ema.every-weight"),
          averages),
    Fault("ema.buffers-stay", "Buffers are not copied.", CLASSIC, lambda: _built(_no_buffers),
          ("ema.buffers",)),
    Fault("ema.buffers-back", "Buffers are copied from the teacher to the student.", CLASSIC,
          lambda: _built(_buffers_back), ("ema.buffers",)),
    Fault("ema.bf16", "The average is rounded to bf16, in which a small step is no step.",
          CLASSIC, _in_bf16, ("ema.float32", "ema.formula"), averages),
    Fault("ema.moves-when-refused", "The teacher moves although the step was refused.",
          "I-JEPA's code does", lambda: _moved(lambda was, ema, m, refused: was(ema, m, None)),
          ("ema.refused", "loop.order"), averages),
    Fault("ema.other-start", "Teacher and student begin with weights of their own.", CLASSIC,
          lambda: _teachers(_own_draw, "initialise"), ("ema.equal-at-start",), averages),
    Fault("ema.trains", "The teacher requires a gradient, and so gets into the optimizer.",
          CLASSIC, lambda: _teachers(_trains, "__init__"), ("ema.frozen", "ema.absent"), averages),
    Fault("ema.gets-gradient", "The targets carry a gradient back into the teacher.", CLASSIC,
          _gets_gradient, ("ema.frozen",), _jepa),
    Fault("ema.in-optimizer", "The optimizer is given all parameters, the teacher's too.", CLASSIC,
          _in_optimizer, ("ema.absent", "loop.every-parameter-once"), averages),
    Fault("ema.drops-paths", "The teacher is in training mode: drop-path in the targets.",
          f"{HJEPA}, D18", _drops_paths, ("ema.deterministic",), _jepa),
)  # fmt: skip
