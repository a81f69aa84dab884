"""The last stretch of a run trained again from its own files, to see whether it ends the same.

From the checkpoint before the last (from nothing, if there is none) to the last one, by the
engine, from config and store. The rows met on the way, the weights, the teacher and the moments
must be the recorded ones: bit for bit where the run was made on this kind of machine, on a CPU;
within a tolerance elsewhere, because sums are taken in another order there. Beside it the teacher
is averaged once more, naively and in float64, from the students of each step.
"""

from __future__ import annotations

import contextlib
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from latentcast.config import Config
from latentcast.data.fit import reading
from latentcast.engine import checkpoint, loop
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.schedules import Schedules
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.build import build
from latentcast.verification.audit.run import Check, Run, Unmeasured
from latentcast.verification.claim import Evidence, Number
from latentcast.verification.formulas import momentum_of

NEVER = 10**9
MOVED = {"fp32": 1e-2, "bf16": 1e-1, "fp16": 1e-1}
"""Where sums may be in another order: difference over how far the stretch moved the weights.
AdamW divides by the size of the gradient and so makes much of the rounding of a small one."""
ROW = {"fp32": 1e-3, "bf16": 2e-2, "fp16": 2e-2}
"""The same of a loss, relative."""
ROUNDING = 2.0**-23
"""Of a float32 teacher in each step: half a unit in its last place, and as much to spare."""
HIDDEN = 0.5
"""Of the way of a teacher; where rounding may be more than that, it hides what is averaged."""
WATCHED = ("loss", "gradient_norm", "teacher_distance", "skipped")


@dataclass
class Replayed:
    """What training the stretch again gave.

    Attributes:
        done: the step it came to, ``end`` if there was time.
        rows: by step, what a metrics row says, of the steps that have one.
        average: the teacher by the formula in float64, by name.
    """

    start: int
    end: int
    exact: bool
    done: int = 0
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.done == self.end

    @property
    def stretch(self) -> dict[str, Number]:
        told = f"{self.start} to {self.end}"
        return {"steps": told if self.whole else f"{self.start} to {self.done} of {told}"}


@lru_cache(maxsize=1)  # of one run there are three questions
def replay(run: Run) -> Replayed:
    """Train the stretch before the newest checkpoint again, for at most ``run.seconds``.

    Raises:
        Unmeasured: there is no checkpoint, or no store, or no time for it.
    """
    if not run.seconds:
        raise Unmeasured("not asked for")
    end, before = run.record["step"], run.steps[-2] if len(run.steps) > 1 else None
    store, config = run.store, run.config
    if store.checksums != run.environment["data"]["sha256"]:
        raise Unmeasured("the store holds other data")
    if end == 0:
        raise Unmeasured("no step was taken yet")
    # Where and how often it saves is no part of what it computes; here it must not save at all.
    config = config.updated({"train.checkpoint_every": NEVER, "machine.loggers": []})
    objective = build(config)
    loader, preprocess = reading(store, config)
    with tempfile.TemporaryDirectory(prefix="latentcast-replay-") as name:
        folder = Path(name)
        first = _lay_out(before, folder, config) if before else 0
        replayed = Replayed(first, end, _same_machine(run))
        watcher = _Watcher(run, objective, replayed, time.perf_counter() + run.seconds)
        handle = register_optimizer_step_post_hook(watcher.stepped)
        try:
            with _threads(run.environment["threads"]), contextlib.suppress(_Enough):
                loop.train(objective, preprocess, loader.stream, config, folder, watcher)
        finally:
            handle.remove()
    if replayed.whole:
        replayed.weights = {n: t.detach().cpu() for n, t in objective.state_dict().items()}
        replayed.moments = watcher.moments()
    return replayed


def _lay_out(before: Path, folder: Path, config: Config) -> int:
    """A checkpoint to start from: its own tensors, under a configuration that never saves."""
    record = checkpoint.read_record(before)
    record["config"] = config.model_dump(mode="json")
    target = folder / "checkpoints" / before.name
    target.mkdir(parents=True)
    for which in ("model", "optimizer"):
        (target / which).symlink_to((before / which).resolve(), target_is_directory=True)
    (target / "state.json").write_text(json.dumps(record))
    return int(record["step"])


def _same_machine(run: Run) -> bool:
    """Whether the bits must be the same: one process, a CPU with the same vector units, and the
    same torch and platform."""
    told = run.environment
    if told.get("cpu") != torch.backends.cpu.get_cpu_capability():
        return False
    files = list((run.newest / "model").glob("*.safetensors"))
    same = told["torch"] == torch.__version__ and told["platform"] == platform.platform()
    on_cpu = told["device"] == "cpu" or run.config.machine.device == "cpu"
    return same and on_cpu and len(files) == 1 and not told.get("resumed_under")


class _Enough(Exception):
    """The end of the stretch, or of the time."""


