"""What a run says: ``metrics.jsonl``, one log line, a progress bar on a terminal."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TextIO

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from latentcast.config import Config
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.ranks import ALONE, Ranks
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.files import parse_object, read_text, write_text
from latentcast.monitors import collapse, early, rows
from latentcast.monitors.loggers import Logger, open_loggers
from latentcast.monitors.rows import Column
from latentcast.monitors.throughput import matmul_peak, wait
from latentcast.objectives.base import Output, View
from latentcast.terminal import Terminal

PATIENCE = 500
"""Steps after which a JEPA's predictor has to answer with more than a constant, as it does at
first: with I-JEPA's warm-up the demo's recipes need some 350."""
MEMORY = 20
"""Logged losses that a new one is held against."""
TIMINGS = ("samples_per_second", "flops_of_peak", "data_wait", "seconds")
"""Keys of a metrics row that depend on the machine; all others are the same after a resume."""


class Journal(Callback):
    """Writes a row and a line every ``log_every`` steps; holds no state that training needs.

    The first rank writes; the others only bring their part of the numbers.

    Rows beyond the step a run resumes from are dropped first, so the file of an interrupted run
    ends as that of an uninterrupted one.
    """

    def __init__(
        self,
        run: Path,
        config: Config,
        step_flops: int,
        ranks: Ranks = ALONE,
        look: Callable[[int, Context], Mapping[str, float]] = lambda step, context: {},
        quiet: bool = False,
    ) -> None:
        self._file, self._config, self._ranks = run / "metrics.jsonl", config, ranks
        self._speaks = ranks.first and not quiet
        self._step_flops = step_flops * config.train.batch_size
        self._run, self._look, self._loggers = run, look, list[Logger]()
        self._losses: deque[float] = deque(maxlen=MEMORY)
        self._console = Terminal()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._console.is_terminal and self._speaks),
        )
        self._alarmed: set[str] = set()
        self._early: list[Mapping[str, Any]] = []
        self._stream: TextIO | None = None

    def on_train_start(self, state: State, context: Context) -> None:
        steps = self._config.train.steps
        if state.step:
            self.say(f"resuming at step {state.step} of {steps}")
        if self._ranks.first:
            try:
                before = _cut(self._file, state.step)
                self._stream = self._file.open("a")
            except OSError as problem:
                raise LatentcastError(
                    f"{self._file}: cannot be written ({problem}); free space or choose another "
                    "--out"
                ) from None
            self._losses.extend(row["loss"] for row in before if row.get("loss") is not None)
            self._early.extend(before)
            self._loggers = open_loggers(self._run, self._config, self.say)
        self._context, self._device = context, context.device
        self._peak = matmul_peak(context.device, context.precision)
        self._task = self._progress.add_task(self._config.recipe, total=steps, completed=state.step)
        self._start = self._since = time.perf_counter()
        self._first, self._last, self._waited = state.step, state.step, 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._progress.stop()
        for logger in self._loggers:
            logger.close()
        if self._stream is not None:
            with suppress(OSError):  # of a row that could not be written, as has been said
                self._stream.close()

    def on_batch_start(self, state: State, seconds: float) -> None:
        self._waited += seconds

    def on_skip(self, state: State, problem: str) -> None:
        self.say(f"step {state.step}: skipped ({state.skipped} so far), {problem}")

    def wants(self, step: int) -> bool:
        """A row is due on the first, every ``log_every``-th and the last step."""
        train = self._config.train
        return step % train.log_every == 0 or step in (1, train.steps)

    def on_step_end(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None:
        """A row, a line, alarms."""
        done = state.step - 1  # the schedules of the step that has just been taken
        views = [self._of_all_ranks(view) for view in output.views]
        statistics, numbers = collapse.watched(
            views, {"loss": output.loss, "gradient_norm": gradient_norm, **output.scalars}
        )
        norm, distance = numbers.pop("gradient_norm"), ema.distance()
        timings = self._timings(state)
        online = self._look(state.step, self._context)
        self._since = time.perf_counter()  # a look is no part of what a step takes
        if not self._ranks.first:
            return
        row: dict[str, Any] = {
            "step": state.step,
            **numbers,
            "lr": schedules.lr(done),
            "weight_decay": schedules.weight_decay(done),
            "momentum": schedules.momentum(done),
            "teacher_distance": distance,
            "gradient_norm": norm,
            "skipped": state.skipped,
        }
        for view, found in zip(views, statistics, strict=True):
            for name, value in vars(found).items():
                row[str(Column(view.level, view.role, name))] = value
        copy_loss = numbers.get("copy_last_loss")
        own = numbers.get("objective_loss", numbers["loss"])  # without the term between two views
        alarms = collapse.alarms(views, statistics, own, copy_loss)
        if state.step <= PATIENCE:
            alarms = [alarm for alarm in alarms if alarm.role != "prediction"]
        if spike := collapse.spike(numbers["loss"], self._losses):
            alarms.append(spike)
        self._losses.append(numbers["loss"])
        row["alarms"] = [alarm.name for alarm in alarms]
        row |= {**online, **timings}
        self._write(row)
        self._progress.update(self._task, completed=state.step)
        self.say(self._line(row))
        for alarm in alarms:
            if alarm.name not in self._alarmed:  # each alarm once: a warning, not a siren
                self._alarmed.add(alarm.name)
                self.say(f"  alarm {alarm}")
        self._warn(row)

    def _warn(self, row: Mapping[str, Any]) -> None:
        """Once, with the last row of the first tenth, of a run that goes wrong."""
        train = self._config.train
        end = early.end_of_first_tenth(train.steps)
        if row["step"] > end:
            return
        self._early.append(row)
        upcoming = row["step"] - row["step"] % train.log_every + train.log_every
        if upcoming > end and (found := early.warnings(self._early, train.steps)):
            self.say(
                f"  early warning: this run goes wrong in its first tenth ({'; '.join(found)}); "
                "stop it and lower optimizer.lr, or try other seeds (--seeds 3 --keep best)"
            )

    def _write(self, row: dict[str, Any]) -> None:
        assert self._stream is not None  # the loop calls start first
        try:
            self._stream.write(json.dumps(_plain(row), allow_nan=False) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())  # no checkpoint without the rows below it
        except OSError as problem:
            raise LatentcastError(
                f"{self._file}: cannot be written ({problem}); free space and give the same "
                "command, the run goes on from its last checkpoint"
            ) from None
        for logger in self._loggers:
            logger.log(row["step"], {k: v for k, v in row.items() if isinstance(v, int | float)})

    def _timings(self, state: State) -> dict[str, float]:
        wait(self._device)
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        rate = (state.step - self._last) / elapsed
        timings = {
            "samples_per_second": rate * self._config.train.batch_size,
            "flops_of_peak": rate * self._step_flops / (self._peak * self._ranks.size),
            "data_wait": self._waited / elapsed,
            "seconds": now - self._start,
        }
        self._since, self._last, self._waited = time.perf_counter(), state.step, 0.0
        return timings

    def _line(self, row: dict[str, Any]) -> str:
        steps = self._config.train.steps
        speed = row["flops_of_peak"] * self._peak * self._ranks.size
        done = max(1, row["step"] - self._first)
        left = (steps - row["step"]) * row["seconds"] / done
        named = {"objective": "objective_loss", "copy": "copy_last_loss"}
        details = ", ".join(f"{name} {row[key]:.3f}" for name, key in named.items() if key in row)
        ranks = "/".join(f"{rank:.1f}" for rank in rows.ranks(row))
        return (
            f"step {row['step']:>6}/{steps} | loss {row['loss']:.4f}"
            f"{f' ({details})' if details else ''} "
            f"{f'| rank {ranks} ' if ranks else ''}| lr {row['lr']:.2e} "
            f"| {row['samples_per_second']:.4g} samples/s | {speed / 1e9:.0f} GFLOP/s "
            f"({row['flops_of_peak']:.0%} of peak) | data wait {row['data_wait']:.1%} "
            f"| {left:.0f} s left"
        )

    def _of_all_ranks(self, view: View) -> View:
        """With the rows of all ranks: a rank or variance of half a batch is another number."""
        if self._ranks.size == 1:
            return view
        valid = view.valid
        if valid is None:  # on this rank; the ranks have to agree on what they exchange
            valid = torch.ones(view.tokens.shape[:2], dtype=torch.bool, device=view.tokens.device)
        gathered = self._ranks.gathered
        return replace(view, tokens=gathered(view.tokens), valid=gathered(valid.byte()).bool())

    def say(self, text: str) -> None:
        if self._speaks:
            self._console.print(text, soft_wrap=True)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` before the first line that is none: a kill cuts the last."""
    file = run / "metrics.jsonl"
    found = []
    for line in read_text(file, errors="replace").splitlines() if file.exists() else ():
        try:
            row = rows.present(parse_object(line))
        except ValueError:
            break
        if not isinstance(row.get("step"), int):
            break
        found.append(row)
    return found


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what is not finite becomes null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _cut(file: Path, step: int) -> list[dict[str, Any]]:
    """Drop the rows beyond a step; what is left."""
    before = [row for row in read_metrics(file.parent) if row["step"] <= step]
    write_text(file, "".join(json.dumps(row) + "\n" for row in before))
    return before
