"""Where a run computes, in which precision, and when it is asked to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from latentcast.config import Config
from latentcast.errors import LatentcastError


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Context:
    """Device and precision of a run."""

    device: torch.device
    precision: torch.dtype

    @classmethod
    def of(cls, config: Config) -> Context:
        name = config.machine.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as problem:
            raise LatentcastError(
                f"machine.device {name}: cannot be used ({problem}); try cpu"
            ) from None
        return cls(device, PRECISIONS[config.train.precision])

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 needs no loss scaling; losses and norms stay in float32 inside."""
        enabled = self.precision is not torch.float32
        return torch.autocast(self.device.type, dtype=self.precision, enabled=enabled)


class StopRequest:
    """Set by SIGTERM, SIGUSR1 or Ctrl-C; the loop saves and leaves after the step in hand."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

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
