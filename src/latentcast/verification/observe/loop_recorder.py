"""A run of the engine's loop, recorded attempt by attempt.

What is recorded comes from hooks and snapshots, not from what the loop says of itself; beside it
stands what the loop says (loss, norm, whether an attempt counted), to be held against them.
"""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.data.fit import reading
from latentcast.data.store import Store
from latentcast.engine import checkpoint, loop
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.optimizer import matrices_of
from latentcast.engine.schedules import Schedules
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.build import build
from latentcast.randomness import Draw
from latentcast.verification.observe.hooks import hooked

Weights = dict[str, Tensor]


@dataclass(eq=False)
class Attempt:
    """One attempt at an optimizer step.

    Attributes:
        number: that the draws of its forward passes were keyed by.
        ids, inputs: of each micro-batch.
        events: forward, backward, optimizer, average, in the order in which they happened.
        stale: a gradient was left over when it began.
        before, after, end: all parameters and buffers before the optimizer moved, right after it,
            and when the attempt was over, the average included.
        gradients, rates, decays: as the optimizer saw them, by parameter.
        in_optimizer: names of the optimizer's parameters, as often as it has them.
        counted, loss, norm: what the loop said.
    """

    number: int = -1
    ids: list[Tensor] = field(default_factory=list)
    inputs: list[Inputs] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    stale: bool = False
    before: Weights = field(default_factory=dict)
    gradients: Weights = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    decays: dict[str, float] = field(default_factory=dict)
    in_optimizer: list[str] = field(default_factory=list)
    after: Weights = field(default_factory=dict)
    end: Weights = field(default_factory=dict)
    counted: bool = False
    loss: float = float("nan")
    norm: float = float("nan")


@dataclass
class LoopRecord:
    """What a run did, from where it began or was resumed."""

    config: Config
    objective: Objective
    state: State
    attempts: list[Attempt]
    folder: Path

    @property
    def steps(self) -> list[Attempt]:
        """The attempts that counted."""
        return [attempt for attempt in self.attempts if attempt.counted]

    @property
    def matrices(self) -> frozenset[str]:
        """Names of the parameters that Muon moves; none without it."""
        return matrices_of(self.objective, self.config.optimizer)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """That of a step.

        Raises:
            LookupError: there is none.
        """
        for found in checkpoint.list_steps(self.checkpoints):
            if found.name.endswith(f"{step:08d}"):
                return found
        raise LookupError(f"there is no checkpoint of step {step}")


class Stop(Exception):
    """The process is killed here."""


