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
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from latentcast.config import Config
from latentcast.engine import checkpoint, loop
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.schedules import Schedules
from latentcast.evaluation.supervision import of_config, reading_of
from latentcast.files import digested
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.build import build
from latentcast.verification.audit.run import Run, Unmeasured, check, norm
from latentcast.verification.evidence import Evidence, all_of, at_most, none
from latentcast.verification.formulas import momentum_of
from latentcast.verification.observe.loop_recorder import LoopRecorder, Stop

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
COMPARED = ("loss", "gradient_norm", "teacher_distance", "skipped")


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
    def complete(self) -> bool:
        return self.done == self.end

    @property
    def stretch(self) -> str:
        """Which steps were trained again."""
        text = f"{self.start} to {self.end}"
        return text if self.complete else f"{self.start} to {self.done} of {text}"


@lru_cache(maxsize=1)  # three checks are made of one replay
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
    if before is None and config.train.init is not None:
        raise Unmeasured("its first steps began with the weights of another run")
    # Where and how often it saves is no part of what it computes; here it must not save at all.
    config = config.updated({"train.checkpoint_every": NEVER, "machine.loggers": []})
    objective = build(config)
    loader, preprocess = reading_of(store, config, of_config(config.objective, store))
    with tempfile.TemporaryDirectory(prefix="latentcast-replay-") as name:
        folder = Path(name)
        first = _lay_out(before, folder, config) if before else 0
        replayed = Replayed(first, end, _same_machine(run))
        recorder = _ReplayRecorder(run, objective, replayed, time.perf_counter() + run.seconds)
        with _threads(run.environment["threads"]), recorder.recording():
            loop.train(objective, preprocess, loader.stream, config, folder, [recorder])
    if replayed.complete:
        replayed.weights = {n: t.detach().cpu() for n, t in objective.state_dict().items()}
        replayed.moments = recorder.moments()
    return replayed


def _lay_out(before: Path, folder: Path, config: Config) -> int:
    """A checkpoint to start from: its own tensors, under a configuration that never saves."""
    record = checkpoint.read_record(before)
    record["config"] = config.as_of(record["step"]).model_dump(mode="json")
    target = folder / "checkpoints" / before.name
    target.mkdir(parents=True)
    for name in record["sha256"]:
        (target / name).parent.mkdir(exist_ok=True)
        try:
            os.link(before / name, target / name)
        except OSError:  # another file system
            shutil.copyfile(before / name, target / name)
    (target / "state.json").write_text(json.dumps(digested(record)))
    return int(record["step"])


def _same_machine(run: Run) -> bool:
    """Whether the bits must be the same: one process, a CPU with the same vector units, and the
    same torch and platform."""
    made = run.environment
    if made.get("cpu") != torch.backends.cpu.get_cpu_capability():
        return False
    files = list((run.newest / "model").glob("*.safetensors"))
    same = made["torch"] == torch.__version__ and made["platform"] == platform.platform()
    on_cpu = made["device"] == "cpu" or run.config.machine.device == "cpu"
    return same and on_cpu and len(files) == 1 and not made.get("resumed_under")


