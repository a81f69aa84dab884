"""The schedules written out: what the engine's are held against, live and in a run's rows.

Steps are optimizer steps counted from 0; a row of ``metrics.jsonl`` is of the step before its
``step``.
"""

from __future__ import annotations

import math

from latentcast.config import Config


def rate_of(config: Config, step: int) -> float:
    """Learning rate: a line from ``start_lr`` to the peak, then half a cosine to the end.

    Source: I-JEPA, WarmupCosineSchedule, which has counted a step before its first rate is used.
    """
    o, total, done = config.optimizer, _total(config, step), step + 1
    if done < o.warmup_steps:
        return o.start_lr + (o.lr - o.start_lr) * done / o.warmup_steps
    share = min(1.0, (done - o.warmup_steps) / max(1, total - o.warmup_steps))
    return o.final_lr + (o.lr - o.final_lr) * (1 + math.cos(math.pi * share)) / 2


def muon_scale(config: Config) -> float:
    """What the rate of a matrix is of :func:`rate_of`: Muon's peak over AdamW's, 1 without Muon."""
    o = config.optimizer
    return o.muon.lr / o.lr if o.muon else 1.0


def decay_of(config: Config, step: int) -> float:
    """Weight decay where there is any: half a cosine over the run.

    Source: I-JEPA, CosineWDSchedule.
    """
    o = config.optimizer
    end = o.weight_decay if o.final_weight_decay is None else o.final_weight_decay
    share = min(1.0, (step + 1) / _total(config, step))
    return end + (o.weight_decay - end) * (1 + math.cos(math.pi * share)) / 2


def momentum_of(config: Config, step: int) -> float:
    """EMA momentum: constant for the warm-up, then a line; 0 where there is no teacher.

    Source: I-JEPA, train.py: linear from 0.996, 1 would be reached one step after the last.
    """
    ema = config.ema
    if ema is None:
        return 0.0
    base = ema.base
    if base is None:
        assert ema.half_life is not None
        base = 0.5 ** (config.train.batch_size / ema.half_life)
    final = base if ema.final is None else ema.final
    moved = max(0, step - ema.warmup_steps) / max(1, _total(config, step) - ema.warmup_steps)
    return base + (final - base) * min(1.0, moved)


def _total(config: Config, step: int) -> int:
    """Of a run that was trained on, each stretch has its own."""
    total = config.train.steps
    for until, steps in reversed(config.train.stretches):
        total = steps if step < until else total
    return total
