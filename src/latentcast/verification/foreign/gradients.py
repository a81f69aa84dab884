"""Gradients on their way to the optimizer: cleared before, divided by the micro-batches, finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer
from torch.utils.hooks import RemovableHandle, unserializable_hook

from latentcast.verification.evidence import equal
from latentcast.verification.foreign.events import Observer
from latentcast.verification.foreign.heap import listed
from latentcast.verification.foreign.verified import Lines
from latentcast.verification.report.lines import Line

SOURCE = "PyTorch, Optimizer.zero_grad and the notes on accumulation and AMP"
WEIGHTS = 4
"""Of which the gradients are followed from pass to pass."""
NODES = 8
"""Of a loss by which it is recognised as the same one."""
MEANS = ("MseLoss", "SmoothL1Loss", "HuberLoss", "L1Loss", "NllLoss", "BinaryCrossEntropy", "KlDiv")
PASSING = ("AddBackward", "SubBackward", "NegBackward", "ToCopyBackward")


@dataclass
class _Weight:
    """A weight, and its gradient since its optimizer's last step."""

    weight: Tensor
    passes: int = 0
    cleared: bool = False
    infinite: bool = False
    total: Tensor | None = None


class Gradients(Observer):
    """Follows a few weights from the second step on, and looks at all gradients of each."""

    name = "gradients"

    def __init__(self) -> None:
        self.weights = list[_Weight]()
        self.steps = self.not_cleared = self.infinite = self.replaced = self.most = 0
        self.undivided = 0
        self._losses = list[tuple[bool, tuple[str, ...]]]()
        self._handles = list[RemovableHandle]()

    def start(self, optimizer: Optimizer) -> None:
        able = [p for p in listed(optimizer)
                if p.grad is not None and p.requires_grad and p.is_leaf]  # fmt: skip
        for weight in able[:: max(1, len(able) // WEIGHTS)][:WEIGHTS]:
            followed = _Weight(weight)
            self.weights.append(followed)
            handle = weight.register_hook(_hook(followed))  # type: ignore[no-untyped-call]
            self._handles.append(handle)

    def backward(self, losses: Sequence[Tensor]) -> None:
        if len(losses) == 1 and losses[0].grad_fn is not None and losses[0].numel() == 1:
            self._losses.append((_is_mean(losses[0].grad_fn), _names(losses[0].grad_fn)))

    def before(self, optimizer: Optimizer, step: int) -> None:
        weights = list(listed(optimizer))
        gradients = [p.grad for p in weights if p.grad is not None and not p.grad.is_sparse]
        self.steps += 1
        finite = bool(torch.stack([g.isfinite().all() for g in gradients]).all()
                      if gradients else True)  # fmt: skip
        scaled = getattr(optimizer, "found_inf", None) is not None  # it skips by itself
        self.infinite += not finite and not scaled
        ids = {id(p) for p in weights}
        followed = [w for w in self.weights if id(w.weight) in ids and w.passes]
        self.replaced += finite and any(w.infinite for w in followed)
        self.not_cleared += any(not w.cleared for w in followed)
        k = max((w.passes for w in followed), default=0)
        self.most = max(self.most, k)
        same = len(self._losses) == k and len(set(self._losses)) == 1
        if k > 1 and same and self._losses[0][0]:
            self.undivided += not any(_share(w) < 1 / k * 1.01 for w in followed)
        self._losses.clear()

    def after(self, optimizer: Optimizer, step: int) -> None:
        ids = {id(p) for p in listed(optimizer)}
        for followed in self.weights:
            if id(followed.weight) in ids:
                followed.passes, followed.cleared, followed.infinite = 0, False, False
                followed.total = None
        self._losses.clear()

    def end(self) -> None:
        for handle in self._handles:
            handle.remove()

    def lines(self) -> Sequence[Line]:
        lines = Lines(SOURCE)
        if self.steps:
            lines.add(
                "step.finite",
                "No optimizer moves by a gradient that is not finite, or was replaced.",
                equal("steps with infinity or NaN", self.infinite, 0),
                equal("replaced", self.replaced, 0),
                steps=self.steps,
            )
        if self.most:
            lines.add(
                "step.cleared",
                "The gradients of the last step are cleared before those of the next.",
                equal("steps on top of older gradients", self.not_cleared, 0),
            )
        if self.most > 1:
            lines.add(
                "step.divided",
                "The gradients of micro-batches are averaged, not added up.",
                equal("steps that add up means", self.undivided, 0),
                micro_batches=self.most,
            )
        return lines


def _hook(followed: _Weight) -> Any:
    """Runs with what a pass brings, before it is added to the gradient."""

    @unserializable_hook  # type: ignore[untyped-decorator]
    def hook(gradient: Tensor) -> None:
        with torch.no_grad():
            former = followed.weight.grad
            if former is None or not bool(former.any()):
                followed.cleared = True
                followed.total = None
            followed.passes += 1
            followed.infinite |= not bool(gradient.isfinite().all())
            total = followed.total
            followed.total = gradient.detach().clone() if total is None else total + gradient

    return hook


def _share(followed: _Weight) -> float:
    """What the optimizer gets, over the sum of what the passes brought."""
    gradient, total = followed.weight.grad, followed.total
    if gradient is None or total is None or not bool(total.any()):
        return math.inf
    return float((gradient * total).sum() / total.square().sum())


def _is_mean(node: Any, depth: int = NODES) -> bool:
    """Whether a loss is a sum of means and nothing was divided or weighted after them.

    Where it cannot be seen it is none, and nothing is said of it.
    """
    name = node.name()
    if name.startswith("MeanBackward"):
        return True
    if name.startswith(MEANS):
        return bool(getattr(node, "_saved_reduction", 0) == 1)
    parts = [part for part, _ in node.next_functions if part is not None]
    return bool(
        name.startswith(PASSING) and depth and parts and all(_is_mean(p, depth - 1) for p in parts)
    )


def _names(node: Any) -> tuple[str, ...]:
    names = list[str]()
    while node is not None and len(names) < NODES:
        names.append(node.name())
        node = next((part for part, _ in node.next_functions if part is not None), None)
    return tuple(names)
