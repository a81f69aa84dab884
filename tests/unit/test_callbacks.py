"""Several callbacks as one: in their order, and none makes the loop read more than it wants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine import loop
from latentcast.engine.callbacks import Callback, CallbackList
from latentcast.engine.checkpoint import State
from latentcast.objectives.build import build

HOOKS = ("on_train_start", "on_batch_start", "on_step_end", "on_skip", "on_train_end")


class Listener(Callback):
    """Writes down which of its hooks are called, under its name."""

    def __init__(self, name: str, calls: list[str], every: int = 1) -> None:
        self.name, self.calls, self.every = name, calls, every

    def wants(self, step: int) -> bool:
        self.calls.append(f"{self.name} wants {step}")
        return step % self.every == 0


def _noted(hook: str) -> Any:
    return lambda self, *arguments: self.calls.append(f"{self.name} {hook}")


for hook in HOOKS:
    setattr(Listener, hook, _noted(hook))


class Skips(Callback):
    """Listens to skipped batches alone."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def on_skip(self, state: State, problem: str) -> None:
        self.problems.append(problem)


def trained(config: Config, run: Path, *callbacks: Callback, poisoned: int | None = None) -> State:
    def stream(attempt: int) -> Iterator[list[Batch]]:
        while True:
            x = torch.randn(6, 12, 400, generator=torch.Generator().manual_seed(attempt))
            x[0, 0, 0] = torch.nan if attempt == poisoned else x[0, 0, 0]
            yield [Batch(x, torch.arange(6) + 6 * attempt)]
            attempt += 1

    return loop.train(build(config), lambda x, _: Inputs(x), stream, config, run, callbacks)


def test_callbacks_are_called_in_their_order_and_asked_once_a_step(
    small_config: Config, tmp_path: Path
) -> None:
    config = small_config.updated({"train.steps": 3, "train.micro_batches": 1,
                                   "optimizer.warmup_steps": 1})  # fmt: skip
    calls: list[str] = []
    callbacks = Listener("a", calls), Listener("b", calls, every=2)
    assert trained(config, tmp_path, *callbacks, poisoned=2).skipped == 1

    def both(hook: str) -> list[str]:
        return [f"a {hook}", f"b {hook}"]

    def step(number: int) -> list[str]:
        return [*both("on_batch_start"), *both(f"wants {number}")]

    assert calls == [
        *both("on_train_start"),
        *step(1), "a on_step_end",
        *step(2), *both("on_step_end"),
        *step(3), *both("on_skip"),
        *step(3), "a on_step_end",
        *both("on_train_end"),
    ]  # fmt: skip


def test_one_that_hears_of_skips_alone_makes_the_loop_read_no_step(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a step waits for the device and collects garbage."""
    assert not any(CallbackList([Skips(), Callback()]).wants(step) for step in range(1, 9))
    assert CallbackList([Skips(), Listener("a", [])]).wants(1)
    read: list[int] = []
    monkeypatch.setattr(CallbackList, "on_step_end", lambda *a: read.append(a[1].step))
    skips = Skips()
    changes = {"train.steps": 4, "train.micro_batches": 1}
    trained(small_config.updated(changes), tmp_path, skips, poisoned=1)
    assert read == [] and len(skips.problems) == 1 and "gradient norm" in skips.problems[0]
