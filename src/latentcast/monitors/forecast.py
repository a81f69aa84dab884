"""What a training will cost, before its first step: size, time and memory on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine.context import Context
from latentcast.monitors.throughput import matmul_peak
from latentcast.objectives.base import Objective
from latentcast.randomness import Draw

REACHED = 0.5
"""Of the rate of a large matrix product; ``latentcast bench`` measures 0.4 to 0.7 of it."""
SAMPLES = 2
"""That are run forward once, to see what the backward pass will need to have in memory."""
GIB = 2**30


def forecast(
    objective: Objective,
    preprocess: Callable[[Tensor, Draw | None], Inputs],
    batch: Batch,
    config: Config,
    context: Context,
    records: int,
) -> Iterator[str]:
    """What is going to be trained and what it takes, in sentences; estimates, and named so.

    Args:
        objective: as it was built, before it is spread over devices.
        batch: a few samples of the first batch.
        records: of the training split.
    """
    train, ranks = config.train, context.ranks.size
    weights = sum(p.numel() for p in objective.parameters())
    trained = sum(p.numel() for p in objective.trainable().values())
    peak = matmul_peak(context.device, context.precision)
    flops = objective.step_flops(config.input.size) * train.batch_size
    seconds = flops / (REACHED * peak * ranks)
    # float32 all of it: weights; of those that are trained gradients and two moments.
    memory = 4 * (weights + 3 * trained) / (ranks if config.machine.parallel == "fsdp" else 1)
    activations, least = _activations(objective, preprocess, batch, config), "about"
    if activations is None:
        least = "at least"
    else:
        memory += activations * train.batch_size / train.micro_batches / ranks
    pieces = f" in {train.micro_batches} pieces" if train.micro_batches > 1 else ""
    yield (
        f"{config.recipe}: {weights / 1e6:.4g} million parameters, {trained / 1e6:.4g} trained; "
        f"{train.steps:,} steps of {train.batch_size:,}{pieces}; about {duration(seconds)} a step "
        f"and {duration(seconds * train.steps)} in all ({flops / 1e12:.3g} TFLOP a step, at "
        f"{REACHED:.0%} of the {peak / 1e9:.0f} GFLOP/s that a matrix product reaches here); "
        f"{least} {memory / GIB:.2g} GiB of memory"
    )
    if memory > (room := _memory(context.device)):
        yield (
            f"  warning: this device has {room / GIB:.2g} GiB; raise train.micro_batches, set "
            "machine.recompute=true, or lower train.batch_size"
        )
    if records < train.batch_size:
        yield (
            f"  warning: the training split has {records:,} records, fewer than a batch of "
            f"{train.batch_size:,}; each is {train.batch_size / records:.3g} times in every batch, "
            "lower train.batch_size"
        )


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    for unit, size in (("years", 31_557_600), ("days", 86_400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _activations(
    objective: Objective,
    preprocess: Callable[[Tensor, Draw | None], Inputs],
    batch: Batch,
    config: Config,
) -> float | None:
    """Bytes a sample that a forward pass keeps for the backward one; None where that is not seen:
    before the weights are drawn, and where activations are made anew."""
    if config.machine.recompute or next(objective.parameters()).is_meta:
        return None
    weights = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    half = config.train.precision != "fp32"
    draw = Draw(config.train.seed, 0, batch.ids)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        inputs = preprocess(batch.samples, draw).with_targets(batch.targets)
        output = objective(inputs, draw)
    del output
    return sum(kept.values()) / len(batch.samples)


def _memory(device: torch.device) -> float:
    """Bytes of the device, or of the main memory that this process may use."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdigit():
        limits.append(int(text))
    return float(min(limits))
