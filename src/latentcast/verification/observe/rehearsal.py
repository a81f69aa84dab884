"""A run of the engine's loop, watched attempt by attempt, that meets what a long run meets.

Batches that are not finite, a stop in the middle, a resume with everything built anew. As in
:mod:`latentcast.verification.observe.twin`, what is recorded comes from hooks and snapshots.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

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
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.schedules import Schedules
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.build import build
from latentcast.objectives.jepa import JepaConfig
from latentcast.randomness import Draw
from latentcast.verification.observe.twin import Subject, Weights

POISONED = 2
"""The attempt of a rehearsal whose batch is not finite: the third."""
STEPS = 6
EARLIER, LATER = 2, 4
"""Steps with a checkpoint, one from before the attempt that did not count and one from after it."""
REVEALING: dict[str, Any] = {
    "machine.device": "cpu", "train.steps": STEPS, "train.checkpoint_every": 2,
    "train.keep_checkpoints": 9,
    "train.batch_size": 7, "optimizer.warmup_steps": 2, "optimizer.lr": 1e-3,
    "optimizer.weight_decay": 0.1, "optimizer.final_weight_decay": 0.3,
    "optimizer.clip_grad_norm": 1e6, "ema": {"base": 0.5, "final": 0.9, "warmup_steps": 2},
    "encoder.depth": 2, "encoder.drop_path": 0.2,  # of the first block it is 0
}  # fmt: skip
"""The twin, still less deep, with numbers that show what is done with them: a teacher that moves
half of the way, a decay that changes, pieces of unequal length."""


@dataclass(eq=False)
class Attempt:
    """One attempt at an optimizer step.

    Attributes:
        number: that the draws of its forward passes were keyed by.
        ids, inputs: of each micro-batch.
        events: forward, backward, optimizer, average, in the order in which they happened.
        stale: a gradient was left over when it began.
        before, after, end: weights before the optimizer moved, right after it, and when the next
            attempt began.
        gradients, rates, decays: as the optimizer saw them, by parameter.
        held: names of the optimizer's parameters, as often as it holds them.
        counted: the loop says that it counts.
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
    held: list[str] = field(default_factory=list)
    after: Weights = field(default_factory=dict)
    end: Weights = field(default_factory=dict)
    counted: bool = False
    loss: float = float("nan")
    norm: float = float("nan")


@dataclass
class Rehearsal:
    """What a run did, from where it began or was resumed."""

    config: Config
    objective: Objective
    state: State
    attempts: list[Attempt]
    folder: Path

    @property
    def counted(self) -> list[Attempt]:
        """The attempts that became steps."""
        return [attempt for attempt in self.attempts if attempt.counted]

    @property
    def checkpoints(self) -> list[Path]:
        return checkpoint.list_steps(self.folder / "checkpoints")


Run = TypeVar("Run")
_DONE: WeakKeyDictionary[Subject, dict[str, Any]] = WeakKeyDictionary()


def accumulates(subject: Subject) -> bool:
    """Whether batches may be cut: a regularizer needs the whole batch."""
    objective = subject.config.objective
    return not (isinstance(objective, JepaConfig) and objective.regularizer is not None)


def averages(subject: Subject) -> bool:
    """Whether there is an average of the weights."""
    return subject.config.ema is not None


def revealing(subject: Subject) -> Config:
    """The configuration of :func:`rehearsed`."""
    changes = dict(REVEALING)
    if not averages(subject):
        del changes["ema"]
    pieces = 3 if accumulates(subject) else 1
    return subject.config.updated({**changes, "train.micro_batches": pieces})


def rehearsed(subject: Subject) -> Rehearsal:
    """Six steps and one batch that is not finite; the same run when asked again."""
    return once(subject, "whole", lambda: rehearse(subject, revealing(subject), {POISONED}))


def resumed(subject: Subject, step: int) -> Rehearsal:
    """:func:`rehearsed`, gone on with from its checkpoint of a step, for two steps or the rest.

    Store, objective, optimizer and average are made anew, as another process would.
    """

    def again() -> Rehearsal:
        whole = rehearsed(subject)
        (kept,) = [one for one in whole.checkpoints if one.name.endswith(f"{step:08d}")]
        attempts = 3 if step == EARLIER else None  # one of them does not count
        config = revealing(subject)
        return rehearse(subject, config, {POISONED}, resume=kept, attempts=attempts)

    return once(subject, f"resumed from {step}", again)


def once(subject: Subject, name: str, run: Callable[[], Run]) -> Run:
    """What a run of that name gave, run when it is asked for first; what failed fails again."""
    runs = _DONE.setdefault(subject, {})
    if name not in runs:
        try:
            runs[name] = run()
        except Exception as problem:  # of a library that is broken
            runs[name] = _Failed(f"{type(problem).__name__}: {problem}")
    if isinstance(runs[name], _Failed):
        raise RuntimeError(runs[name].said)
    done: Run = runs[name]
    return done


@dataclass(frozen=True)
class _Failed:
    """In the place of what a run would have given."""

    said: str


