"""Learning rates from step to step, beside the schedulers that set them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from latentcast.verification.evidence import at_most, equal
from latentcast.verification.foreign.events import Observer
from latentcast.verification.foreign.heap import Heap
from latentcast.verification.foreign.verified import Lines
from latentcast.verification.report.lines import Line

SOURCE = "PyTorch, 'How to adjust learning rate': optimizer.step() before scheduler.step()"


class Schedules(Observer):
    """What each step was taken with; of several optimizers, that with most weights."""

    name = "schedules"

    def __init__(self) -> None:
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

    def before(self, optimizer: Optimizer, step: int) -> None:
        size = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
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
        return lines

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
