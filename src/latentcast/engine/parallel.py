"""An objective spread over ranks: copies or shards, compiled or recomputed unit by unit."""

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
from latentcast.nn.base import Unit
from latentcast.objectives.base import Objective

MOST_VERSIONS = 64


def distribute(objective: Objective, config: Config, context: Context) -> nn.Module:
    """What the loop calls in the place of the objective; its parameters stay the objective's own.

    In the order in which these must be: recompute inside compile inside shards. ``objective`` is
    changed in place, its parameter names are not. One that has shapes and no weights yet (built on
    the meta device) is drawn shard by shard: no device ever holds all of it.
    """
    machine, on_meta = config.machine, next(objective.parameters()).is_meta
    if not on_meta:
        objective.to(context.device)
    if machine.compile:
        # All units of a kind share one forward: of every width, with and without drop-path,
        # gradient and padding, in a few mask shapes. The default of 8 versions is for one.
        torch._dynamo.config.recompile_limit = MOST_VERSIONS
    units = [module for module in objective.modules() if isinstance(module, Unit)]
    for unit in units:
        if machine.recompute:
            unit.forward = _recomputing(unit.forward)
        if machine.compile:
            unit.compile(fullgraph=True)
    if context.ranks.size == 1:
        return objective
    if machine.parallel == "fsdp":
        sharded = _in_shards(objective, units, context)
        if on_meta:
            objective.to_empty(device=context.device)
            objective.initialise(config.train.seed)
        return sharded
    return DistributedDataParallel(objective)


def _in_shards(objective: Objective, units: list[Unit], context: Context) -> nn.Module:
    """FSDP2, student, teacher and predictors alike, a unit at a time and the rest together."""
    mesh = init_device_mesh(context.device.type, (context.ranks.size,))
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    return objective


def _recomputing(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep the input alone. Drop-path is drawn from the step, so it drops the same again."""

    def again(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        output: Tensor = checkpoint(
            forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )
        return output

    return again


def no_sync(model: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Ranks exchange gradients once a step, with the last micro-batch."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    return nullcontext()


def local_shards(tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor's shard on this rank, or all of it."""
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]


def full_tensor(tensor: Tensor) -> Tensor:
    """Put together from the shards of all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