def rehearse(
    subject: Subject,
    config: Config,
    poisoned: Collection[int] = (),
    *,
    resume: Path | None = None,
    attempts: int | None = None,
) -> Rehearsal:
    """Run the loop.

    Args:
        poisoned: attempts in whose batch one sample is NaN.
        resume: checkpoint to go on from.
        attempts: after which to stop, as if killed; None goes on to the end.
    """
    folder = subject.folder / "rehearsals" / str(len(list(subject.folder.glob("rehearsals/*"))))
    (folder / "checkpoints").mkdir(parents=True)
    if resume is not None:
        linked(resume, folder / "checkpoints" / resume.name)
    loader, preprocess = reading(Store.open(subject.store.path), config)
    objective = build(config)
    witness = _Witness(objective, attempts)

    def read(samples: Tensor, draw: Draw | None) -> Inputs:
        return spoiled(preprocess(samples, draw), draw, poisoned, config)

    # What is alive need not be looked at by the loop's collection: a run takes half the time.
    gc.freeze()
    state = State()
    with witness.listening(), contextlib.suppress(_Stop):
        state = loop.train(objective, read, loader.stream, config, folder, witness)
    witness.close()
    gc.unfreeze()
    return Rehearsal(config, objective, state, witness.attempts, folder)


def linked(folder: Path, to: Path) -> None:
    """A copy of a checkpoint that shares its files."""
    for file in (one for one in folder.rglob("*") if one.is_file()):
        copy = to / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.hardlink_to(file)


def spoiled(inputs: Inputs, draw: Draw | None, poisoned: Collection[int], config: Config) -> Inputs:
    """With the last sample of the whole batch NaN, if it is a batch to spoil."""
    if draw is None:
        return inputs
    last = [(attempt + 1) * config.train.batch_size - 1 for attempt in poisoned]
    bad = torch.isin(draw.ids, torch.tensor(last, dtype=torch.int64))
    values = inputs.values.clone()
    values[bad] = torch.nan
    return Inputs(values, inputs.valid)


def pairs(objective: Objective) -> list[tuple[str, str]]:
    """Names of the student's parameters and of the teacher's that average them, by their place."""
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    teachers = dict(objective.encoder("teacher").named_parameters())
    students = objective.encoder("student").named_parameters()
    return [(names[id(own)], names[id(teachers[place])]) for place, own in students]


class _Stop(Exception):
    """The process is killed here."""


class _Witness:
    """A watcher that writes down what hooks see."""

    def __init__(self, objective: Objective, most: int | None) -> None:
        self.objective, self.most, self.attempts = objective, most, list[Attempt]()
        self.names = {id(p): name for name, p in objective.named_parameters()}
        student, teacher = (objective.encoder(role) for role in ("student", "teacher"))
        self._teacher: nn.Module | None = None if teacher is student else teacher
        self._seen = self._average()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        averaged = () if self._teacher is None else tuple(map(id, self._teacher.parameters()))
        trained = [
            p for p in self.objective.parameters() if p.requires_grad and id(p) not in averaged
        ]
        handles = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
            self.objective.register_forward_pre_hook(self._begins),
            self.objective.register_forward_hook(self._forward),
            trained[-1].register_post_accumulate_grad_hook(self._backward),  # type: ignore[no-untyped-call]
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    # The loop's own

    def start(self, state: State, context: Context) -> None:
        self._seen = self._average()

    def waiting(self, batches: Iterator[loop.MicroBatches]) -> loop.MicroBatches:
        self.close()
        if len(self.attempts) == self.most:
            raise _Stop
        self.attempts.append(Attempt())
        return next(batches)

    def looks(self, step: int) -> bool:
        return True

    def updated(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None:
        now = self.attempts[-1]
        now.counted, now.loss, now.norm = True, float(output.loss), float(gradient_norm)

    def skipped(self, state: State, problem: str) -> None: ...

    def close(self) -> None:
        """The attempt in hand is over."""
        if self.attempts and not self.attempts[-1].end:
            self._notice()
            self.attempts[-1].end = self._weights()

    # Hooks

    def _begins(self, module: nn.Module, given: Any) -> None:
        self._notice()
        now = self.attempts[-1]
        if not now.events:
            gradients = (p.grad for p in self.objective.parameters() if p.grad is not None)
            now.stale = any(bool(gradient.any()) for gradient in gradients)

    def _forward(self, module: nn.Module, given: Any, output: Any) -> None:
        inputs, draw = given
        now = self.attempts[-1]
        now.events.append("forward")
        now.number = draw.step
        now.inputs.append(inputs)
        now.ids.append(draw.ids)

    def _backward(self, parameter: Tensor) -> None:
        self._notice()
        self.attempts[-1].events.append("backward")

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._notice()
        now = self.attempts[-1]
        now.before = self._weights()
        for group in optimizer.param_groups:
            for p in group["params"]:
                name = self.names.get(id(p), "?")
                now.held.append(name)
                now.rates[name], now.decays[name] = group["lr"], group["weight_decay"]
                if p.grad is not None:
                    now.gradients[name] = p.grad.detach().clone()

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        now = self.attempts[-1]
        now.events.append("optimizer")
        now.after = self._weights()

    def _notice(self) -> None:
        """Whether the teacher moved since the last event."""
        seen = self._average()
        if any(not torch.equal(a, b) for a, b in zip(seen, self._seen, strict=True)):
            self.attempts[-1].events.append("average")
            self._seen = seen

    def _average(self) -> list[Tensor]:
        if self._teacher is None:
            return []
        return [p.detach().clone() for p in self._teacher.parameters()]

    def _weights(self) -> Weights:
        return {n: t.detach().clone() for n, t in self.objective.state_dict().items()}


def swift(subject: Subject, name: str, changes: Mapping[str, Any], attempts: int) -> Rehearsal:
    """A few attempts of the rehearsal under other settings, in one piece."""
    config = revealing(subject).updated({"train.micro_batches": 1, **changes})
    return once(subject, name, lambda: rehearse(subject, config, attempts=attempts))
