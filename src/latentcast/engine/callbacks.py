"""What may listen to a training: the hooks of the loop, and several listeners as one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from latentcast.batch import Batch
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.schedules import Schedules

if TYPE_CHECKING:
    from latentcast.objectives.base import Output

MicroBatches = list[Batch]


class Callback:
    """Base of callbacks: every hook does nothing. Nothing a callback does changes the training, but
    for :meth:`enough`, which ends it.

    With several ranks each hook is called on every rank.
    """

    def on_train_start(self, state: State, context: Context) -> None:
        """Once, when it is known from which step the run goes on."""

    def on_batch_start(self, state: State, seconds: float) -> None:
        """The next batch has arrived, after so many seconds of waiting for it."""

    def wants(self, step: int) -> bool:
        """Whether :meth:`on_step_end` is to be called for this step; all ranks must agree.

        Reading a step waits for the device. By default every step, if the hook is overridden.
        """
        return type(self).on_step_end is not Callback.on_step_end

    def on_step_end(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None:
        """After a step that counts and that the callback :meth:`wants`."""

    def enough(self, step: int) -> bool:
        """Whether the training ends after this step, as after the last; all ranks must agree. Asked
        before the first step and after each :meth:`on_step_end`."""
        return False

    def on_skip(self, state: State, problem: str) -> None:
        """A batch was given up, for the reason given; weights and schedules stayed."""

    def on_train_end(self, state: State) -> None:
        """After the last step and its checkpoint, or when a signal asked to stop."""


class CallbackList(Callback):
    """Several callbacks as one, called in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)
        self._wanting: list[Callback] = []

    def next_batch(self, stream: Iterator[MicroBatches], state: State) -> MicroBatches:
        """The next micro-batches, with the time spent waiting for them measured."""
        start = time.perf_counter()
        batch = next(stream)
        self.on_batch_start(state, time.perf_counter() - start)
        return batch

    def on_train_start(self, state: State, context: Context) -> None:
        for callback in self.callbacks:
            callback.on_train_start(state, context)

    def on_batch_start(self, state: State, seconds: float) -> None:
        for callback in self.callbacks:
            callback.on_batch_start(state, seconds)

    def wants(self, step: int) -> bool:
        # Each is asked once for a step, so that one may count or look at a clock.
        self._wanting = [callback for callback in self.callbacks if callback.wants(step)]
        return bool(self._wanting)

    def on_step_end(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None:
        for callback in self._wanting:
            callback.on_step_end(state, output, gradient_norm, schedules, ema)

    def enough(self, step: int) -> bool:
        return any(callback.enough(step) for callback in self.callbacks)

    def on_skip(self, state: State, problem: str) -> None:
        for callback in self.callbacks:
            callback.on_skip(state, problem)

    def on_train_end(self, state: State) -> None:
        for callback in self.callbacks:
            callback.on_train_end(state)
