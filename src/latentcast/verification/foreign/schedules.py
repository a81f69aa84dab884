"""Learning rates from step to step beside the schedulers that set them; schedules to their end."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from latentcast.verification.evidence import at_most, equal
from latentcast.verification.foreign.events import Observer
from latentcast.verification.foreign.heap import Heap, listed
from latentcast.verification.foreign.verified import Lines, Verified
from latentcast.verification.report.lines import Line

SOURCE = "PyTorch, 'How to adjust learning rate': optimizer.step() before scheduler.step()"
RISEN = 0.05
"""Of the range of the rates since the highest, by which the last may be above the lowest."""
NEAR = 1e-6
"""Difference of a schedule from the declared one, over the range of that."""


class Schedules(Observer):
    """What each step was taken with; of several optimizers, that with most weights.

    Args:
        total: optimizer steps of the training, to the last of which its scheduler is followed.
    """

    name = "schedules"

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self.rates = list[float]()
        self.decays = list[float]()
        self.counts = list[int]()
        """``last_epoch`` of the scheduler at each step."""
        self.state_steps = 0
        """That the optimizer had taken before the first one that was watched."""
        self.resumed = False
        self._size = 0
        self._optimizer: Optimizer | None = None
        self._scheduler: Any = None
        self._step = -1
        self._copy: Any = None

    def before(self, optimizer: Optimizer, step: int) -> None:
        size = sum(p.numel() for p in listed(optimizer))
        if size > self._size:
            self._optimizer, self._size = optimizer, size
            self.resumed, self.state_steps = bool(optimizer.state), _steps_of(optimizer)
            self._scheduler = _scheduler_of(self.session.heap, optimizer)
            self.rates, self.decays, self.counts = [], [], []
        if optimizer is not self._optimizer or step == self._step:
            return
        self._step = step
        groups = optimizer.param_groups
        self.rates.append(max(float(group.get("lr", 0.0)) for group in groups))
        self.decays.append(max(float(group.get("weight_decay", 0.0)) for group in groups))
        if self._scheduler is not None:
            self.counts.append(int(self._scheduler.last_epoch))

    def end(self) -> None:
        if self._scheduler is not None and self.total is not None:
            self._copy = _copied(self._scheduler)

    def lines(self) -> Sequence[Line]:
        lines = Lines(SOURCE)
        if not self.rates:
            return lines
        lines.note(
            "schedule.rates", "Learning rate and weight decay of the steps.",
            first=self.rates[0], last=self.rates[-1], weight_decay_first=self.decays[0],
            weight_decay_last=self.decays[-1],
        )  # fmt: skip
        self._scheduled(lines)
        self._first_step(lines)
        self._to_the_end(lines)
        return lines

    def _to_the_end(self, lines: Lines) -> None:
        """A copy of the scheduler, moved on as often as the training will move it."""
        steps = len(self.counts) - 1
        if self._copy is None or self.total is None or steps < 1:
            return
        name, sentence = (
            "schedule.end",
            "At its last step the learning rate is the lowest since its highest.",
        )
        moves = (self.counts[-1] - self.counts[0]) // steps
        if not moves:
            reason = f"the scheduler did not move in {steps} steps"
            lines.unmeasured(name, sentence, reason)
            return
        rates, problem = list(self.rates), ""
        ahead = self.total * moves - self._copy.last_epoch - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that of a scheduler without its optimizer
            for move in range(ahead):
                try:
                    self._copy.step()
                except Exception as failure:
                    problem = (
                        f"{type(failure).__name__} at step {self.total - (ahead - move) // moves}"
                    )
                    break
                rates.append(max(float(g["lr"]) for g in self._copy.optimizer.param_groups))
        top = rates.index(max(rates))
        lowest = min(rates[top:])
        above = (rates[-1] - lowest) / max(rates[top] - lowest, 1e-300)
        beside = {"problem": problem} if problem else {}
        lines.add(name, sentence, equal("steps that fail", int(bool(problem)), 0),
                  at_most("above it, over its range", above, RISEN), highest=rates[top],
                  lowest=lowest, last=rates[-1], steps=self.total, **beside)  # fmt: skip

    def _scheduled(self, lines: Lines) -> None:
        if len(self.counts) < 3:
            return
        passed = self.counts[-1] - self.counts[0]
        steps = len(self.counts) - 1
        rate, ranks = passed / steps, int(os.environ.get("WORLD_SIZE", 1))
        # Accelerate steps its scheduler once for each rank, on purpose.
        most = ranks if rate == ranks else 1
        lines.add("schedule.once", "The scheduler moves at most once for each optimizer step.",
                  at_most("scheduler steps for each", rate, most))  # fmt: skip
        if self.state_steps:
            lines.add(
                "resume.schedule",
                "A training that goes on has its schedule where its optimizer is.",
                equal("scheduler at its start", self.counts[0] == 0, False),
                optimizer_steps=self.state_steps, scheduler_steps=self.counts[0],
            )  # fmt: skip
        elif rate == 1:
            lines.add(
                "schedule.order",
                "The first step has the schedule's first value, the second one its second.",
                equal("at the first step", self.counts[0], 0),
                equal("at the second step", self.counts[1], 1),
            )

    def _first_step(self, lines: Lines) -> None:
        """On a schedule that moves with each step the first value is on the line of the next."""
        if len(self.rates) < 4 or self.resumed:
            return
        r = self.rates
        moves = [b - a for a, b in pairwise(r[1:5])]
        if not moves or min(map(abs, moves)) == 0.0:
            return
        if r[0] < r[1] > r[2]:  # a warm-up of one step has a line of its own
            return
        gap = abs(r[0] - (2 * r[1] - r[2])) / max(map(abs, moves))
        lines.add(
            "schedule.first-step",
            "The first learning rate is on the line of the next ones.",
            at_most("off by steps of the schedule", gap, 0.5),
            first=r[0], second=r[1], third=r[2],
        )  # fmt: skip


def _steps_of(optimizer: Optimizer) -> int:
    counts = [state["step"] for state in optimizer.state.values() if "step" in state]
    return int(max(map(float, counts))) if counts else 0


def _scheduler_of(heap: Heap, optimizer: Optimizer) -> LRScheduler | None:
    """The outermost one that is alive."""
    alive = heap.schedulers
    inner = {id(part) for one in alive for part in getattr(one, "_schedulers", ())}
    own = [one for one in alive if getattr(one, "optimizer", None) is optimizer]
    return next((one for one in own if id(one) not in inner), None)


def _copied(scheduler: LRScheduler) -> LRScheduler | None:
    """With an optimizer of no weights, whose groups have the same settings."""
    own = scheduler.optimizer
    other = SGD([{"params": [nn.Parameter(torch.zeros(0))]} for _ in own.param_groups], lr=0.0)
    for group, theirs in zip(other.param_groups, own.param_groups, strict=True):
        group.update({key: value for key, value in theirs.items() if key != "params"})
    try:
        return copy.deepcopy(scheduler, {id(own): other})
    except Exception:  # one with what cannot be copied
        return None


def verify_schedule(
    schedule: Callable[[int], float], declared: Callable[[int], float], steps: int
) -> Verified:
    """Hold a schedule against the declared one, at each step to its end and beyond it.

    For learning rate, weight decay and momentum alike.

    Args:
        schedule: the value with which the optimizer's step from 0 is taken, as the code has it.
        declared: what it is meant to be.
        steps: of the training; a tenth of it more is looked at, where the value must stay.
    """
    lines = Lines("declared by the caller")
    values, problem = list[float](), ""
    for step in range(steps):
        try:
            values.append(float(schedule(step)))
        except Exception as failure:
            values.append(math.nan)
            problem = problem or f"{type(failure).__name__}: {failure}"
    missing = [step for step, value in enumerate(values) if not math.isfinite(value)]
    beside = {"problem": problem} if problem else {}
    lines.add("schedule.finite", "It has a finite value at each step.",
              equal("steps without", len(missing), 0), steps=steps, **beside)  # fmt: skip
    right = [declared(step) for step in range(steps)]
    size = max(max(right) - min(right), NEAR * max(map(abs, right)), 1e-300)
    gaps = [abs(a - b) / size if math.isfinite(a) else math.inf
            for a, b in zip(values, right, strict=True)]  # fmt: skip
    step = max(range(steps), key=lambda n: gaps[n])
    lines.add("schedule.declared", "At each step it has the declared value.",
              at_most("difference over its range", gaps[step], NEAR), step=step,
              value=values[step], declared=right[step])  # fmt: skip
    _beyond(lines, schedule, steps, values[-1], size)
    return Verified(tuple(lines))


def _beyond(
    lines: Lines, schedule: Callable[[int], float], steps: int, last: float, size: float
) -> None:
    """One that ends with an error says so; one that goes on must not move on."""
    name, sentence = "schedule.stays", "Beyond its end it stays near its last value."
    try:
        later = [float(schedule(n)) for n in range(steps, steps + max(1, steps // 10))]
    except Exception as failure:
        lines.unmeasured(name, sentence, f"it ends: {type(failure).__name__}: {failure}")
        return
    gap = max(abs(value - last) for value in later) / size
    lines.add(name, sentence, at_most("difference over its range", gap, max(NEAR, 2 / steps)))
