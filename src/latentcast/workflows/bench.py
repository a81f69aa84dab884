"""How fast is what: the training step, its parts, and what feeds it, measured on this machine."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.data.fit import fitted, reading
from latentcast.data.store import Store
from latentcast.data.synthetic import MOST_RECORDS, read_source, write_source
from latentcast.engine.callbacks import MicroBatches
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.loop import Preprocess, accumulate, gradient_norm
from latentcast.engine.optimizer import build_optimizer, take_step
from latentcast.engine.parallel import distribute
from latentcast.engine.schedules import Schedules
from latentcast.engine.verdict import Verdict
from latentcast.errors import LatentcastError, nearest
from latentcast.monitors.journal import Journal
from latentcast.monitors.throughput import matmul_peak, wait
from latentcast.nn.pooling import BATCH as EMBEDDED
from latentcast.objectives.base import Output
from latentcast.objectives.build import assemble, build

Part = Literal["step", "forward", "loader", "ingest", "ema", "monitors"]
PARTS: tuple[Part, ...] = get_args(Part)
CPU = torch.device("cpu")
WARMUP = 2
LOADER_SECONDS = 0.2
"""Of one round."""
T = TypeVar("T")
Taken = tuple[State, Output, Tensor, Schedules, Ema]


def bench(
    config: Config, data: Path | None = None, what: Sequence[str] = PARTS, rounds: int = 7
) -> dict[str, Any]:
    """Measure a configuration, each part over some rounds after warm-up rounds.

    Medians and quartiles over the rounds, because machines are shared; a share (of the peak, of a
    step) is taken round by round, between things that ran one after the other. Without ``data``
    the store is synthetic: recordings of known rhythm or images of noise, as many and as large as
    the configuration reads them, ingested into a temporary folder.

    Args:
        config: resolved.
        data: store to read from.
        what: of :data:`PARTS`.
        rounds: of each part.

    Raises:
        LatentcastError: an unknown part, no round, a store that does not fit the configuration.
    """
    for part in what:
        if part not in PARTS:
            raise LatentcastError(f"--what {part}: is no part; {nearest(part, PARTS)}")
    if rounds < 1:
        raise LatentcastError(f"--rounds {rounds}: measures nothing; give 1 or more")
    config = config.updated({"machine.loggers": []})  # nobody wants a run of this
    context = Context.of(config)
    measured: dict[str, Any] = {"recipe": config.recipe}
    with tempfile.TemporaryDirectory(prefix="latentcast-bench-") as name:
        folder = Path(name)
        if data is None or "ingest" in what:
            source = write_source(config, folder, MOST_RECORDS)
        store = Store.open(data) if data else read_source(config, source, folder / "store").store
        config = fitted(config, store)
        loader, preprocess = reading(store, config)
        measured |= {
            "data": store.path.name if data else "synthetic",
            "batch_size": config.train.batch_size,
            "micro_batches": config.train.micro_batches,
            "rounds": rounds,
            "machine": machine(config, context),
        }
        with contextlib.closing(loader.stream(0)) as batches:
            first = next(batches)
            if "loader" in what:
                measured["loader"] = _loader(batches, config, rounds)
        if "forward" in what:
            measured["forward"] = _forward(config, preprocess, first, context, rounds)
        if {"step", "ema", "monitors"} & set(what):
            training = _training(config, preprocess, first, context, folder, rounds)
            measured |= {part: found for part, found in training.items() if part in what}
        if "ingest" in what:
            measured["ingest"] = _ingest(config, source, folder, rounds)
    return measured


def step_of(
    config: Config, preprocess: Preprocess, micro_batches: MicroBatches, context: Context
) -> Callable[[int], Taken]:
    """Training steps as the engine takes them, by their number, all of the same batch.

    What a step gives is what the engine tells its watcher. The same number has the same masks.
    """
    objective = build(config)
    called = distribute(objective, config, context)
    objective.train()
    optimizer, schedules = build_optimizer(objective, config.optimizer), Schedules.of(config)
    ema = Ema(objective.ema_pairs(), context.ranks)
    nobody = torch.zeros((), device=context.device)

    def step(number: int) -> Taken:
        state = State(number)
        output = accumulate(called, preprocess, micro_batches, config.train.seed, state, context)
        norm = gradient_norm(objective, config.optimizer.clip_grad_norm)
        verdict = Verdict(output, norm, nobody)
        schedules.apply(optimizer, state.step)
        take_step(optimizer, verdict.refused)
        ema.update(schedules.momentum(state.step), verdict.refused)
        state.step += 1
        if not context.ahead:
            verdict.read()
        return state, output, norm, schedules, ema

    return step


def operations(config: Config) -> float:
    """In the matrix products of a whole run, backward included."""
    return float(_step_flops(config) * config.train.steps)


def _step_flops(config: Config) -> int:
    with torch.device("meta"):  # shapes are enough
        objective = assemble(config)
    # Not within: masks whose size is a matter of chance are counted in draws, of numbers.
    return objective.step_flops(config.input.size) * config.train.batch_size


def machine(config: Config, context: Context) -> dict[str, Any]:
    """What the numbers are of."""
    on_gpu = context.device.type == "cuda"
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(context.device) if on_gpu else context.device.type,
        "precision": config.train.precision,
        "compile": config.machine.compile,
        "recompute": config.machine.recompute,
        "workers": config.machine.workers,
    }


def _training(
    config: Config,
    preprocess: Preprocess,
    first: MicroBatches,
    context: Context,
    folder: Path,
    rounds: int,
) -> dict[str, Any]:
    """The step, and beside each step the two things whose share of it is asked for."""
    device, size, every = context.device, config.train.batch_size, config.train.log_every
    flops = _step_flops(config)
    step = step_of(config, preprocess, first, context)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # Compiled code is made for each shape of the masks: what is measured has run before.
    for number in range(rounds if config.machine.compile else WARMUP):
        taken = step(number)
    never = torch.zeros((), device=device)
    steps, peaks, averages, looks = [], [], [], []
    quiet = contextlib.redirect_stdout(io.StringIO())  # its lines are no part of the JSON object
    with quiet, Journal(folder, config, flops // size) as journal:
        journal.on_train_start(State(), context)
        journal.on_step_end(*taken)
        for number in range(rounds):
            peaks.append(matmul_peak(device, context.precision))
            seconds, taken = timed(partial(step, number), device)
            steps.append(seconds)
            *_, schedules, ema = taken
            again = partial(ema.update, schedules.momentum(number), never)
            averages.append(timed(again, device)[0])
            looks.append(timed(partial(journal.on_step_end, *taken), device)[0])
    memory = _peak_memory(device)
    took = np.array(steps)
    return {
        "step": {
            "ms": spread_of(1e3 * took),
            "samples_per_second": spread_of(size / took),
            "gflops": spread_of(flops / took / 1e9),
            "of_peak": spread_of(flops / took / np.array(peaks)),
            "peak_gflops": spread_of(np.array(peaks) / 1e9),
            "peak_memory_mib": memory,
            "whole_run": {
                "steps": config.train.steps,
                "teraflop": _rounded(operations(config) / 1e12),
                "hours": _rounded(config.train.steps * float(np.median(took)) / 3600),
            },
        },
        "ema": {
            "ms": spread_of(1e3 * np.array(averages)),
            "of_step": spread_of(np.array(averages) / took),
        },
        "monitors": {
            "look_ms": spread_of(1e3 * np.array(looks)),
            "log_every": every,
            "of_training": spread_of(np.array(looks) / (every * took)),
        },
    }


def _forward(
    config: Config, preprocess: Preprocess, first: MicroBatches, context: Context, rounds: int
) -> dict[str, Any]:
    """The frozen encoder as ``embed`` reads it: every layer, in float32, without a draw."""
    device = context.device
    network = build(config).to(device).eval().encoder("teacher")
    samples = torch.cat([piece.samples for piece in first])[:EMBEDDED].to(device)
    flops = network.flops(config.input.size) * len(samples)

    @torch.no_grad()
    def embed() -> None:
        inputs: Inputs = preprocess(samples, None)
        valid = None if inputs.valid is None else network.valid(inputs.valid)
        network.read(inputs.values, valid)

    for _ in range(WARMUP):
        embed()
    pairs = [(matmul_peak(device, torch.float32), timed(embed, device)[0]) for _ in range(rounds)]
    peaks, took = np.array(pairs).T
    return {
        "batch": len(samples),
        "ms": spread_of(1e3 * took),
        "samples_per_second": spread_of(len(samples) / took),
        "gflops": spread_of(flops / took / 1e9),
        "of_peak": spread_of(flops / took / peaks),
    }


def _loader(batches: Iterator[MicroBatches], config: Config, rounds: int) -> dict[str, Any]:
    """Batches taken as fast as they come; the first ones, read ahead, are not counted."""

    def rate() -> float:
        start, records = time.perf_counter(), 0
        while (took := time.perf_counter() - start) < LOADER_SECONDS or not records:
            next(batches)
            records += config.train.batch_size
        return records / took

    rate()
    return {"records_per_second": spread_of(np.array([rate() for _ in range(rounds)]))}


def _ingest(config: Config, source: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """An array file of the recipe's kind into a new store, shards synced to disk."""
    rates = []
    for number in range(rounds + 1):
        read = partial(read_source, config, source, folder / f"ingest-{number}")
        seconds, done = timed(read, CPU)
        rates.append(done.records / seconds)
    return {
        "source": "arrays",
        "records": done.records,
        "records_per_second": spread_of(np.array(rates[1:])),  # the first one warms up
    }


def timed(run: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds of a call, from an idle device to an idle device, and what it gave."""
    wait(device)
    start = time.perf_counter()
    result = run()
    wait(device)
    return time.perf_counter() - start, result


def spread_of(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Median and quartiles, to four digits."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return {"median": _rounded(median), "quartiles": [_rounded(low), _rounded(high)]}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _peak_memory(device: torch.device) -> int | None:
    """MiB of the device since the first step; of a CPU those of the whole process until now,
    which Windows does not tell."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
