"""What an optimizer moves and what it leaves: weights outside of it, frozen ones, its moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from latentcast.verification.evidence import equal
from latentcast.verification.foreign.events import Observer
from latentcast.verification.foreign.heap import listed
from latentcast.verification.foreign.sample import Sample
from latentcast.verification.foreign.verified import Lines
from latentcast.verification.report.lines import Line

SOURCE = "PyTorch, torch.optim: parameters, groups and state"
ROUNDED = 10.0
"""Roundings that a step must exceed to be seen in a weight."""


class Weights(Observer):
    """All weights of the program's modules, before the first step and after the last.

    Args:
        averaged: ids of the weights and modules of averages, which move without an optimizer.
    """

    name = "weights"

    def __init__(self, averaged: Callable[[], set[int]]) -> None:
        self.averaged = averaged
        self.names: dict[int, str] = {}
        self.weights = list[Tensor]()
        self.listed = set[int]()
        self.used = set[int]()
        """Ids of those of modules that were called."""
        self.with_gradient = set[int]()
        self.learning = set[int]()
        """Ids of those with a gradient whose steps are larger than their roundings."""
        self.thawed = set[int]()
        """Ids of those that were not frozen at one step at least."""
        self.decayed = set[int]()
        self.moved = set[int]()
        self.lost_state = 0
        self._had_state = set[int]()
        self._called = set[int]()
        self._sample: Sample | None = None
        self._first = torch.zeros(0)
        self._in_training = set[int]()
        """Ids of modules that were called in training mode."""
        self._norms = list[tuple[str, nn.Module, Tensor, bool]]()

    def start(self, optimizer: Optimizer) -> None:
        weights = dict[int, Tensor]()
        sizes = {id(m): sum(1 for _ in m.modules()) for m in self.session.heap.modules}
        for module in sorted(self.session.heap.modules, key=lambda m: -sizes[id(m)]):
            for name, weight in module.named_parameters():
                if id(weight) not in weights:
                    weights[id(weight)] = weight
                    self.names[id(weight)] = f"{type(module).__name__}.{name}"
            for name, part in module.named_modules():
                mean = part._buffers.get("running_mean")
                own = [p for p in part._parameters.values() if p is not None]
                frozen = own and not any(p.requires_grad for p in own)
                twice = any(part is other for _, other, _, _ in self._norms)
                if isinstance(mean, Tensor) and frozen and not twice:
                    path = f"{type(module).__name__}.{name}"
                    self._norms.append((path, part, mean.detach().clone(), False))
        self.weights = list(weights.values())
        self._sample = Sample(self.weights)
        self._first = self._sample.take(self.weights)
        for one in self.session.heap.optimizers:
            self.listed |= {id(p) for p in listed(one)}

    def enter(self, module: nn.Module, args: Any) -> None:
        if module.training:
            self._in_training.add(id(module))
        if id(module) not in self._called:
            self._called.add(id(module))
            self.used |= {id(p) for p in module._parameters.values() if p is not None}

    def before(self, optimizer: Optimizer, step: int) -> None:
        adaptive = any("exp_avg" in state for state in optimizer.state.values())
        for group in optimizer.param_groups:
            rate = float(group.get("lr", 0.0))
            for p in group["params"]:
                self.listed.add(id(p))
                self.lost_state += id(p) in self._had_state and not optimizer.state.get(p)
                if group.get("weight_decay") and p.ndim < 2 and p.requires_grad:
                    self.decayed.add(id(p))
                if p.grad is None or not p.is_floating_point():
                    continue
                slope = 1.0 if adaptive else float(p.grad.abs().max())
                eps = torch.finfo(p.dtype).eps
                if slope and rate * slope > ROUNDED * eps * float(p.detach().abs().max()):
                    self.learning.add(id(p))
        for p in self.weights:
            if p.requires_grad:
                self.thawed.add(id(p))
            if p.grad is not None and id(p) not in self.with_gradient and bool(p.grad.any()):
                self.with_gradient.add(id(p))

    def after(self, optimizer: Optimizer, step: int) -> None:
        self._had_state |= {id(p) for p in listed(optimizer) if optimizer.state.get(p)}

    def end(self) -> None:
        if self._sample is None:
            return
        last = self._sample.each(self._sample.take(self.weights))
        for weight, a, b in zip(self.weights, self._sample.each(self._first), last, strict=True):
            if not torch.equal(a, b):
                self.moved.add(id(weight))
        self._norms = [
            (name, part, mean, not torch.equal(mean, part._buffers["running_mean"]))  # type: ignore[arg-type]
            for name, part, mean, _ in self._norms
        ]

    def lines(self) -> Sequence[Line]:
        lines = Lines(SOURCE)
        if self._sample is None:
            return lines
        averaged = self.averaged()
        # One that moves without being in an optimizer has a copy that is: half precision.
        outside = (self.with_gradient & self.thawed & self.used) - self.listed - averaged
        outside -= self.moved
        still = (self.with_gradient & self.listed & self.learning) - self.moved - averaged
        lines.add(
            "weights.trained",
            "Each weight that gets a gradient is in an optimizer, and moves.",
            equal("in no optimizer", len(outside), 0),
            equal("not moving", len(still), 0),
            **self._first_of(outside | still),
        )
        frozen = (self.names.keys() & self.listed & self.moved) - self.thawed - averaged
        norms = [name for name, part, _, moved in self._norms
                 if moved and id(part) in self._in_training - averaged]  # fmt: skip
        lines.add(
            "weights.frozen",
            "Frozen weights do not move, nor do the statistics of frozen layers.",
            equal("weights", len(frozen), 0),
            equal("statistics", len(norms), 0),
            **(self._first_of(frozen) or ({"first": norms[0]} if norms else {})),
        )
        lines.add(
            "optimizer.state",
            "The moments of the optimizer live on from step to step.",
            equal("lost", self.lost_state, 0),
        )
        idle = (self.thawed & self.listed & self.used) - self.with_gradient - averaged
        if idle:
            sentence = "Weights are in the optimizer and never got a gradient."
            lines.note("weights.idle", sentence, weights=len(idle), **self._first_of(idle))
        if self.decayed:
            sentence = "Weight decay is applied to norms, biases and scales."
            numbers = self._first_of(self.decayed)
            lines.note("weights.decay", sentence, vectors=len(self.decayed), **numbers)
        return lines

    def _first_of(self, ids: set[int]) -> dict[str, str]:
        names = [name for key, name in self.names.items() if key in ids]
        return {"first": names[0]} if names else {}
