"""A teacher's forward passes: in which mode, and whether they draw anything."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentcast.verification.evidence import at_most, equal
from latentcast.verification.foreign.verified import Lines

AGAIN = 1e-3
"""Relative difference of two passes of a teacher that draws nothing."""
DROPPING = ("Drop", "StochasticDepth")
NORMALISING = ("BatchNorm", "InstanceNorm")
"""In the class names of modules that compute something else in training."""


class Passes:
    """The passes of a teacher; the first of each of its entries is repeated.

    Attributes:
        dropping, normalising: forward passes of such modules in training mode.
        entries: the modules by which the training calls it, most often itself.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.parts = {id(m) for m in teacher.modules()}
        self.dropping = self.normalising = 0
        self.entries = set[int]()
        self._again: float | None = None
        self._why_not = "the teacher was not called"
        self._versions: list[int] = []

    def enter(self, module: nn.Module, args: Any, outermost: bool) -> None:
        """A module of the teacher is called."""
        if module.training:
            name = type(module).__name__
            self.dropping += bool(drop_rate(module)) and any(part in name for part in DROPPING)
            self.normalising += any(part in name for part in NORMALISING)
        if outermost:
            self._versions = [t._version for t in tensors_in(args)]

    def leave_entry(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """The outermost module of a pass has given its output."""
        if id(module) not in self.entries and output is not None:
            self.entries.add(id(module))
            self._repeat(module, args, kwargs, output)

    def _repeat(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Once more with other random numbers, and everything it changed put back."""
        parts = list(module.modules())
        if any(m._forward_hooks or m._forward_pre_hooks for m in parts):
            self._why_not = "the teacher has hooks of its own"
        elif self._versions != [t._version for t in tensors_in(args)]:
            self._why_not = "the teacher changes its input"
        else:
            values = [(b, b.detach().clone()) for m in parts for b in m._buffers.values()
                      if b is not None]  # fmt: skip
            python, numpy = random.getstate(), np.random.get_state()
            ready = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
            gpus = torch.cuda.device_count() if ready else 0
            try:
                with torch.random.fork_rng(range(gpus)):
                    torch.default_generator.manual_seed(1)
                    if gpus:
                        torch.cuda.manual_seed_all(1)
                    other = module(*args, **kwargs)
            except Exception as problem:
                self._why_not = f"a second call fails: {problem}"
                return
            finally:
                random.setstate(python)
                np.random.set_state(numpy)
                for buffer, value in values:
                    buffer.data.copy_(value)  # .data: autograd counts no change
            both = zip(tensors_in(output), tensors_in(other), strict=False)
            self._again = max([self._again or 0.0, *(_relative(a, b) for a, b in both)])

    def add(self, lines: Lines) -> None:
        """What was measured of them."""
        sentence = "The teacher draws nothing: called twice, it gives the same."
        if self._again is not None:
            gap = at_most("relative difference", self._again, AGAIN)
            lines.add("ema.eval", sentence, gap, dropping_modules_in_training=self.dropping)
        elif self.dropping:
            lines.add("ema.eval", sentence, equal("forwards that drop", self.dropping, 0))
        else:
            lines.unmeasured("ema.eval", sentence, self._why_not)
        if self.normalising:
            sentence = "The teacher normalises with the statistics of its batch."
            lines.note("ema.batch-norm", sentence, forwards=self.normalising)


def drop_rate(module: nn.Module) -> float:
    """With which a module drops; 1 where it does not say."""
    rate = getattr(module, "p", getattr(module, "drop_prob", 1.0))
    return float(rate) if isinstance(rate, int | float) else 1.0


def tensors_in(value: Any) -> list[Tensor]:
    """Those in a structure of arguments, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def _relative(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    x, y = a.detach().double(), b.detach().double()
    return float((x - y).norm()) / max(float(x.norm()), 1e-300)
