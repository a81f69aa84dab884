"""Where a run computes, in which precision, and when it is asked to stop."""

from __future__ import annotations

import ctypes
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Final

import torch
from torch import Tensor, nn

from latentcast.config import Config
from latentcast.engine.device import device_of
from latentcast.engine.ranks import ALONE, Ranks
from latentcast.nn.base import Unit

STOPS: Final[dict[signal.Signals, Callable[..., object] | signal.Handlers]] = {
    getattr(signal, name): signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT")
    if hasattr(signal, name)
}
"""What asks a training to stop, and what the same signal does when it comes once more. Windows has
two of the four, and no timer: there a second signal ends the process from the first on."""
TIMER: Final = hasattr(signal, "setitimer")
ECHO = 1.0
"""Seconds in which the same request may come twice: torchrun and ``timeout`` pass a signal on that
has reached the whole group."""
PATIENCE = 10.0
"""Seconds that a step may still take after the request."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Context:
    """Where a run computes: device, precision, and the processes it is spread over.

    Attributes:
        device: of this process.
        precision: of the matrix products.
        ranks: the processes of the run.
        ahead: whether the host queues the next step before it learns of this one. A device that
            works on its own stays busy; a CPU has nothing to gain, and the loss scale of fp16
            has to be known before the next step.
    """

    device: torch.device
    precision: torch.dtype
    ranks: Ranks = ALONE
    ahead: bool = False

    @classmethod
    def of(cls, config: Config, ranks: Ranks = ALONE) -> Context:
        """As configured.

        Raises:
            LatentcastError: there is no such device.
        """
        device = device_of(config.machine.device, "machine.device")
        if device == torch.device("cuda") and ranks.size > 1:
            device = torch.device("cuda", ranks.local)
        if device.type == "cpu":
            keep_freed_memory()
        precision = PRECISIONS[config.train.precision]
        ahead = device.type != "cpu" and precision is not torch.float16
        return cls(device, precision, ranks, ahead)

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products in the run's precision; losses and norms stay in float32 inside."""
        enabled = self.precision is not torch.float32
        return torch.autocast(self.device.type, dtype=self.precision, enabled=enabled)


def keep_freed_memory() -> None:
    """Ask glibc not to hand the activations of each step back to the kernel.

    By default every large tensor is a mapping of its own: freed with the step, mapped and zeroed
    page by page in the next. A JEPA step spent a sixth to a fifth of its time on that
    (benchmarks/jepa_step.py). Where there is no glibc nothing happens.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
    except (OSError, AttributeError, TypeError):
        pass


@contextmanager
def collected_by_hand() -> Iterator[Callable[[], object]]:
    """Garbage is collected when the given function is called, and at no other moment.

    Python looks for cycles whenever enough objects were made, on each rank at another step, and
    all ranks wait for the slowest. What exists already is set aside: it is not looked at again.
    """
    gc.collect()
    gc.freeze()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield partial(gc.collect, 1)
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


class StepDropped(BaseException):
    """Raised in a step that lasts longer than whoever asked to stop will wait."""


class StopRequest:
    """Set by a signal; the loop saves and leaves after the step in hand.

    A step that goes on for another :data:`PATIENCE` seconds is dropped, and the last complete one
    is saved; not on several ranks, which must leave after the same step. A second signal ends the
    process at once.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.dropped = False
        self._since, self._in_step = 0.0, False

    def __bool__(self) -> bool:
        return self.name is not None

    def count(self, context: Context) -> Tensor:
        """How many ranks were asked; all must leave after the same step."""
        stopping = torch.full((), float(bool(self)), device=context.device)
        return context.ranks.summed(stopping)

    @contextmanager
    def within_step(self, context: Context) -> Iterator[None]:
        """Here nothing that is saved changes: it may be left at any operation."""
        try:
            try:
                self._in_step = context.ranks.size == 1
                yield
            finally:
                self._in_step = False
        except StepDropped:
            self.dropped = True

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.name is None:
            self.name, self._since = signal.Signals(number).name, time.monotonic()
            if TIMER:
                signal.setitimer(signal.ITIMER_REAL, ECHO, 0.5)
            else:
                self.remind(number, frame)

    def remind(self, number: int, frame: FrameType | None) -> None:
        """Called by the timer, from the first signal on."""
        for name, default in STOPS.items():
            if signal.getsignal(name) == self.handle:
                signal.signal(name, default)
        if self._in_step and time.monotonic() - self._since > PATIENCE:
            raise StepDropped


@contextmanager
def stop_requests(model: nn.Module) -> Iterator[StopRequest]:
    """Listen for the signals that stop a training, and restore the former handlers afterwards.

    One that is ignored already (``nohup``) stays so.
    """
    request, former, hooks = StopRequest(), {}, []
    if threading.current_thread() is threading.main_thread():  # else the host owns the signals
        acts = dict.fromkeys(STOPS, request.handle)
        if TIMER:
            acts[signal.SIGALRM] = request.remind
        for number, act in acts.items():
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                former[number] = handler or signal.SIG_DFL
                signal.signal(number, act)
        # Python handles a signal when it runs a line of its own, and a backward pass has none. One
        # for each block: one for each parameter would cost a small network a percent.
        units = (unit for unit in model.modules() if isinstance(unit, Unit))
        first = (next((p for p in unit.parameters() if p.requires_grad), None) for unit in units)
        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _: None)  # type: ignore[no-untyped-call]
            for parameter in first
            if parameter is not None
        ]
    try:
        yield request
    finally:
        if former and TIMER:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in former.items():
            signal.signal(number, handler)
        for hook in hooks:
            hook.remove()
