"""Bugs of a step: schedules, gradient, clipping, optimizer, and what is not finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from latentcast.config import Config
from latentcast.engine import loop, optimizer, schedules
from latentcast.engine.checkpoint import State
from latentcast.engine.schedules import Cosine, Schedules, WarmupCosine
from latentcast.engine.verdict import Verdict
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.nepa import Nepa
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.faults.ema import CLASSIC, HJEPA, Patch, scheduled, several
from latentcast.verification.observe.rehearsal import accumulates
from latentcast.verification.observe.twin import Subject

# Schedules


def _per_piece() -> Patch:
    def change(was: Schedules, config: Config) -> Schedules:
        k = config.train.micro_batches
        return replace(was, lr=lambda n: was.lr(n * k))

    return scheduled(change)


def _after_step() -> Patch:
    """The first update at the peak, and each following one at the rate of the one before."""

    def make(was: Any) -> Any:
        def apply(self: Any, optimizer: Any, step: int) -> None:
            was(self, optimizer, max(0, step - 1))
            if step == 0:
                for group in optimizer.param_groups:
                    group["lr"] = self.lr.base

        return apply

    return replaced(Schedules, "apply", make)


def _from_zero() -> Patch:
    return replaced(WarmupCosine, "__call__", lambda was: lambda self, step: was(self, step - 1))


def _linear_rate() -> Patch:
    """No cosine: a straight line to the end."""

    def line(start: float, end: float, done: int, total: int) -> float:
        return start + (end - start) * min(1.0, max(0, done) / max(1, total))

    return replaced(schedules, "half_cosine", lambda was: line)


def _turns_back() -> Patch:
    def wave(was: Any) -> Any:
        def half(start: float, end: float, done: int, total: int) -> float:
            beyond = max(0, done - total)
            return float(was(start, end, done - 2 * min(beyond, total), total))

        return half

    return replaced(schedules, "half_cosine", wave)


def _constant_decay() -> Patch:
    return replaced(Cosine, "__call__", lambda was: lambda self, step: self.base)


def _decay_a_step_late() -> Patch:
    return replaced(Cosine, "__call__", lambda was: lambda self, step: was(self, step - 1))


def _all_decayed() -> Patch:
    return replaced(Objective, "undecayed", lambda was: lambda self, name, parameter: False)


def _cls_decayed() -> Patch:
    def make(was: Any) -> Any:
        return lambda self, name, parameter: parameter.ndim <= 1

    return replaced(Objective, "undecayed", make)


# The optimizer


def _coupled() -> Patch:
    """Adam with an L2 penalty."""
    return replaced(optimizer, "AdamW", lambda was: Adam)


def _after_building(change: Callable[[Any], None]) -> Patch:
    def make(was: Any) -> Any:
        def adamw(objective: Objective, config: Any) -> AdamW:
            made: AdamW = was(objective, config)
            change(made)
            return made

        return adamw

    return replaced(loop, "adamw", make)


def _other_betas(made: Any) -> None:
    for group in made.param_groups:
        group["betas"] = (0.8, 0.95)


def _held_twice(made: Any) -> None:
    group = made.param_groups[0]
    group["params"].append(group["params"][0])
    group["names"].append(group["names"][0])


def _one_left_out() -> Patch:
    """Frozen by mistake, and so in no group."""

    def make(was: Any) -> Any:
        def trainable(self: Objective) -> Any:
            found = was(self)
            found.popitem()[1].requires_grad_(False)
            return found

        return trainable

    return replaced(Objective, "trainable", make)


def _leftovers() -> Patch:
    """Gradients of one step leak into the next: a batch at the end of an epoch."""

    def make(was: Any) -> Any:
        def take(optimizer: Any, refused: Tensor) -> None:
            kept = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            gradients = [p.grad.clone() for p in kept]
            was(optimizer, refused)
            if not float(refused):
                for parameter, gradient in zip(kept, gradients, strict=True):
                    parameter.grad = gradient * 0.5

        return take

    return replaced(loop, "take_step", make)


# The gradient


def _accumulated(change: Callable[[list[Tensor], Output, Any], None]) -> Patch:
    """Something is done to the gradients when all pieces are in."""

    def make(was: Any) -> Any:
        def accumulate(called: Any, preprocess: Any, batches: Any, *rest: Any) -> Output:
            output: Output = was(called, preprocess, batches, *rest)
            gradients = [p.grad for p in called.parameters() if p.grad is not None]
            change(gradients, output, batches)
            return output

        return accumulate

    return replaced(loop, "accumulate", make)


def _times(factor: Callable[[Output, Any], Tensor | float]) -> Patch:
    return _accumulated(lambda gradients, output, batches: torch._foreach_mul_(
        gradients, float(factor(output, batches))))  # fmt: skip


def outputs(change: Callable[[Output], Output]) -> Patch:
    """What an objective gives is another thing."""

    def make(was: Any) -> Any:
        return lambda self, inputs, draw: change(was(self, inputs, draw))

    return several(replaced(Jepa, "forward", make), replaced(Nepa, "forward", make))


def _alike() -> Patch:
    """Every piece counts the same, however many terms its mean is over."""
    return outputs(lambda output: replace(output, weight=torch.ones_like(output.weight)))


def _last_piece_left_out() -> Patch:
    def make(was: Any) -> Any:
        def accumulate(called: Any, preprocess: Any, batches: Any, *rest: Any) -> Any:
            return was(called, preprocess, batches[:-1] or batches, *rest)

        return accumulate

    return replaced(loop, "accumulate", make)


def _last_loss() -> Patch:
    def make(was: Any) -> Any:
        def join(given: list[Output], ranks: Any) -> Output:
            joined: Output = was(given, ranks)
            return replace(joined, loss=given[-1].loss.detach())

        return join

    return replaced(loop, "join", make)


def _clipped(clip: Callable[[list[Tensor], float], None]) -> Patch:
    """The norm that is told is right, and something else is done with the gradients."""

    def make(was: Any) -> Any:
        def norm(objective: Objective, limit: float | None) -> Tensor:
            told: Tensor = was(objective, None)
            gradients = [p.grad for p in objective.parameters() if p.grad is not None]
            if limit is not None and bool(told.isfinite()):
                clip(gradients, limit)
            return told

        return norm

    return replaced(loop, "gradient_norm", make)


def _each_tensor(gradients: list[Tensor], limit: float) -> None:
    for gradient in gradients:
        gradient.mul_(min(1.0, limit / max(1e-12, float(gradient.norm()))))


def _each_value(gradients: list[Tensor], limit: float) -> None:
    for gradient in gradients:
        gradient.clamp_(-limit, limit)


def _nothing(gradients: list[Tensor], limit: float) -> None: ...


def _of_the_sum() -> Patch:
    """Clipped before it is divided by the number of terms: the limit is as many times as hard."""
    weight = [1.0]

    def note(gradients: list[Tensor], output: Output, batches: Any) -> None:
        weight[0] = float(output.weight)

    def clip(gradients: list[Tensor], limit: float) -> None:
        norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
        torch._foreach_mul_(gradients, min(1.0, limit / (norm * max(1e-6, weight[0]))))

    return several(_accumulated(note), _clipped(clip))


# What is not finite


def _nan_to_num() -> Patch:
    def make(was: Any) -> Any:
        def norm(objective: Objective, limit: float | None) -> Any:
            for p in objective.parameters():
                if p.grad is not None:
                    p.grad.nan_to_num_(0.0, 0.0, 0.0)
            return was(objective, limit)

        return norm

    return replaced(loop, "gradient_norm", make)


def _counted_all_the_same() -> Patch:
    def make(was: Any) -> Any:
        return lambda self: (None, was(self)[1])

    return replaced(Verdict, "read", make)


def _moments_decay() -> Patch:
    """The bad gradient is set to 0 and the step taken: weights decay, moments fade."""

    def make(was: Any) -> Any:
        def take(optimizer: Any, refused: Tensor) -> None:
            if float(refused):
                for group in optimizer.param_groups:
                    for p in group["params"]:
                        if p.grad is not None:
                            p.grad.zero_()
            was(optimizer, torch.zeros_like(refused))

        return take

    return replaced(loop, "take_step", make)


def _draws_by_step() -> Patch:
    return replaced(State, "attempt", lambda was: property(lambda self: self.step))


def _cls(subject: Subject) -> bool:
    return subject.config.encoder.cls


def _decays(subject: Subject) -> bool:
    return subject.config.optimizer.weight_decay > 0


FAULTS: tuple[Fault, ...] = (
    Fault("loop.schedule-in-pieces", "The learning rate's schedule counts micro-batches.", CLASSIC,
          _per_piece, ("loop.rate",), accumulates),
    Fault("loop.schedule-after-step", "The schedule is written after the step: the first update "
          "has the peak's rate.", f"{HJEPA}, D5", _after_step, ("loop.rate",)),
    Fault("loop.warm-up-from-zero", "The warm-up is counted from zero: the first step moves "
          "nothing.", CLASSIC, _from_zero, ("loop.rate",)),
    Fault("loop.linear-rate", "Rate and decay go straight to their ends.", CLASSIC, _linear_rate,
          ("loop.rate", "loop.decay")),
    Fault("loop.cosine-turns-back", "Beyond its last step the cosine goes up again.",
          f"{HJEPA}, D6: not clamped", _turns_back, ("loop.stays-at-the-end",)),
    Fault("loop.constant-decay", "The weight decay is not scheduled.", f"{HJEPA}, no WD schedule",
          _constant_decay, ("loop.decay",)),
    Fault("loop.decay-late", "The weight decay is that of the step before.", CLASSIC,
          _decay_a_step_late, ("loop.decay",)),
    Fault("loop.all-decayed", "Biases, norms and gains are decayed.",
          f"{HJEPA}: one group; NEPA-ECG, 18", _all_decayed, ("loop.decay-groups",)),
    Fault("loop.cls-decayed", "CLS is decayed.", "NEPA-ECG, 18", _cls_decayed,
          ("loop.decay-groups",), _cls),
    Fault("loop.coupled-decay", "The decay is a part of the gradient: Adam.", CLASSIC, _coupled,
          ("loop.adamw",), _decays),
    Fault("loop.other-betas", "The recipe's betas do not get to the optimizer.", CLASSIC,
          lambda: _after_building(_other_betas), ("loop.adamw",)),
    Fault("loop.held-twice", "The optimizer holds a parameter twice.", CLASSIC,
          lambda: _after_building(_held_twice), ("loop.every-parameter-once", "loop.adamw")),
    Fault("loop.one-left-out", "A parameter is frozen by mistake.", CLASSIC, _one_left_out,
          ("loop.every-parameter-once",)),
    Fault("loop.leftovers", "Gradients of one step leak into the next.",
          f"{HJEPA}: leftover micro-batches", _leftovers, ("loop.zeroed", "loop.gradient")),
    Fault("loop.sum-of-pieces", "The loss is not divided by the number of micro-batches.",
          f"{HJEPA}, train.py", lambda: _times(lambda output, batches: len(batches)),
          ("loop.gradient",), accumulates),
    Fault("loop.divided-twice", "The gradient is divided by the number of micro-batches twice.",
          CLASSIC, lambda: _times(lambda output, batches: 1 / len(batches)), ("loop.gradient",),
          accumulates),
    Fault("loop.sum-of-terms", "The gradient is that of the sum over patches.", CLASSIC,
          lambda: _times(lambda output, batches: output.weight), ("loop.gradient",)),
    Fault("loop.pieces-alike", "Each micro-batch counts the same, whatever its size.", CLASSIC,
          _alike, ("loop.pieces", "loop.gradient", "loop.loss"), accumulates),
    Fault("loop.last-piece-left-out", "The last micro-batch is dropped.", CLASSIC,
          _last_piece_left_out, ("loop.short-piece", "loop.order", "loop.attempts"), accumulates),
    Fault("loop.loss-of-the-last-piece", "The loss that is told is the last micro-batch's.",
          CLASSIC, _last_loss, ("loop.loss",), accumulates),
    Fault("loop.clip-per-tensor", "Each tensor's gradient is clipped by itself.", CLASSIC,
          lambda: _clipped(_each_tensor), ("loop.clipping",)),
    Fault("loop.clip-by-value", "Each number of the gradient is clipped by itself.", CLASSIC,
          lambda: _clipped(_each_value), ("loop.clipping",)),
    Fault("loop.clip-too-late", "The gradient is clipped after the step, which is to say not.",
          CLASSIC, lambda: _clipped(_nothing), ("loop.clipping",)),
    Fault("loop.clip-of-the-sum", "The gradient is clipped before it is divided.",
          f"{HJEPA}: clip bites k times harder", _of_the_sum, ("loop.clipping",)),
    Fault("loop.nan-to-num", "What is not finite is taken for 0 and trained on.", CLASSIC,
          _nan_to_num, ("loop.refused",)),
    Fault("loop.refused-counts", "A refused step counts, and the schedules move on.",
          "I-JEPA's code does", _counted_all_the_same, ("loop.refused",)),
    Fault("loop.refused-decays", "A refused step is taken with a gradient of 0.", CLASSIC,
          _moments_decay, ("loop.refused",)),
    Fault("loop.draws-by-step", "Draws are keyed by the step: after a refused batch they come "
          "twice.", CLASSIC, _draws_by_step, ("loop.attempts",)),
)  # fmt: skip
