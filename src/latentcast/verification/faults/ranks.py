"""Bugs of several processes: who reads what, and what is summed, averaged or exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from latentcast.data.loader import Loader
from latentcast.engine import checkpoint, loop
from latentcast.engine.context import Context, StopRequest
from latentcast.engine.ema import Ema
from latentcast.engine.parallel import own
from latentcast.engine.ranks import ALONE, Ranks
from latentcast.engine.verdict import Verdict
from latentcast.objectives import ranks as sums
from latentcast.objectives import regularizers
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.nepa import Nepa
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.faults.ema import CLASSIC, HJEPA, Patch, several
from latentcast.verification.faults.loop import outputs
from latentcast.verification.observe.rehearsal import accumulates, averages


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _reads(change: Callable[[tuple[int, int]], tuple[int, int]]) -> Patch:
    def make(was: Any) -> Any:
        def init(self: Any, store: Any, rows: Any, config: Any, ranks: Any = (0, 1)) -> None:
            was(self, store, rows, config, change(ranks))

        return init

    return replaced(Loader, "__init__", make)


def _own_ids() -> Patch:
    """Draws are keyed by the place in the rank's part: all ranks draw the same."""

    def make(was: Any) -> Any:
        def ids(self: Any, attempt: int) -> Any:
            if not _together():
                return was(self, attempt)
            return attempt * self.train.batch_size + np.arange(len(self.places))

        return ids

    return replaced(Loader, "ids", make)


def _gradients(factor: Callable[[int], float]) -> Patch:
    def make(was: Any) -> Any:
        def accumulate(called: Any, preprocess: Any, batches: Any, seed: int, state: Any,
                       context: Context) -> Any:  # fmt: skip
            output = was(called, preprocess, batches, seed, state, context)
            gradients = own([p.grad for p in called.parameters() if p.grad is not None])
            torch._foreach_mul_(gradients, factor(context.ranks.size))
            return output

        return accumulate

    return replaced(loop, "accumulate", make)


def _mean_of_means() -> Patch:
    return outputs(
        lambda o: replace(o, weight=torch.ones_like(o.weight)) if _together() else o
    )  # fmt: skip


def _no_sync() -> Patch:
    """Left out of the inner micro-batches, and of the last one too."""

    def make(was: Any) -> Any:
        def quiet(called: Any, last: bool) -> Any:
            if isinstance(called, DistributedDataParallel):
                return called.no_sync()
            return was(called, last)

        return quiet

    return replaced(loop, "quiet", make)


def _unwrapped() -> Patch:
    """The objective is called and not what it was wrapped in: copies that never meet."""

    def make(was: Any) -> Any:
        def spread(objective: Objective, config: Any, context: Any) -> Any:
            was(objective, config, context)
            return objective

        return spread

    return replaced(loop, "spread", make)


def _joined(change: Callable[[Output, list[Output], Any], Output], at: bool = True) -> Patch:
    def make(was: Any) -> Any:
        def join(outputs: list[Output], ranks: Ranks) -> Output:
            return change(was(outputs, ranks), outputs, was)

        return join

    return replaced(loop, "join", make)


def _own_loss() -> Patch:
    return _joined(lambda output, parts, was: replace(output, loss=was(parts, ALONE).loss))


def _own_weight() -> Patch:
    return _joined(lambda output, parts, was: replace(output, weight=was(parts, ALONE).weight))


def _own_statistics() -> Patch:
    return replaced(regularizers, "summed", lambda was: lambda x: x)


def _no_gradient() -> Patch:
    """The sum is right and each rank's gradient stays its own."""
    return replaced(sums._Sum, "backward", lambda was: staticmethod(lambda ctx, gradient: gradient))


def _even_rows() -> Patch:
    """Of a part that has a row more, the row is lost."""

    def make(was: Any) -> Any:
        def gathered(self: Ranks, x: Tensor) -> Tensor:
            if self.size == 1:
                return x
            count = torch.tensor([len(x)])
            dist.all_reduce(count, dist.ReduceOp.MIN)
            parts = [torch.empty_like(x[: int(count)]) for _ in range(self.size)]
            dist.all_gather(parts, x[: int(count)].contiguous())
            return torch.cat(parts)

        return gathered

    return replaced(Ranks, "gathered", make)


def _means() -> Patch:
    return replaced(Ranks, "summed", lambda was: lambda self, x: was(self, x) / self.size)


def _alone_with_nan() -> Patch:
    """Each rank goes by its own loss; the others train on a gradient that is not finite.

    A regularizer sums over ranks inside the loss: under one no rank can be alone with a NaN.
    """
    finite = [True]

    def judge(was: Any) -> Any:
        def init(self: Verdict, *given: Any) -> None:
            was(self, *given)
            if _together():
                self.refused = torch.tensor(float(not finite[0]))

        return init

    def read(was: Any) -> Any:
        def told(self: Verdict) -> Any:
            problem, stop = was(self)
            return (None if _together() and finite[0] else problem), stop

        return told

    def join(was: Any) -> Any:
        def noting(given: list[Output], ranks: Ranks) -> Any:
            finite[0] = all(bool(output.loss.isfinite()) for output in given)
            return was(given, ranks)

        return noting

    return several(replaced(loop, "join", join), replaced(Verdict, "__init__", judge),
                   replaced(Verdict, "read", read))  # fmt: skip


def _no_average() -> Patch:
    """As where a wrapper hides the teacher: nothing is said, and nothing moves."""

    def make(was: Any) -> Any:
        def init(self: Ema, pairs: Any, ranks: Ranks = ALONE) -> None:
            was(self, pairs if ranks.size == 1 else [], ranks)

        return init

    return replaced(Ema, "__init__", make)


