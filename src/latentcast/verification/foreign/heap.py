"""What a training program holds in memory: one look at all objects that Python knows of."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer


@dataclass
class Heap:
    """The objects a training is made of.

    Attributes:
        containers: lists and dictionaries of tensors.
    """

    modules: list[nn.Module] = field(default_factory=list)
    optimizers: list[Optimizer] = field(default_factory=list)
    schedulers: list[LRScheduler] = field(default_factory=list)
    containers: list[list[Tensor] | dict[object, Tensor]] = field(default_factory=list)

    @classmethod
    def now(cls) -> Heap:
        """All that is alive. The types decide: a proxy that answers for its object is none."""
        heap, kinds = cls(), dict[type, str]()
        for one in gc.get_objects():
            kind = kinds.get(type(one))
            if kind is None:
                kind = kinds[type(one)] = _kind(type(one))
            if not kind:
                continue
            if kind != "containers" or _of_tensors(one):
                getattr(heap, kind).append(one)
        heap.modules = [
            m
            for m in heap.modules
            if {"_modules", "_parameters"} <= vars(m).keys()
            and all(map(_has_values, vars(m)["_parameters"].values()))
        ]
        return heap

    def trained(self, optimizer: Optimizer) -> set[int]:
        """Ids of what an optimizer that has its gradients, and the others, move."""
        found = {id(p) for p in listed(optimizer) if p.grad is not None}
        for other in self.optimizers:
            if other is not optimizer:
                found |= {id(p) for p in listed(other) if p.requires_grad}
        return found


def listed(optimizer: Optimizer) -> Iterator[Tensor]:
    """What an optimizer has in its groups."""
    for group in getattr(optimizer, "param_groups", ()):
        yield from group["params"]


def _kind(kind: type) -> str:
    for base, name in (
        (nn.Module, "modules"), (Optimizer, "optimizers"), (LRScheduler, "schedulers"),
    ):  # fmt: skip
        if issubclass(kind, base):
            return name
    return "containers" if kind is list or issubclass(kind, dict) else ""


def _of_tensors(container: object) -> bool:
    """Of several, as the first one shows."""
    assert isinstance(container, list | dict)
    if len(container) < 2:
        return False
    try:
        first = next(iter(container.values() if isinstance(container, dict) else container))
    except Exception:  # another thread changes it, or a dictionary is one by name only
        return False
    return issubclass(type(first), Tensor) and _has_values(first)


def _has_values(weight: object) -> bool:
    """False of what compilers and exports trace with, whose shapes need not be numbers."""
    return type(weight).__name__ not in ("FakeTensor", "FunctionalTensor")
