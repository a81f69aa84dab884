"""Ranks as processes, forked from one that has imported torch and not from the one that tests."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

PRELOADED = ["torch", "torch.distributed.fsdp", "latentcast.engine.loop", "latentcast.recipes"]


def in_ranks(work: Callable[..., None], size: int, *arguments: Any) -> None:
    """``work(rank, *arguments)`` in so many processes; one that fails raises here."""
    multiprocessing.set_forkserver_preload(PRELOADED)  # seconds, for each process else
    mp.start_processes(work, arguments, nprocs=size, start_method="forkserver")  # type: ignore[no-untyped-call]