def _own_seeds() -> Patch:
    """Each rank begins with weights of its own; copies are made alike again, shards are not."""

    def make(was: Any) -> Any:
        def initialise(self: Any, seed: int) -> None:
            was(self, seed + (dist.get_rank() if _together() else 0))

        return initialise

    return several(replaced(Jepa, "initialise", make), replaced(Nepa, "initialise", make))


def _norms_not_drawn() -> Patch:
    """Set when a norm is built and never again: under FSDP that was on the meta device."""

    def make(was: Any) -> Any:
        def reset(self: Any) -> None:
            if not hasattr(self, "was_built"):
                was(self)
            self.was_built = True

        return reset

    return replaced(nn.LayerNorm, "reset_parameters", make)


def _norm_of_shard() -> Patch:
    def make(was: Any) -> Any:
        def norm(objective: Objective, limit: float | None) -> Tensor:
            gradients = own([p.grad for p in objective.parameters() if p.grad is not None])
            total: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            if limit is not None:
                torch._foreach_mul_(gradients, (limit / total.clamp(min=1e-12)).clamp(max=1.0))
            return total

        return norm

    return replaced(loop, "gradient_norm", make)


def _asks_alone() -> Patch:
    def make(was: Any) -> Any:
        return lambda self, context: torch.full((), float(bool(self)), device=context.device)

    return replaced(StopRequest, "count", make)


def _first_saves() -> Patch:
    """The shards of the other ranks are forgotten."""

    def make(was: Any) -> Any:
        def written(folder: Any, tensors: dict[str, Tensor], ranks: Ranks) -> None:
            if not ranks.first:
                tensors = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
            was(folder, tensors, ranks)

        return written

    return replaced(checkpoint, "_write", make)


FAULTS: tuple[Fault, ...] = (
    Fault("ranks.same-slice", "All ranks read the first one's part.", CLASSIC,
          lambda: _reads(lambda ranks: (0, ranks[1])), ("ranks.each-sample-once",)),
    Fault("ranks.whole-batch-each", "Every rank reads all of the batch.",
          f"{HJEPA}, D24: no sampler", lambda: _reads(lambda ranks: (0, 1)),
          ("ranks.each-sample-once",)),
    Fault("ranks.same-draws", "All ranks draw the same masks and crops.",
          "I-JEPA (specification 1.9)", _own_ids, ("ranks.each-sample-once",)),
    Fault("ranks.sum", "Gradients are summed over ranks.", CLASSIC,
          lambda: _gradients(lambda size: float(size)), ("ranks.norm", "ranks.ddp-weights")),
    Fault("ranks.divided-twice", "Gradients are divided by the number of ranks twice.", CLASSIC,
          lambda: _gradients(lambda size: 1 / size), ("ranks.norm", "ranks.fsdp-weights")),
    Fault("ranks.mean-of-means", "Each rank's mean counts the same, whatever it is over.", CLASSIC,
          _mean_of_means, ("ranks.norm", "ranks.loss", "ranks.ddp-weights")),
    Fault("ranks.own-weight", "The gradient is divided by the terms of one rank.", CLASSIC,
          _own_weight, ("ranks.norm", "ranks.same-bits")),
    Fault("ranks.no-sync", "Gradients of the last micro-batch are not exchanged either.", CLASSIC,
          _no_sync, ("ranks.ddp-weights", "ranks.same-bits")),
    Fault("ranks.unwrapped", "The objective is called past its wrapper: copies drift apart.",
          CLASSIC, _unwrapped, ("ranks.ddp-weights", "ranks.same-bits")),
    Fault("ranks.own-loss", "The loss that is told is the rank's own.", CLASSIC, _own_loss,
          ("ranks.loss",)),
    Fault("ranks.own-statistics", "Variance and covariance are those of a rank's rows.",
          f"{HJEPA}, SIGReg", _own_statistics, ("ranks.statistics",)),
    Fault("ranks.sum-without-gradient", "A sum over ranks gives each its own gradient.",
          "torch.distributed.all_reduce", _no_gradient, ("ranks.reductions",)),
    Fault("ranks.even-rows", "Rows of all ranks are cut to the shortest part.", CLASSIC,
          _even_rows, ("ranks.reductions",)),
    Fault("ranks.mean", "A mean is taken where a sum over ranks is meant.", CLASSIC, _means,
          ("ranks.reductions",)),
    Fault("ranks.refused-alone", "Only the rank with the bad sample skips the step.", CLASSIC,
          _alone_with_nan, ("ranks.refused-together",), accumulates),
    Fault("ranks.no-average", "Under a wrapper the teacher does not move.", f"{HJEPA}, D3",
          _no_average, ("ranks.ddp-teacher", "ranks.fsdp-teacher"), averages),
    Fault("ranks.own-seeds", "Every rank draws initial weights of its own.", CLASSIC, _own_seeds,
          ("ranks.fsdp-weights",)),
    Fault("ranks.norms-not-drawn", "Norms keep what was in memory when the weights are drawn.",
          "latentcast, until this claim was measured: QK-norm", _norms_not_drawn,
          ("ranks.drawn",)),
    Fault("ranks.norm-of-a-shard", "The norm is that of the rank's shards.", CLASSIC,
          _norm_of_shard, ("ranks.norm",)),
    Fault("ranks.first-saves", "What lies on the other ranks is not saved.", CLASSIC,
          _first_saves, ("ranks.checkpoint",)),
    Fault("ranks.asks-alone", "Only the rank that got the signal leaves.", CLASSIC, _asks_alone,
          ("ranks.reductions",)),
)  # fmt: skip