class _ReplayRecorder(LoopRecorder):
    """Follows the replay from outside, averages beside it, and ends it in time."""

    def __init__(self, run: Run, objective: Objective, out: Replayed, deadline: float) -> None:
        super().__init__(objective, snapshots=False)
        self._rows = {row["step"] for row in run.rows}
        self._run, self._out, self._deadline = run, out, deadline

    def on_train_start(self, state: State, context: Context) -> None:
        super().on_train_start(state, context)
        tensors = dict(self.objective.named_parameters())
        self._out.before = {name: t.detach().cpu().clone() for name, t in tensors.items()}
        self._out.done = state.step
        self._averages = {t: tensors[t].detach().double() for _, t in self._run.pairs}
        self._students = {t: tensors[s] for s, t in self._run.pairs}

    def on_batch_start(self, state: State, seconds: float) -> None:
        if time.perf_counter() > self._deadline:
            raise Stop
        super().on_batch_start(state, seconds)

    @torch.no_grad()
    def on_step_end(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None:
        momentum = momentum_of(self._run.config, state.step - 1)
        for name, average in self._averages.items():
            average.mul_(momentum).add_(self._students[name].double(), alpha=1 - momentum)
        if state.step in self._rows:
            self._out.rows[state.step] = {
                "loss": float(output.loss),
                "gradient_norm": float(gradient_norm),
                "teacher_distance": ema.distance(),
                "skipped": state.skipped,
            }
        self._out.done = state.step
        if state.step == self._out.end:
            self._out.average = {name: average.cpu() for name, average in self._averages.items()}
            raise Stop

    def moments(self) -> dict[str, Tensor]:
        assert self.optimizer is not None  # a replay in full has taken a step
        return {
            f"{name}|{what}": moment.detach().cpu()
            for group in self.optimizer.param_groups
            for name, p in zip(group["names"], group["params"], strict=True)
            for what, moment in self.optimizer.state[p].items()
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


def _complete(run: Run) -> Replayed:
    replayed = replay(run)
    if not replayed.complete:
        raise Unmeasured(f"not replayed to its end, steps {replayed.stretch} in the time")
    return replayed


@check("run.replayed-rows", "Trained again, the stretch before the newest checkpoint has the "
       "recorded losses, gradient norms and teacher distances.",
       source="design, law 1")  # fmt: skip
def replayed_rows(run: Run) -> Evidence:
    replayed = replay(run)
    recorded = {row["step"]: row for row in run.rows}
    if not replayed.rows:
        raise Unmeasured(f"no row within the time ({replayed.stretch})")
    bound = 0.0 if replayed.exact else ROW[run.config.train.precision]
    worst, where = 0.0, "none"
    for step, again in replayed.rows.items():
        for key in COMPARED:
            old, new = recorded[step].get(key), again[key]
            gap = abs(old - new) / max(abs(new), 1e-12) if old is not None else float("inf")
            if not gap <= worst:
                worst, where = gap, f"{key} of step {step}: recorded {old}, replayed {new}"
    return all_of(
        at_most("largest relative difference", worst, bound),
        steps=replayed.stretch, rows=len(replayed.rows), at=where,
    )  # fmt: skip


@check("run.replayed-weights", "Trained again, it ends with the checkpoint's weights, teacher and "
       "moments.", source="design, law 1")  # fmt: skip
def replayed_weights(run: Run) -> Evidence:
    """Bit for bit, or on another machine by the way that they moved."""
    replayed = _complete(run)
    saved = run.weights | checkpoint.read_tensors(run.newest, "optimizer")
    again = replayed.weights | replayed.moments
    differ = [name for name in saved if not torch.equal(saved[name], again[name])]
    before = replayed.before
    moved = norm(saved[name].double() - before[name].double() for name in before)
    gap = norm(saved[name].double() - again[name].double() for name in before)
    share, bound = gap / max(moved, 1e-150), MOVED[run.config.train.precision]
    if replayed.exact or not differ:
        evidence, agreement = none("tensors that differ", differ), "bit for bit"
    else:
        evidence = at_most("difference over the way moved", share, bound)
        agreement = "another machine"
    return all_of(evidence, steps=replayed.stretch, tensors=len(saved), agreement=agreement)


@check("run.replayed-teacher", "The teacher is the average of the students after each step, by the "
       "formula in float64.", source="I-JEPA, section 3")  # fmt: skip
def replayed_teacher(run: Run) -> Evidence:
    if not run.pairs:
        raise Unmeasured("there is no teacher")
    replayed = _complete(run)
    average, before = replayed.average, replayed.before
    way = max(norm(average[name] - before[name].double() for name in average), 1e-150)
    gap = norm(run.weights[name].double() - average[name] for name in average)
    size = norm(average.values())
    rounding = ROUNDING * (replayed.end - replayed.start) * size / way
    if rounding > HIDDEN:
        raise Unmeasured(
            f"in the steps {replayed.stretch} the teacher moved {way / size:.1e} of its "
            "size, and the roundings of float32 may be as much"
        )
    bound = rounding + (0.0 if replayed.exact else MOVED[run.config.train.precision])
    return all_of(
        at_most("difference over the way moved", gap / way, bound), steps=replayed.stretch
    )
