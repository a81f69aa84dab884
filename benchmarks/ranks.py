"""What a rank sends for a step, and what the exchange costs it, on gloo ranks of this machine.

    python benchmarks/ranks.py [--recipe nepa-ecg-tiny] [--batch 8] [--ranks 1 2] [--steps 6]

Each number of ranks trains the same whole batch, cut into parts. Bytes are those handed to the
collectives (the buckets of DDP, and what the engine sums itself); processor time is the median of
a rank's steps. ``docs/scale.md`` holds its model of traffic against both. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from latentcast.batch import Batch, Inputs
from latentcast.engine import parallel
from latentcast.engine.context import Context
from latentcast.engine.ranks import Ranks
from latentcast.objectives.build import build
from latentcast.recipes import recipe
from latentcast.workflows.bench import step_of


class Sent:
    """Bytes handed to all-reduces."""

    def __init__(self) -> None:
        self.buckets = self.sums = 0
        self._reduce = dist.all_reduce
        self._wrap = parallel.DistributedDataParallel

    def __enter__(self) -> Sent:
        def reduced(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.sums += tensor.nbytes
            return self._reduce(tensor, *args, **kwargs)

        def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP reads its annotations
            self.buckets += bucket.buffer().nbytes
            gradient = bucket.buffer().div_(dist.get_world_size())
            work = self._reduce(gradient, async_op=True)
            return work.get_future().then(lambda done: done.value()[0])

        class Watched(DistributedDataParallel):
            def __init__(self, module: torch.nn.Module) -> None:
                super().__init__(module)
                self.register_comm_hook(None, hook)

        dist.all_reduce, parallel.DistributedDataParallel = reduced, Watched
        return self

    def __exit__(self, *error: object) -> None:
        dist.all_reduce, parallel.DistributedDataParallel = self._reduce, self._wrap


def train(rank: int, size: int, name: str, batch: int, steps: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    if size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{out}/meet", rank=rank, world_size=size
        )
    config = recipe(name).updated({"machine.loggers": [], "train.batch_size": batch})
    context = Context.of(config, Ranks(rank, size, rank))
    own = batch // size
    shape = (own, config.input.channels, *config.input.size)
    samples = Batch(torch.randn(shape), torch.arange(rank * own, (rank + 1) * own))
    with Sent() as sent:
        step = step_of(config, lambda x, draw: Inputs(x), [samples], context)
        for number in range(2):
            step(number)
        before, taken = (sent.buckets, sent.sums), []
        for number in range(steps):
            start = time.process_time()
            step(number)
            taken.append(time.process_time() - start)
        found = {
            "gradient_bytes": (sent.buckets - before[0]) // steps,
            "other_bytes": (sent.sums - before[1]) // steps,
            "processor_ms": round(1e3 * statistics.median(taken), 1),
        }
    if rank == 0:
        Path(out, "found.json").write_text(json.dumps(found))
    if size > 1:
        dist.destroy_process_group()


def measure(name: str, batch: int, sizes: Sequence[int], steps: int) -> dict[str, Any]:
    objective = build(recipe(name))
    trained = sum(p.numel() for p in objective.trainable().values())
    found: dict[str, Any] = {"recipe": name, "batch_size": batch, "trained_weights": trained}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="latentcast-ranks-") as folder:
            mp.spawn(train, (size, name, batch, steps, folder), nprocs=size)
            found[f"{size} ranks"] = json.loads(Path(folder, "found.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="nepa-ecg-tiny")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    found = measure(arguments.recipe, arguments.batch, arguments.ranks, arguments.steps)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
