"""The events of somebody's training, as PyTorch's own hooks report them.

Nothing of the code that trains is changed: in a :class:`Session` the hooks of all modules and
optimizers, and ``backward``, pass each event on to its observers.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from latentcast.verification.foreign.heap import Heap
from latentcast.verification.report.lines import Line


class Observer:
    """Looks at a training; each method is an event, and by default nothing is done."""

    name = "watch"
    session: Session

    def open(self) -> None:
        """The session begins."""

    def start(self, optimizer: Optimizer) -> None:
        """The gradients of the first step are there, and no weight has moved."""

    def enter(self, module: nn.Module, args: Any) -> None:
        """A forward pass begins."""

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A forward pass is over; ``output`` is None where it failed."""

    def backward(self, losses: Sequence[Tensor]) -> None:
        """A backward pass begins."""

    def before(self, optimizer: Optimizer, step: int) -> None:
        """An optimizer has its gradients, also those of its closure, and moves next."""

    def after(self, optimizer: Optimizer, step: int) -> None:
        """An optimizer has moved."""

    def end(self) -> None:
        """There are no more events."""

    def lines(self) -> Sequence[Line]:
        """What was measured."""
        return ()


class Session:
    """A context in which observers get each event; it ends itself after some steps.

    An observer that fails gets no more events, and ``failures`` says why: a probe must not end a
    training.

    Args:
        observers: in the order in which they get an event; more may be appended.
        steps: optimizer steps after which the session ends; None for never.
        seconds: time since the first step after which it ends with the step that is on its way.
        ended: is called then, from inside of the training.

    Attributes:
        taken: optimizer steps so far; several optimizers after one backward pass make one.
        heap: what the program held in memory at the first step.
        grad_mode: whether the pass that begins records a graph.
    """

    def __init__(
        self,
        observers: list[Observer],
        steps: int | None = None,
        seconds: float | None = None,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self.observers, self.steps, self.seconds, self.ended = observers, steps, seconds, ended
        self.taken, self.grad_mode, self.heap = 0, True, Heap()
        self.failures: dict[str, str] = {}
        self._begun: float | None = None
        self._new_pass = True
        self._stepping: list[int] = []  # optimizers, as one inside of another
        self._deaf = False
        self._over = False
        self._hooks = ExitStack()

    def __enter__(self) -> Session:
        for observer in self.observers:
            observer.session = self
        self._emit(lambda observer: observer.open())
        for handle in (
            register_optimizer_step_pre_hook(self._pre_step),
            register_optimizer_step_post_hook(self._post_step),
            register_module_forward_pre_hook(self._pre_forward),
            register_module_forward_hook(self._post_forward, with_kwargs=True, always_call=True),
        ):
            self._hooks.callback(handle.remove)
        backward = torch.autograd.backward

        @functools.wraps(backward)
        def reported(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            self._new_pass = True
            losses = [tensors] if isinstance(tensors, Tensor) else list(tensors)
            self._emit(lambda observer: observer.backward(losses))
            return backward(losses, *args, **kwargs)

        torch.autograd.backward = reported
        self._hooks.callback(setattr, torch.autograd, "backward", backward)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks away; what was measured stays."""
        self._hooks.close()
        if not self._over:
            self._over = True
            self._emit(lambda observer: observer.end())

    def _emit(self, event: Callable[[Observer], object]) -> None:
        if self._deaf or torch.compiler.is_compiling():
            return
        self._deaf = True  # a probe that calls a module makes no events
        try:
            for observer in list(self.observers):
                if observer.name in self.failures:
                    continue
                try:
                    with torch.no_grad():
                        event(observer)
                except Exception as problem:  # it is somebody else's training
                    self.failures[observer.name] = f"{type(problem).__name__}: {problem}"
        finally:
            self._deaf = False

    def _pre_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if id(optimizer) in self._stepping:  # its last step failed
            del self._stepping[self._stepping.index(id(optimizer)) :]
        self._stepping.append(id(optimizer))
        if len(self._stepping) > 1:
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._before(optimizer)
            return None

        @functools.wraps(closure)
        def evaluated(*arguments: Any, **keywords: Any) -> Any:
            loss = closure(*arguments, **keywords)
            self._before(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": evaluated}
        return (args[0], evaluated, *args[2:]), kwargs

    def _before(self, optimizer: Optimizer) -> None:
        if self._begun is None:
            self._begun, self.heap = time.monotonic(), Heap.now()
            self._emit(lambda observer: observer.start(optimizer))
        self._emit(lambda observer: observer.before(optimizer, self.taken))

    def _post_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._stepping.pop() != id(optimizer) or self._stepping or self._over:
            return
        self.taken += self._new_pass
        self._new_pass = False
        self._emit(lambda observer: observer.after(optimizer, self.taken - 1))

    def _pre_forward(self, module: nn.Module, args: Any) -> None:
        if self._deaf or torch.compiler.is_compiling():
            return
        if self._new_pass is False and self._finished():
            self.close()
            self.ended()
            return
        self._new_pass = True
        self.grad_mode = torch.is_grad_enabled()
        self._emit(lambda observer: observer.enter(module, args))

    def _post_forward(self, module: nn.Module, args: Any, *rest: Any) -> None:
        # Of a pass that failed, as one that activation checkpointing ends early, torch leaves out
        # the keywords.
        kwargs, output = rest if len(rest) == 2 else ({}, *rest)
        self._emit(lambda observer: observer.leave(module, args, kwargs, output))

    def _finished(self) -> bool:
        late = self.seconds is not None and time.monotonic() - (self._begun or 0) > self.seconds
        return late or (self.steps is not None and self.taken >= self.steps)
