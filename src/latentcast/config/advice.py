"""Batch size, length, warm-up, learning rate and EMA for a data size and a number of epochs.

A recipe is right for the length and the batch it was made for. For another data size, another
number of epochs, or a batch that fits another machine, :func:`advise` carries it over and says why
in a sentence each. On a recipe's own samples and batch it changes nothing but the name of the
EMA's horizon.

The learning rate follows the square root of the batch size. The linear rule is SGD's: a step is as
long as the mean gradient, which a larger batch does not change. Adam divides by the gradient's
size, which in the noisy regime falls with the square root of the batch; that much a step grows by
itself, and the other root is left for lr (Malladi et al. 2022, who check it on vision and language
models). MAE and NEPA scale AdamW linearly, upwards from a base rate; carried down from 4096 to 64
that would be a rate 8 times below the square root's. The same paper lets 1 − β and ε follow the
batch as well; they and weight decay stay as in the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentcast.config.resolve import read_yaml, resolve
from latentcast.config.run import Config
from latentcast.errors import LatentcastError

LEAST_STEPS = 2000
"""Updates below which the batch is halved instead: at equal data, 700 steps of 32 were better than
350 of 64 (docs/nepa-on-ecg.md). A recipe that was made for fewer has those as its least."""
LEAST_BATCH = 16
LONGEST_WARMUP = 0.2
"""Share of a run."""
LONGEST_HALF_LIFE = 0.1
"""Share of a run's samples: ten half-lives leave a thousandth of the initial weights."""
_BATCH = "train.batch_size"


@dataclass(frozen=True)
class Point:
    """One piece of advice: the keys it changes, and why, in a sentence."""

    changes: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class Advice:
    """What to change in a recipe, and why."""

    points: tuple[Point, ...]

    @property
    def changes(self) -> dict[str, Any]:
        """Dotted keys for :meth:`Config.updated`."""
        return {key: value for point in self.points for key, value in point.changes.items()}

    @property
    def reasons(self) -> list[str]:
        return [point.reason for point in self.points]

    def without(self, keys: Sequence[str]) -> Advice:
        """The points that touch none of these keys, nor a section above or a key below one."""
        return Advice(
            tuple(
                point
                for point in self.points
                if not any(_overlap(mine, key) for mine in point.changes for key in keys)
            )
        )


def advised(
    recipe: Config,
    file: Path | None,
    flags: Sequence[str],
    samples: int,
    epochs: float,
    batch_size: int | None = None,
) -> tuple[Config, list[str]]:
    """A recipe with advice, the file and the flags applied, and the reasons of what was used.

    Precedence is flag > file > advice > recipe: advice on a key that the user wrote is left out.
    A ``train.batch_size`` written there is what the rest of the advice is for, and ``batch_size``
    comes before that of the file.

    Raises:
        LatentcastError: ``batch_size`` beside a flag of it; and as :func:`advise` and
            :func:`latentcast.config.resolve`.
    """
    keys = [flag.partition("=")[0] for flag in flags]
    if batch_size is not None and _BATCH in keys:
        raise LatentcastError(
            f"--batch-size {batch_size}: {_BATCH} is set as well; leave one of the two out"
        )
    if file is not None:
        keys += _dotted(read_yaml(file))
    fixed = batch_size
    if fixed is None and _BATCH in keys:
        fixed = resolve(recipe, file, flags).train.batch_size
    advice = advise(recipe, samples, epochs, fixed)
    if batch_size is not None:
        keys = [key for key in keys if key != _BATCH]
        flags = [*flags, f"{_BATCH}={batch_size}"]
    advice = advice.without(keys)
    return resolve(recipe.updated(advice.changes), file, flags), advice.reasons


def advise(config: Config, samples: int, epochs: float, batch_size: int | None = None) -> Advice:
    """How to train a recipe for some epochs on some samples.

    Args:
        config: of the recipe; its batch size, lr, warm-up and EMA are the point of departure.
        samples: of the training split.
        epochs: how often each is seen.
        batch_size: one that fits the machine; None chooses.

    Raises:
        LatentcastError: no epochs, no batch, or fewer samples than a batch.
    """
    if not 0 < epochs < math.inf:
        raise LatentcastError(
            f"--auto {epochs:g}: is no number of epochs; say how often each sample is to be seen, "
            "for example --auto 100"
        )
    if batch_size is not None and batch_size < 1:
        raise LatentcastError(f"--batch-size {batch_size}: is no batch; give a positive number")
    least = min(LEAST_BATCH, config.train.batch_size) if batch_size is None else batch_size
    if samples < least:
        fix = f"--batch-size {samples}" if samples else "a store with a training split"
        raise LatentcastError(
            f"--auto: the training split holds {samples} samples, fewer than a batch of {least}; "
            f"use {fix}"
        )
    batch = _batch(config, samples, epochs, batch_size)
    size = batch.changes["train.batch_size"]
    steps = math.ceil(samples * epochs / size)
    length = Point(
        {"train.steps": steps},
        f"train.steps {steps:,}: {samples:,} samples, {epochs:g} times, in batches of {size:,}",
    )
    found = [batch, length, _warmup(config, steps), *_rates(config, size)]
    return Advice((*found, *_ema(config, size, steps)))


