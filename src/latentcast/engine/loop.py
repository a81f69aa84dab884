"""The training loop, on one page, in the order in which a step happens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.data.loader import to_device
from latentcast.engine import checkpoint
from latentcast.engine.callbacks import Callback, CallbackList, MicroBatches
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context, collected_by_hand, stop_requests
from latentcast.engine.ema import Ema
from latentcast.engine.optimizer import build_optimizer, take_step
from latentcast.engine.parallel import distribute, full_tensor, local_shards, no_sync
from latentcast.engine.ranks import ALONE, Ranks
from latentcast.engine.running_statistics import RunningStatistics
from latentcast.engine.schedules import Schedules
from latentcast.engine.verdict import Verdict
from latentcast.errors import LatentcastError
from latentcast.objectives.base import Objective, Output
from latentcast.randomness import Draw

Preprocess = Callable[[Tensor, Draw | None], Inputs]

MOST_SKIPS_IN_A_ROW = 10
LEAST_SCALE, MOST_SCALE, GROWTH_STEPS = 2.0**-24, 2.0**24, 2000
LEAST_WEIGHT = 1e-6
"""Divides instead of no weight at all: a batch without a target gives 0 and is skipped, not NaN."""


def train(
    objective: Objective,
    preprocess: Preprocess,
    batches: Callable[[int], Iterator[MicroBatches]],
    config: Config,
    run: Path,
    callbacks: Sequence[Callback] = (),
    ranks: Ranks = ALONE,
) -> State:
    """Train until ``config.train.steps`` updates are done, or a signal asks to stop.

    Args:
        batches: given the attempt to start from, this rank's micro-batches of each following one.
        run: folder whose ``checkpoints/`` is resumed from and written to.
        callbacks: called in their order; nothing they do changes the training.
        ranks: the processes that train together; each calls this function.

    Raises:
        LatentcastError: the checkpoint does not fit, or the gradient stays not finite.
    """
    context = Context.of(config, ranks)
    model = distribute(objective, config, context)
    objective.train()
    optimizer, schedules = build_optimizer(objective, config.optimizer), Schedules.of(config)
    state = checkpoint.resume(run / "checkpoints", objective, optimizer, config, ranks)
    if context.precision is torch.float16 and state.attempt == 0:
        state.scale = first_scale(config)
    ema = Ema(objective.ema_pairs(), ranks)
    running = RunningStatistics(objective)
    listeners = CallbackList(callbacks)
    listeners.on_train_start(state, context)
    verdict: Verdict | None = None
    skips, stopping = 0, listeners.enough(state.step)

    def resolve_step() -> bool:
        """Read the verdict on the last attempt; False when it did not count."""
        nonlocal verdict, skips, stopping
        if verdict is None:
            return True
        problem, stopping = verdict.read()
        verdict = None
        if context.precision is torch.float16:
            state.scale = next_scale(state, refused=problem is not None)
        if problem is None:
            skips = 0
            return True
        # The device left weights, moments and average as they were; the schedules stay here.
        state.step, state.skipped, skips = state.step - 1, state.skipped + 1, skips + 1
        listeners.on_skip(state, problem)
        scaling = context.precision is torch.float16 and state.scale > LEAST_SCALE
        if skips >= MOST_SKIPS_IN_A_ROW and not scaling:
            raise LatentcastError(f"step {state.step}: {problem}, {skips} times in a row")
        return False

    with (
        stop_requests(model) as stop,
        collected_by_hand() as collect,
        to_device(batches(state.attempt), context.device) as stream,
    ):
        while state.step < config.train.steps and not stopping:
            with stop.within_step(context):
                batch = listeners.next_batch(stream, state)
                output = accumulate(model, preprocess, batch, config.train.seed, state, context)
                norm = gradient_norm(objective, config.optimizer.clip_grad_norm)

            resolve_step()  # the attempt before: its verdict arrived while this one was computed
            if stopping or stop.dropped:
                break
            verdict = Verdict(output, norm, stop.count(context))
            schedules.apply(optimizer, state.step)
            take_step(optimizer, verdict.refused)
            # After the optimizer and once for each of its steps: the teacher averages the
            # weights this step produced. Before it, the teacher would lag one step behind its
            # own definition; inside the micro-batches it would move k times on stale weights.
            ema.update(schedules.momentum(state.step), verdict.refused)
            running.update(verdict.refused)  # of batch norms, which evaluation reads
            state.step += 1  # unless the verdict says otherwise

            reads, saves = listeners.wants(state.step), checkpoint.due(state.step, config.train)
            if (reads or saves or not context.ahead) and resolve_step():
                if reads:
                    listeners.on_step_end(state, output, norm, schedules, ema)
                    collect()
                    stopping = stopping or listeners.enough(state.step)
                if saves:
                    checkpoint.save(run / "checkpoints", state, objective, optimizer, config, ranks)
        checkpoint.save(run / "checkpoints", state, objective, optimizer, config, ranks)
        state.stopped = stop.name
    listeners.on_train_end(state)
    return state


def accumulate(
    model: nn.Module,
    preprocess: Preprocess,
    micro_batches: MicroBatches,
    seed: int,
    state: State,
    context: Context,
) -> Output:
    """Forward and backward over the micro-batches; gradients end as those of the whole batch.

    Each piece counts by its ``weight`` (the terms its mean is over), and the sum is divided by
    the total, so k pieces on W ranks equal one batch also when some tokens are not valid and when
    pieces are of unequal length.
    """
    outputs, last = [], len(micro_batches) - 1
    for n, batch in enumerate(micro_batches):
        batch = batch.to(context.device)
        draw = Draw(seed, state.attempt, batch.ids)
        inputs = preprocess(batch.samples, draw).with_targets(batch.targets)
        with no_sync(model, last=n == last):
            with context.autocast():
                output: Output = model(inputs, draw)
            torch.autograd.backward(output.loss * output.weight * state.scale)
        outputs.append(output)
    joined = join(outputs, context.ranks)
    gradients = local_shards([p.grad for p in model.parameters() if p.grad is not None])
    # Ranks have averaged their gradients, so they are divided by the average of their weights.
    share = (joined.weight / context.ranks.size).clamp(min=LEAST_WEIGHT) * state.scale
    torch._foreach_div_(gradients, share)
    return joined


def join(outputs: list[Output], ranks: Ranks) -> Output:
    """The output of the whole batch, on every rank; the views are of this rank's last piece."""
    names, weights = list(outputs[-1].scalars), torch.stack([o.weight for o in outputs])
    columns = [torch.stack([o.loss.detach() for o in outputs])]
    columns += [torch.stack([o.scalars[name] for o in outputs]) for name in names]
    sums = [weights.sum(), *((column * weights).sum() for column in columns)]
    weight, *weighted = ranks.summed(torch.stack(sums)).unbind()
    loss, *scalars = (value / weight.clamp(min=LEAST_WEIGHT) for value in weighted)
    return Output(loss, weight, dict(zip(names, scalars, strict=True)), outputs[-1].views)


def first_scale(config: Config) -> float:
    """fp16: the usual 2^16 of a mean loss; ours is a sum over patches until all pieces are in."""
    terms = config.train.batch_size * math.prod(config.grids[0])
    return float(2.0 ** (16 - round(math.log2(terms))))


def next_scale(state: State, refused: bool) -> float:
    """fp16: halve the loss scale after an overflow, try the double of it once in a while."""
    if refused:
        return max(LEAST_SCALE, state.scale / 2)
    return min(MOST_SCALE, state.scale * 2) if state.step % GROWTH_STEPS == 0 else state.scale


def gradient_norm(objective: Objective, limit: float | None) -> Tensor:
    """The gradient's norm before clipping; with a limit, gradients are scaled down to it."""
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if limit is not None:  # without one, a pass over all gradients would multiply them by 1
        torch.nn.utils.clip_grads_with_norm_(objective.parameters(), limit, norm, foreach=True)
    return full_tensor(norm)
