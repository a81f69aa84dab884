"""What a training will cost, before its first step: size, time and memory on this machine."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentcast.batch import Batch, Inputs
from latentcast.config import Config, EcgInput
from latentcast.data.loader import Loader
from latentcast.engine.context import Context
from latentcast.errors import LatentcastError
from latentcast.monitors.throughput import matmul_peak
from latentcast.objectives.base import Objective
from latentcast.randomness import Draw

REACHED = 0.5
"""Of the rate of a large matrix product; ``latentcast bench`` measures what a recipe reaches."""
SECONDS, LEAST = 0.5, 2
"""For about so long samples are tried, but at the least so many of them."""
GIB, WEEK = 2**30, 7 * 86_400


def forecast(
    objective: Objective,
    preprocess: Callable[[Tensor, Draw | None], Inputs],
    loader: Loader,
    config: Config,
    context: Context,
) -> Iterator[str]:
    """What is going to be trained and what it takes, in sentences; estimates, and named so.

    The step is tried on a few samples, unless it cannot be (weights in shards that are not drawn
    yet; several ranks, for whose sums one would wait alone, for ever) or would tell nothing (it
    will run on a GPU); then its time follows from its operations.

    Args:
        objective: as it was built, before it is spread over devices; its gradients are emptied.
    """
    train, ranks, device = config.train, context.ranks.size, context.device
    weights = sum(p.numel() for p in objective.parameters())
    trained = sum(p.numel() for p in objective.trainable().values())
    peak = matmul_peak(device, context.precision)
    flops = objective.step_flops(config.input.size)
    most = -(-train.batch_size // (train.micro_batches * ranks))
    count = min(most, LEAST)
    if device.type == "cpu":
        count = min(most, max(LEAST, int(SECONDS * REACHED * peak / flops)))
    # float32 all of it: weights; of those that are trained gradients and two moments.
    memory = 4 * (weights + 3 * trained) / (ranks if config.machine.parallel == "fsdp" else 1)
    seconds, least = flops / (REACHED * peak), "at least"
    how = f"{REACHED:.0%} of the {peak / 1e9:.0f} GFLOP/s that a matrix product reaches here"
    if ranks == 1 and not next(objective.parameters()).is_meta:
        took, kept = _tried(objective, preprocess, loader.batch(0, count), config)
        if not config.machine.recompute:
            memory, least = memory + kept * most, "about"
        if device.type == "cpu":
            seconds, how = took, f"measured on {count} samples"
    seconds *= train.batch_size / ranks
    pieces = f" in {train.micro_batches} pieces" if train.micro_batches > 1 else ""
    yield (
        f"{config.recipe}: {weights / 1e6:.4g} million parameters, {trained / 1e6:.4g} trained; "
        f"{train.steps:,} step{'s' * (train.steps != 1)} of {train.batch_size:,}{pieces}; "
        f"about {duration(seconds)} a step "
        f"and {duration(seconds * train.steps)} in all ({flops * train.batch_size / 1e12:.3g} "
        f"TFLOP a step; {how}); {least} {memory / GIB:.2g} GiB of memory"
    )
    if memory > (room := _memory(device)):
        yield (
            f"  warning: this device has {room / GIB:.2g} GiB available; raise "
            "train.micro_batches, set machine.recompute=true, or lower train.batch_size"
        )
    if seconds * train.steps > WEEK:
        yield (
            "  warning: that is longer than a week; --auto EPOCHS takes the steps from the number "
            "of records, --steps N sets them"
        )
    if (records := len(loader.order.rows)) < train.batch_size:
        yield (
            f"  warning: the training split has {records:,} records, fewer than a batch of "
            f"{train.batch_size:,}; each is {train.batch_size / records:.3g} times in every batch, "
            "lower train.batch_size"
        )
    if isinstance(config.input, EcgInput):
        yield from _padding(config, config.input, loader)


def _padding(config: Config, recording: EcgInput, loader: Loader) -> Iterator[str]:
    """A warning where most of what the network reads is no signal."""
    lengths = loader.store.lengths[loader.order.rows]
    median = float(np.median(lengths))
    if median >= recording.length / 2:
        return
    rate, to = recording.sampling_rate, ""
    length = int(median) // config.encoder.patch * config.encoder.patch
    with suppress(LatentcastError):  # where masks or levels need more patches
        config.updated({"input.length": length})
        to = f" to {length}"
    full = recording.length / rate
    others = f", or leave them out, with ingest --shortest {full:g}"
    yield (
        f"  warning: half of the records last {median / rate:.3g} s or less and a window {full:g} "
        f"s, so most of what is trained on is padding; lower input.length{to}"
        + others
        * bool((lengths >= recording.length).any())
    )


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    for unit, size in (("years", 31_557_600), ("days", 86_400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _tried(
    objective: Objective,
    preprocess: Callable[[Tensor, Draw | None], Inputs],
    batch: Batch,
    config: Config,
) -> tuple[float, float]:
    """Of a forward and a backward pass, for each sample: seconds, and the bytes kept between."""
    weights = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    half = config.train.precision != "fp32"
    draw = Draw(config.train.seed, 0, batch.ids)
    took = inf
    for _ in range(2):  # the first one warms up
        kept.clear()
        start = time.perf_counter()
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=half),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            inputs = preprocess(batch.samples, draw).with_targets(batch.targets)
            output = objective(inputs, draw)
        torch.autograd.backward(output.loss)
        objective.zero_grad()
        took = min(took, time.perf_counter() - start)
        if took > SECONDS:
            break
    return took / len(batch), sum(kept.values()) / len(batch)


def _memory(device: torch.device) -> float:
    """Bytes of the device, or of the main memory, that nobody else uses."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    limits = [math.inf]  # Windows tells neither
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    about = Path("/proc/meminfo")
    if about.is_file() and (
        free := re.search(r"MemAvailable: *(\d+) kB", about.read_text(encoding="utf-8"))
    ):
        limits.append(int(free[1]) * 1024)
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text(encoding="utf-8").strip()).isdigit():
        limits.append(int(text))
    return float(min(limits))
