"""An objective spread over ranks: copies or shards, compiled or recomputed block by block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from latentcast.config import Config
from latentcast.engine.context import Context
from latentcast.nn.blocks import Block
from latentcast.objectives.base import Objective

MOST_VERSIONS = 64


def spread(objective: Objective, config: Config, context: Context) -> nn.Module:
    """What the loop calls in the place of the objective; its parameters stay the objective's own.

    In the order in which these must be: recompute inside compile inside shards. ``objective`` is
    changed in place, its parameter names are not. One that has shapes and no weights yet (built on
    the meta device) is drawn shard by shard: no device ever holds all of it.
    """
    machine, on_meta = config.machine, next(objective.parameters()).is_meta
    if not on_meta:
        objective.to(context.device)
    if machine.compile:
        # All blocks share one forward: of every width, with and without drop-path, gradient and
        # padding, in a few mask shapes. The default of 8 versions is for a single one.
        torch._dynamo.config.recompile_limit = MOST_VERSIONS
    blocks = [module for module in objective.modules() if isinstance(module, Block)]
    for block in blocks:
        if machine.recompute:
            block.forward = _recomputing(block.forward)  # type: ignore[method-assign]
        if machine.compile:
            block.compile(fullgraph=True)
    if context.ranks.size == 1:
        return objective
    if machine.parallel == "fsdp":
        sharded = _in_shards(objective, blocks, context)
        if on_meta:
            objective.to_empty(device=context.device)
            objective.initialise(config.train.seed)
        return sharded
    return DistributedDataParallel(objective)


def _in_shards(objective: Objective, blocks: list[Block], context: Context) -> nn.Module:
    """FSDP2, student, teacher and predictors alike, a block at a time and the rest together."""
    mesh = init_device_mesh(context.device.type, (context.ranks.size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    return objective


def _recomputing(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep the input alone. Drop-path is drawn from the step, so it drops the same again."""

    def again(*given: Any, **named: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        made: Tensor = checkpoint(
            forward, *given, use_reentrant=False, preserve_rng_state=False, **named
        )
        return made

    return again


def quiet(called: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Ranks exchange gradients once a step, with the last micro-batch."""
    if isinstance(called, DistributedDataParallel) and not last:
        return called.no_sync()
    if isinstance(called, FSDPModule):
        called.set_requires_gradient_sync(last)
    return nullcontext()


def own(tensors: list[Tensor]) -> list[Tensor]:
    """What this rank holds of each: its shard, or all of it."""
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]


def whole(tensor: Tensor) -> Tensor:
    """Put together from the shards of all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
