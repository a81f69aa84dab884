"""The training loop, on one page, in the order in which a step happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine import checkpoint
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context, stop_requests
from latentcast.engine.ema import Ema
from latentcast.engine.optimizer import adamw
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.objectives.base import Objective, Output
from latentcast.randomness import Draw

Preprocess = Callable[[Tensor, Draw | None], Inputs]
MicroBatches = list[Batch]

MOST_SKIPS_IN_A_ROW = 10
LEAST_WEIGHT = 1e-6
"""Divides instead of no weight at all: a batch without a target gives 0 and is skipped, not NaN."""


class Watcher(Protocol):
    """What the loop tells its surroundings; :class:`latentcast.monitors.journal.Journal` is one."""

    def start(self, state: State, context: Context) -> None: ...
    def waiting(self, batches: Iterator[MicroBatches]) -> MicroBatches: ...
    def updated(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None: ...
    def skipped(self, state: State, problem: str) -> None: ...


def train(
    objective: Objective,
    preprocess: Preprocess,
    batches: Callable[[int], Iterator[MicroBatches]],
    config: Config,
    run: Path,
    watcher: Watcher,
) -> State:
    """Train until ``config.train.steps`` updates are done, or a signal asks to stop.

    Args:
        batches: given the attempt to start from, the micro-batches of each following one.
        run: folder whose ``checkpoints/`` is resumed from and written to.
        watcher: is told of each step; nothing it does changes the training.

    Raises:
        LatentcastError: the checkpoint does not fit, or the gradient stays not finite.
    """
    context = Context.of(config)
    objective.to(context.device).train()
    optimizer, schedules = adamw(objective, config.optimizer), Schedules.of(config)
    state = checkpoint.resume(run / "checkpoints", objective, optimizer, config)
    ema = Ema(objective.ema_pairs())
    stream, skips = batches(state.attempt), 0
    watcher.start(state, context)

    def save() -> None:
        keep = config.train.keep_checkpoints
        checkpoint.save(run / "checkpoints", state, objective, optimizer, config, keep)

    with stop_requests() as stop:
        while state.step < config.train.steps and not stop:
            micro_batches = watcher.waiting(stream)

            schedules.apply(optimizer, state.step)
            output = accumulate(
                objective, preprocess, micro_batches, config.train.seed, state, context
            )
            norm = gradient_norm(objective, config.optimizer.clip_grad_norm)
            if problem := unusable(output, norm):  # optimizer, EMA and schedules all stay
                optimizer.zero_grad()
                state.skipped, skips = state.skipped + 1, skips + 1
                watcher.skipped(state, problem)
                if skips == MOST_SKIPS_IN_A_ROW:
                    raise LatentcastError(f"step {state.step}: {problem}, {skips} times in a row")
                continue
            skips = 0
            optimizer.step()
            optimizer.zero_grad()
            # After the optimizer and once for each of its steps: the teacher averages the
            # weights this step produced. Before it, the teacher would lag one step behind its
            # own definition; inside the micro-batches it would move k times on stale weights.
            ema.update(schedules.momentum(state.step))
            state.step += 1

            watcher.updated(state, output, norm, schedules, ema)
            if state.step % config.train.checkpoint_every == 0:
                save()
        save()
    return state


def accumulate(
    objective: Objective,
    preprocess: Preprocess,
    micro_batches: MicroBatches,
    seed: int,
    state: State,
    context: Context,
) -> Output:
    """Forward and backward over the micro-batches; gradients end as those of the whole batch.

    Each piece counts by its ``weight`` (the terms its mean is over), and the sum is divided by
    the total, so k pieces of B/k samples equal one batch of B also when some tokens are not
    valid and when the last piece is short.
    """
    outputs = []
    for batch in micro_batches:
        batch = batch.to(context.device)
        draw = Draw(seed, state.attempt, batch.ids)
        inputs = preprocess(batch.samples, draw)
        with context.autocast():
            output = objective(inputs, draw)
        (output.loss * output.weight).backward()
        outputs.append(output)
    total = torch.stack([output.weight for output in outputs]).sum()
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    torch._foreach_div_(gradients, total.clamp(min=LEAST_WEIGHT))
    return joined(outputs, total)


def joined(outputs: list[Output], total: Tensor) -> Output:
    """The output of the whole batch; the views of the last piece stand for all."""
    shares = [output.weight / total.clamp(min=LEAST_WEIGHT) for output in outputs]
    loss = torch.stack([o.loss.detach() * s for o, s in zip(outputs, shares, strict=True)]).sum()
    scalars = {
        name: torch.stack([o.scalars[name] * s for o, s in zip(outputs, shares, strict=True)]).sum()
        for name in outputs[-1].scalars
    }
    return Output(loss, total, scalars, outputs[-1].views)


def unusable(output: Output, norm: Tensor) -> str | None:
    """Why a batch must not move the weights, with the mend; None when it may."""
    if not torch.isfinite(norm):
        return (
            f"the gradient norm is {float(norm)}; look for outliers in the data "
            "(latentcast inspect) or lower optimizer.lr"
        )
    if not output.weight > 0:
        return (
            "no patch of the batch is valid enough to be a target; look at the share that is not "
            "valid (latentcast inspect), or train on the leads that were recorded (input.leads)"
        )
    return None


def gradient_norm(objective: Objective, limit: float | None) -> Tensor:
    """The gradient's norm before clipping; with a limit, gradients are scaled down to it."""
    bound = float("inf") if limit is None else limit
    return torch.nn.utils.clip_grad_norm_(objective.parameters(), bound, foreach=True)