def _batch(config: Config, samples: int, epochs: float, fixed: int | None) -> Point:
    recipe_batch, least = config.train.batch_size, min(LEAST_STEPS, config.train.steps)
    if fixed is not None:
        size, why = fixed, "as fixed for"
    else:
        size = recipe_batch
        while size // 2 >= LEAST_BATCH and (size > samples or samples * epochs < least * size):
            size //= 2
        why = f"that of {config.recipe}"
        if size < recipe_batch:
            why = f"{recipe_batch:,} of {config.recipe}, halved "
            why += (
                f"down to {size}, since the run is short of {least:,} updates"
                if samples * epochs < least * size
                else f"until the run has {least:,} updates and the data fill a batch"
            )
    changes: dict[str, Any] = {"train.batch_size": size}
    pieces = 1
    if config.train.micro_batches > 1:  # a piece is what fits the memory
        pieces = math.ceil(size / (recipe_batch // config.train.micro_batches))
        changes["train.micro_batches"] = pieces
    split = f" in {pieces} pieces" if pieces > 1 else ""
    return Point(changes, f"train.batch_size {size:,}{split}: {why}")


def _warmup(config: Config, steps: int) -> Point:
    own, beta = config.optimizer.warmup_steps, config.optimizer.betas[1]
    share = own / config.train.steps
    settle = math.ceil(2 / (1 - beta))
    longest = math.floor(LONGEST_WARMUP * steps)
    warmup, why = round(share * steps), f"{share:.1%} of the steps, as in {config.recipe}"
    if warmup < min(own, settle):
        warmup = min(own, settle)
        why = f"AdamW's second moment needs 2 / (1 − β₂) = {settle:,} steps (Ma & Yarats 2021)"
        if own < settle:
            why = f"that of {config.recipe}, since AdamW's second moment needs no fewer"
    if warmup > longest:
        warmup, why = longest, f"a warm-up is at most {LONGEST_WARMUP:.0%} of the steps"
    changes: dict[str, Any] = {"optimizer.warmup_steps": warmup}
    return Point(changes, f"optimizer.warmup_steps {warmup:,}: {why}")


def _rates(config: Config, size: int) -> list[Point]:
    optimizer, recipe_batch = config.optimizer, config.train.batch_size
    factor = math.sqrt(size / recipe_batch)
    lr = optimizer.lr * factor
    why = f"that of {config.recipe}, whose batch it is"
    if size != recipe_batch:
        why = (
            f"{optimizer.lr:g} · √({size:,} / {recipe_batch:,}), because Adam divides by the size "
            "of a noisy gradient, which falls with the root of the batch (Malladi et al. 2022)"
        )
    points = [Point({"optimizer.lr": lr}, f"optimizer.lr {lr:.3g}: {why}")]
    if optimizer.muon is not None:
        muon = optimizer.muon.lr * factor
        points.append(
            Point({"optimizer.muon.lr": muon}, f"optimizer.muon.lr {muon:.3g}: the same multiple "
                  "of lr as before")
        )  # fmt: skip
    for name, value in (("start_lr", optimizer.start_lr), ("final_lr", optimizer.final_lr)):
        if value and size != recipe_batch:
            reason = f"optimizer.{name} {value * factor:.3g}: the same share of lr as before"
            points.append(Point({f"optimizer.{name}": value * factor}, reason))
    return points


def _ema(config: Config, size: int, steps: int) -> list[Point]:
    ema, recipe_batch = config.ema, config.train.batch_size
    if ema is None or not 0 < (own := ema.horizon(recipe_batch)) < math.inf:
        return []
    first, last = ema.momenta(recipe_batch)
    half_life = min(own, LONGEST_HALF_LIFE * steps * size)
    changes: dict[str, Any] = {"ema.half_life": half_life, "ema.base": None}
    changes["ema.final"] = None if last == first else last ** (size / recipe_batch)
    why = f"that of {config.recipe}, momentum {first:g} at batch {recipe_batch:,}"
    if half_life < own:
        why = (
            f"{LONGEST_HALF_LIFE:.0%} of the run, not the {own:,.0f} of {config.recipe}, or the "
            "average would still hold the initial weights at the end"
        )
    momentum = 0.5 ** (size / half_life)
    reason = f"ema.half_life {half_life:,.0f} samples (momentum {momentum:.6g}): {why}"
    points = [Point(changes, reason)]
    if ema.warmup_steps:
        wait = round(ema.warmup_steps / config.train.steps * steps)
        reason = f"ema.warmup_steps {wait:,}: the same share of the steps as before"
        points.append(Point({"ema.warmup_steps": wait}, reason))
    return points


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in tree.items():
        below = _dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else []
        keys += below or [f"{prefix}{name}"]
    return keys


def _overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