class _Watcher:
    """Follows the replay from outside and stops it."""

    def __init__(self, run: Run, objective: Objective, out: Replayed, deadline: float) -> None:
        self._rows = {row["step"] for row in run.rows}
        self._run, self._objective, self._out, self._deadline = run, objective, out, deadline
        self._optimizer: Optimizer | None = None
        self._pairs = run.pairs

    def start(self, state: State, context: Context) -> None:
        tensors = dict(self._objective.named_parameters())
        self._out.before = {name: t.detach().cpu().clone() for name, t in tensors.items()}
        self._out.done = state.step
        self._average = [tensors[teacher].detach().double() for _, teacher in self._pairs]
        self._students = [tensors[student] for student, _ in self._pairs]

    def waiting(self, batches: Iterator[loop.MicroBatches]) -> loop.MicroBatches:
        if time.perf_counter() > self._deadline:
            raise _Enough
        return next(batches)

    def looks(self, step: int) -> bool:
        return True

    def stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._optimizer = optimizer

    @torch.no_grad()
    def updated(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None:
        momentum = momentum_of(self._run.config, state.step - 1)
        for average, student in zip(self._average, self._students, strict=True):
            average.mul_(momentum).add_(student.double(), alpha=1 - momentum)
        if state.step in self._rows:
            self._out.rows[state.step] = {
                "loss": float(output.loss),
                "gradient_norm": float(gradient_norm),
                "teacher_distance": ema.distance(),
                "skipped": state.skipped,
            }
        self._out.done = state.step
        if state.step == self._out.end:
            teachers = [teacher for _, teacher in self._pairs]
            self._out.average = {
                name: average.cpu() for name, average in zip(teachers, self._average, strict=True)
            }
            raise _Enough

    def skipped(self, state: State, problem: str) -> None: ...

    def moments(self) -> dict[str, Tensor]:
        assert self._optimizer is not None  # a whole replay has taken a step
        return {
            f"{name}|{what}": held.detach().cpu()
            for group in self._optimizer.param_groups
            for name, p in zip(group["names"], group["params"], strict=True)
            for what, held in self._optimizer.state[p].items()
        }


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many as the run had: sums over threads depend on it."""
    was = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(was)


def _rows(run: Run) -> Evidence:
    replayed = replay(run)
    recorded = {row["step"]: row for row in run.rows}
    if not replayed.rows:
        raise Unmeasured(f"no row within the time ({replayed.stretch['steps']})")
    bound = 0.0 if replayed.exact else ROW[run.config.train.precision]
    worst, where, numbers = 0.0, "", dict(replayed.stretch)
    for step, seen in replayed.rows.items():
        for key in WATCHED:
            told, again = recorded[step].get(key), seen[key]
            gap = abs(told - again) / max(abs(again), 1e-12) if told is not None else float("inf")
            if not gap <= worst:
                worst, where = gap, f"{key} of step {step}: recorded {told}, replayed {again}"
    numbers |= {"rows": len(replayed.rows), "largest relative difference": worst, "bound": bound}
    return Evidence(worst <= bound, numbers | ({"at": where} if worst > bound else {}))


def _weights(run: Run) -> Evidence:
    replayed = _whole(run)
    saved = run.weights | checkpoint.read_tensors(run.newest, "optimizer")
    again = replayed.weights | replayed.moments
    differ = [name for name in saved if not torch.equal(saved[name], again[name])]
    numbers: dict[str, Number] = {**replayed.stretch, "tensors": len(saved)}
    numbers["tensors that differ"] = len(differ)
    if not differ:
        return Evidence(True, numbers | {"agreement": "bit for bit"})
    moved = gap = 0.0
    for name, before in replayed.before.items():
        moved += float((saved[name].double() - before.double()).square().sum())
        gap += float((saved[name].double() - again[name].double()).square().sum())
    share, bound = (gap / max(moved, 1e-300)) ** 0.5, MOVED[run.config.train.precision]
    numbers |= {"difference over the way moved": share}
    if replayed.exact:
        return Evidence(False, numbers | {"first": differ[0], "demanded": "bit for bit"})
    return Evidence(share <= bound, numbers | {"bound": bound, "agreement": "another machine"})


def _teacher(run: Run) -> Evidence:
    if not run.pairs:
        raise Unmeasured("there is no teacher")
    replayed = _whole(run)
    way = gap = size = 0.0
    for name, average in replayed.average.items():
        saved = run.weights[name].double()
        way += float((average - replayed.before[name].double()).square().sum())
        gap += float((saved - average).square().sum())
        size += float(average.square().sum())
    way, gap, size = max(way, 1e-300) ** 0.5, gap**0.5, size**0.5
    rounding = ROUNDING * (replayed.end - replayed.start) * size / way
    if rounding > HIDDEN:
        raise Unmeasured(
            f"in the steps {replayed.stretch['steps']} the teacher moved {way / size:.1e} of its "
            "size, and the roundings of float32 may be as much"
        )
    bound = rounding + (0.0 if replayed.exact else MOVED[run.config.train.precision])
    told: dict[str, Number] = {"difference over the way moved": gap / way, "bound": bound}
    return Evidence(gap / way <= bound, {**replayed.stretch, **told})


def _whole(run: Run) -> Replayed:
    replayed = replay(run)
    if not replayed.whole:
        raise Unmeasured(f"not replayed to its end, steps {replayed.stretch['steps']} in the time")
    return replayed


CHECKS: tuple[Check, ...] = (
    Check("run.replayed-rows", "Trained again, the stretch before the newest checkpoint has the "
          "recorded losses, gradient norms and teacher distances.", "design, law 1", _rows),
    Check("run.replayed-weights", "Trained again, it ends with the checkpoint's weights, teacher "
          "and moments.", "design, law 1", _weights),
    Check("run.replayed-teacher", "The teacher is the average of the students after each step, by "
          "the formula in float64.", "I-JEPA, section 3", _teacher),
)  # fmt: skip
