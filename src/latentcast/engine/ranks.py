"""The processes of one run, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from latentcast.errors import LatentcastError

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others: a rank that is gone must end the job, not hang it."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many. torchrun starts them and says so in the environment."""

    rank: int = 0
    size: int = 1
    local: int = 0
    """Its place on this node: which of the node's devices is its own."""

    @property
    def first(self) -> bool:
        """The one that writes files and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def summed(self, x: Tensor) -> Tensor:
        """Sum over ranks, without gradient; ``x`` itself with one."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    def gathered(self, x: Tensor) -> Tensor:
        """The rows of all ranks, in their order; a rank may have one row more than another."""
        if self.size == 1:
            return x
        own = torch.tensor([len(x)], device=x.device)
        counts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(counts, own)
        rows = [int(count) for count in counts]
        padded = x.new_zeros((max(rows), *x.shape[1:]))
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


ALONE = Ranks()
"""A process of its own, without torchrun."""


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started; alone without it.

    A program that has met already (a test, a notebook) stays as it is.

    Raises:
        LatentcastError: another rank is gone, or did not come in time; the environment names
            several processes and not which one this is.
    """
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
        return
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    found = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    missing = [name for name, text in found.items() if not (text or "").isdecimal()]
    missing += [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise LatentcastError(
            f"WORLD_SIZE {found['WORLD_SIZE']}: is in the environment without {missing[0]}, which "
            "torchrun sets; start with torchrun --nproc-per-node N -m latentcast train ..., or "
            "unset WORLD_SIZE to train in one process"
        )
    ranks = Ranks(*(int(text or 0) for text in found.values()))
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(ranks.local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
        yield ranks
    except RuntimeError as problem:
        # gloo has no class of errors of its own.
        if not isinstance(problem, dist.DistError) and "gloo" not in str(problem):
            raise
        raise LatentcastError(
            f"rank {ranks.rank} of {ranks.size}: another rank is gone or did not answer; what "
            "that one said last tells why, and the same command goes on from the last checkpoint "
            f"({problem})"
        ) from problem
    # Only after an orderly end: destroying a group whose other ranks are gone would wait for them.
    dist.destroy_process_group()
