"""A training step beside a textbook's, beside itself compiled, and beside what it cannot go under.

    python benchmarks/step.py [--recipes nepa-ecg-tiny ...] [--batch N] [--compile] [--out FILE]

Everything is timed in turns in one process, and a ratio is taken pair by pair; on a CPU the time is
that of the process on its processors, because machines are shared. The floor is the sum of three
things measured in the same run: the operations of the matrix products over the measured peak, the
bytes of weights, gradients, moments and averages that a step moves over the measured bandwidth, and
the operators it calls times the cost of one that does nothing. Recipes without a textbook
(hierarchies) have the floor alone. ``benchmarks/README.md`` has a table of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine.context import Context
from latentcast.files import write_text
from latentcast.monitors.throughput import wait
from latentcast.nn import blocks
from latentcast.objectives.build import build
from latentcast.recipes import recipe
from latentcast.workflows.bench import machine, operations, step_of
from textbook import textbook_step

RECIPES = ("nepa-ecg-tiny", "ijepa-ecg-tiny", "conv-ecg-tiny")
WARMUP = 3
Step = Callable[[], object]


class Counted(TorchDispatchMode):
    """How many operators were called inside."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def seconds(run: Step, device: torch.device) -> float:
    """Of the process on a CPU, of the clock on another device."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    wait(device)
    start = clock()
    run()
    wait(device)
    return clock() - start


def numbered_step(config: Config, context: Context) -> Callable[[int], object]:
    """The engine's step on random values that are as large as the recipe's; a number has its draw.

    Recordings come with flags of what was measured, images without.
    """
    size = (config.train.batch_size, config.input.channels, *config.input.size)
    batch = Batch(torch.randn(size).to(context.device), torch.arange(size[0]))
    flagged = config.input.kind == "ecg"
    valid = torch.ones(size, dtype=torch.bool, device=context.device) if flagged else None
    return step_of(config, lambda x, draw: Inputs(x, valid), [batch], context)


def own_step(config: Config, context: Context) -> Step:
    """The engine's step, eight draws of masks in turn: compiled code has met them."""
    step, numbers = numbered_step(config, context), itertools.cycle(range(8))
    return lambda: step(next(numbers))


def kernel_step(config: Config, context: Context) -> Step:
    """The same step with torch's attention kernel and no short attention."""
    step = own_step(config, context)

    def slower() -> None:
        rule = blocks.computed_in
        blocks.computed_in = lambda qkv: None
        try:
            step()
        finally:
            blocks.computed_in = rule

    return slower


def product_peak(context: Context) -> float:
    """Operations a second of a square matrix product, the best of a few."""
    size = 8192 if context.device.type == "cuda" else 1024
    a = torch.randn(size, size, device=context.device, dtype=context.precision)
    return 2 * size**3 / min(seconds(lambda: a @ a, context.device) for _ in range(6))


def floors(config: Config, own: Step, context: Context, peak: float) -> dict[str, Any]:
    """Milliseconds that a step cannot go under, by what they are spent on."""
    device = context.device
    with Counted() as counted:
        own()
    block = torch.empty(2**26 if device.type == "cuda" else 2**24, device=device)
    target, one = torch.empty_like(block), torch.zeros(1, device=device)
    copies = min(seconds(lambda: target.copy_(block), device) for _ in range(8))

    def calls() -> None:
        for _ in range(1000):
            one.add_(1)

    call = min(seconds(calls, device) for _ in range(8)) / 1000
    objective = build(config)
    trained = sum(p.numel() for p in objective.trainable().values())
    averaged = sum(p.numel() for _, teacher in objective.ema_pairs() for p in teacher.parameters())
    # AdamW reads four numbers a weight and writes three; clipping reads one and writes one; the
    # average reads two and writes one.
    clipped = 0 if config.optimizer.clip_grad_norm is None else 2
    moved = 4 * ((7 + clipped) * trained + 3 * averaged)
    parts = {
        "operations_ms": 1e3 * operations(config) / config.train.steps / peak,
        "weights_ms": 1e3 * moved * copies / (2 * 4 * block.numel()),
        "dispatch_ms": 1e3 * counted.calls * call,
    }
    return {name: round(value, 3) for name, value in parts.items()} | {"calls": counted.calls}


def measure(config: Config, rounds: int, compiled: bool) -> dict[str, Any]:
    context = Context.of(config)
    device = context.device
    steps: dict[str, Step] = {"step": own_step(config, context)}
    if textbook := textbook_step(config, context):
        steps["textbook"] = textbook
    if device.type == "cpu" and any(isinstance(m, blocks.Block) for m in build(config).modules()):
        steps["kernel_attention"] = kernel_step(config, context)
    if compiled:
        steps["compiled"] = own_step(config.updated({"machine.compile": True}), context)
    for name, step in steps.items():
        for _ in range(9 if name == "compiled" else WARMUP):
            step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    peak = 0.0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for number in range(rounds):
        peak = max(peak, product_peak(context))
        for name in list(steps) if number % 2 == 0 else reversed(list(steps)):
            taken[name].append(seconds(steps[name], device))
    own = taken["step"]
    median = statistics.median(own)
    floor = floors(config, steps["step"], context, peak)
    lowest = sum(floor[name] for name in ("operations_ms", "weights_ms", "dispatch_ms"))
    found: dict[str, Any] = {
        "recipe": config.recipe,
        "batch_size": config.train.batch_size,
        "tokens": [list(grid) for grid in config.grids],
        "machine": machine(config, context),
        "rounds": rounds,
        "step_ms": round(1e3 * median, 2),
        "peak_gflops": round(peak / 1e9, 1),
        "of_peak": round(floor["operations_ms"] / 1e3 / median, 3),
        "floor": floor,
        "of_floor": round(1e3 * median / lowest, 2),
    }
    if device.type == "cuda":
        found["peak_memory_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    for name in steps:
        if name != "step":
            found[f"against_{name}"] = {
                "ms": round(1e3 * statistics.median(taken[name]), 2),
                "times_as_fast": spread([a / b for a, b in zip(taken[name], own, strict=True)]),
            }
    return found


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """How many times as fast the step is: median and extremes of the pairs."""
    low, high = min(ratios), max(ratios)
    return {"median": round(statistics.median(ratios), 3), "least": round(low, 3),
            "most": round(high, 3)}  # fmt: skip


def _named(row: dict[str, Any]) -> tuple[object, ...]:
    about = row["machine"]
    return row["recipe"], row["batch_size"], about["precision"], about["device"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--batch", type=int, help="samples a step; by default the recipe's")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="also with compiled blocks")
    parser.add_argument("--out", type=Path, help="rows of this file are replaced or added to")
    arguments = parser.parse_args()
    changes = {
        key: yaml.safe_load(text) for key, _, text in (p.partition("=") for p in arguments.set)
    }
    if arguments.batch:
        changes["train.batch_size"] = arguments.batch
    out, found = arguments.out, []
    rows = json.loads(out.read_text()) if out and out.exists() else []
    for name in arguments.recipes:
        config = recipe(name).updated({"machine.loggers": [], **changes})
        row = measure(config, arguments.rounds, arguments.compile)
        found.append(row)
        rows = [other for other in rows if _named(other) != _named(row)] + [row]
        if out:
            write_text(out, json.dumps(rows, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