class LoopRecorder(Callback):
    """A watcher of the loop that writes down each attempt.

    Args:
        objective: that the loop trains.
        most: attempts after which the run is killed; None goes on to the end.
        snapshots: copy weights, gradients and inputs. Without, only the loop's own numbers and the
            ids are kept: what a network of full size, or one that lies in shards, can afford.
    """

    def __init__(
        self, objective: Objective, most: int | None = None, snapshots: bool = True
    ) -> None:
        self.objective, self.most, self.snapshots = objective, most, snapshots
        self.attempts: list[Attempt] = []
        self.state = State()
        self.optimizer: Optimizer | None = None
        self._names = {id(p): name for name, p in objective.named_parameters()}
        student, teacher = (objective.encoder(role) for role in ("student", "teacher"))
        self._teacher: nn.Module | None = None if teacher is student else teacher
        self._average: list[Tensor] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Hooks are in place, and a kill ends the context."""
        handles = [
            register_optimizer_step_pre_hook(self._before_optimizer),
            register_optimizer_step_post_hook(self._after_optimizer),
            self.objective.register_forward_pre_hook(self._before_forward),
            self.objective.register_forward_hook(self._after_forward),
        ]
        if self.snapshots:
            averaged = set() if self._teacher is None else set(map(id, self._teacher.parameters()))
            trained = [
                p for p in self.objective.parameters() if p.requires_grad and id(p) not in averaged
            ]
            hook: Any = trained[-1].register_post_accumulate_grad_hook
            handles.append(hook(self._after_backward))
        with hooked(handles), contextlib.suppress(Stop):
            yield
        self._close()

    # What the loop tells

    def on_train_start(self, state: State, context: Context) -> None:
        self.state, self._average = state, self._averaged()

    def on_batch_start(self, state: State, seconds: float) -> None:
        self._close()
        if len(self.attempts) == self.most:
            raise Stop
        self.attempts.append(Attempt())

    def on_step_end(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None:
        attempt = self.attempts[-1]
        attempt.counted, attempt.loss = True, float(output.loss)
        attempt.norm = float(gradient_norm)

    # What hooks see

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        self._notice_average()
        attempt = self.attempts[-1]
        if self.snapshots and not attempt.events:
            gradients = (p.grad for p in self.objective.parameters() if p.grad is not None)
            attempt.stale = any(bool(gradient.any()) for gradient in gradients)

    def _after_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        inputs, draw = args
        attempt = self.attempts[-1]
        attempt.events.append("forward")
        attempt.number = draw.step
        attempt.ids.append(draw.ids)
        if self.snapshots:
            attempt.inputs.append(inputs)

    def _after_backward(self, parameter: Tensor) -> None:
        self._notice_average()
        self.attempts[-1].events.append("backward")

    def _before_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.optimizer = optimizer
        self._notice_average()
        if not self.snapshots:
            return
        attempt = self.attempts[-1]
        attempt.before = self._weights()
        for group in optimizer.param_groups:
            for p in group["params"]:
                name = self._names.get(id(p), "?")
                attempt.in_optimizer.append(name)
                attempt.rates[name], attempt.decays[name] = group["lr"], group["weight_decay"]
                if p.grad is not None:
                    attempt.gradients[name] = p.grad.detach().clone()

    def _after_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.attempts[-1].events.append("optimizer")
        if self.snapshots:
            self.attempts[-1].after = self._weights()

    def _close(self) -> None:
        """The attempt in hand is over."""
        if self.snapshots and self.attempts and not self.attempts[-1].end:
            self._notice_average()
            self.attempts[-1].end = self._weights()

    def _notice_average(self) -> None:
        """Whether the teacher moved since the last event."""
        average = self._averaged()
        if any(not torch.equal(a, b) for a, b in zip(average, self._average, strict=True)):
            self.attempts[-1].events.append("average")
            self._average = average

    def _averaged(self) -> list[Tensor]:
        if self._teacher is None or not self.snapshots:
            return []
        return [p.detach().clone() for p in self._teacher.parameters()]

    def _weights(self) -> Weights:
        return {n: t.detach().clone() for n, t in self.objective.state_dict().items()}


def record_loop(
    store: Store,
    config: Config,
    folder: Path,
    poisoned: Collection[int] = (),
    *,
    resume: Path | None = None,
    most: int | None = None,
) -> LoopRecord:
    """Train by the engine's loop, with everything built anew, and record it.

    Args:
        folder: of the run.
        poisoned: attempts in whose batch one sample is NaN.
        resume: checkpoint to go on from.
        most: attempts after which to stop, as if killed; None goes on to the end.
    """
    (folder / "checkpoints").mkdir(parents=True)
    if resume is not None:
        _link(resume, folder / "checkpoints" / resume.name)
    loader, preprocess = reading(store, config)
    objective = build(config)
    recorder = LoopRecorder(objective, most)

    def read(samples: Tensor, draw: Draw | None) -> Inputs:
        return spoiled(preprocess(samples, draw), draw, poisoned, config)

    # What is alive need not be looked at by the loop's collection: a run takes half the time.
    gc.freeze()
    state = State()
    try:
        with recorder.recording(), contextlib.redirect_stdout(io.StringIO()):
            state = loop.train(objective, read, loader.stream, config, folder, [recorder])
    finally:
        gc.unfreeze()
    return LoopRecord(config, objective, state, recorder.attempts, folder)


def _link(folder: Path, to: Path) -> None:
    """A copy of a checkpoint that shares its files."""
    for file in (entry for entry in folder.rglob("*") if entry.is_file()):
        copy = to / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.hardlink_to(file)


def spoiled(inputs: Inputs, draw: Draw | None, poisoned: Collection[int], config: Config) -> Inputs:
    """With the last sample of the whole batch NaN, if it is an attempt to spoil."""
    if draw is None:
        return inputs
    last = [(attempt + 1) * config.train.batch_size - 1 for attempt in poisoned]
    bad = torch.isin(draw.ids, torch.tensor(last, dtype=torch.int64))
    values = inputs.values.clone()
    values[bad] = torch.nan
    return Inputs(values, inputs.valid)


def teacher_pairs(objective: Objective) -> list[tuple[str, str]]:
    """Names of the student's parameters and of the teacher's that average them, by their place."""
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    teachers = dict(objective.encoder("teacher").named_parameters())
    students = objective.encoder("student").named_parameters()
    return [(names[id(own)], names[id(teachers[place])]) for place, own in students]
