"""Where a run computes, in which precision, and when it is asked to stop."""

from __future__ import annotations

import ctypes
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType

import torch
from torch import Tensor

from latentcast.config import Config
from latentcast.engine.device import device_of
from latentcast.engine.ranks import ALONE, Ranks

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


class StopRequest:
    """Set by SIGTERM, SIGUSR1 or Ctrl-C; the loop saves and leaves after the step in hand."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

    def count(self, context: Context) -> Tensor:
        """How many ranks were asked; all must leave after the same step."""
        stopping = torch.full((), float(bool(self)), device=context.device)
        return context.ranks.summed(stopping)

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C leaves at once


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listen for SIGTERM, SIGUSR1 and SIGINT, and restore the former handlers afterwards."""
    request = StopRequest()
    former = {}
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        try:
            former[number] = signal.signal(number, request.handle)
        except ValueError:  # not the main thread: the host program owns the signals
            break
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
