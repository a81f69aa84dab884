"""Learning rate, weight decay and EMA momentum as pure functions of the optimizer step.

Steps count from 0. Nothing here is advanced, so nothing can be advanced twice, once too early, or
in micro-batches; a resumed run asks for the same step and gets the same number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

from latentcast.config import Config

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up from ``start`` to ``base``, then half a cosine to ``final`` ever after.

    The warm-up is counted from one (I-JEPA): the first step is already one step above ``start``,
    and step ``warmup − 1`` is the first at ``base``. No warm-up and a warm-up as long as the run
    are both allowed.
    """

    base: float
    final: float
    warmup: int
    steps: int
    start: float = 0.0

    def __call__(self, step: int) -> float:
        done = step + 1
        if done < self.warmup:
            return self.start + (self.base - self.start) * done / self.warmup
        return half_cosine(self.base, self.final, done - self.warmup, self.steps - self.warmup)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``base`` to ``final`` over the run (I-JEPA's weight decay)."""

    base: float
    final: float
    steps: int

    def __call__(self, step: int) -> float:
        return half_cosine(self.base, self.final, step + 1, self.steps)


@dataclass(frozen=True)
class EmaSchedule:
    """``base`` during the warm-up, then linear to ``final`` over the remaining steps, and stay.

    Called with the optimizer step. The update of step ``n`` (from 0) uses ``base + (final − base)
    · n / (epochs · steps_per_epoch)``, so the first uses exactly ``base`` (I-JEPA, ``train.py``).
    """

    base: float
    final: float
    epochs: int
    steps_per_epoch: int
    warmup_epochs: int = 0

    def __call__(self, step: int) -> float:
        warmup = self.warmup_epochs * self.steps_per_epoch
        moving = max(1, self.epochs * self.steps_per_epoch - warmup)
        progress = min(1.0, max(0, step - warmup) / moving)
        return self.base + (self.final - self.base) * progress


def half_cosine(start: float, end: float, done: int, total: int) -> float:
    """From ``start`` at 0 to ``end`` at ``total``, and ``end`` beyond."""
    progress = min(1.0, max(0, done) / max(1, total))
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Schedules:
    """The schedules of a run."""

    lr: Schedule
    weight_decay: Schedule
    momentum: Schedule

    @classmethod
    def of(cls, config: Config) -> Schedules:
        """Of a run that was trained on, each step has those of its own stretch."""
        train = config.train
        if not train.stretches:
            return cls._over(train.steps, config)
        over = {n: cls._over(n, config) for n in (train.steps, *(n for _, n in train.stretches))}
        return cls(
            lr=lambda step: over[train.steps_at(step)].lr(step),
            weight_decay=lambda step: over[train.steps_at(step)].weight_decay(step),
            momentum=lambda step: over[train.steps_at(step)].momentum(step),
        )

    @classmethod
    def _over(cls, steps: int, config: Config) -> Schedules:
        o = config.optimizer
        decay_end = o.weight_decay if o.final_weight_decay is None else o.final_weight_decay
        ema = config.ema
        return cls(
            lr=WarmupCosine(o.lr, o.final_lr, o.warmup_steps, steps, o.start_lr),
            weight_decay=Cosine(o.weight_decay, decay_end, steps),
            # A run counts in steps: an epoch of one step.
            momentum=EmaSchedule(*ema.momenta(config.train.batch_size), steps, 1, ema.warmup_steps)
            if ema
            else (lambda step: 0.0),
        )

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Write the values of this step into the optimizer, before it moves."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr(step) * group.get("lr_scale", 1.0)
            group["weight_decay"] = self.weight_decay(step) if group["decayed"] else 0.0
