"""What is verified: a recipe, alive, at a size that takes seconds on two cores.

A subject builds everything through the library itself: store, loader, preprocessing, objective,
loop. Nothing of it is a copy, so a bug in any of them is in the subject too. What it records of a
training run it learns from the outside, by hooks and snapshots, and not from what the loop says.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from latentcast.batch import Batch, Inputs
from latentcast.config import Config, EcgInput
from latentcast.data.fit import fitted, reading
from latentcast.data.store import Store
from latentcast.data.synthetic import read_source, write_source
from latentcast.engine import loop
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.schedules import Schedules
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.build import build
from latentcast.objectives.jepa import JepaConfig
from latentcast.randomness import Draw

Weights = dict[str, Tensor]

RECORDS = 50
"""Of the synthetic store: 40 to train on, which is no multiple of a batch."""


@dataclass
class Step:
    """One optimizer step, as seen from outside.

    Attributes:
        before, after: all parameters and buffers before the optimizer moved, and right after it.
        end: the same when the step was over, the average included.
        gradients: as the optimizer saw them.
        rates, decays: of each parameter the optimizer holds, as it saw them.
        forwards: forward passes since the step before.
    """

    before: Weights
    gradients: Weights
    rates: dict[str, float]
    decays: dict[str, float]
    after: Weights = field(default_factory=dict)
    end: Weights = field(default_factory=dict)
    forwards: int = 0


@dataclass
class Trained:
    """A short run of the engine's own loop."""

    config: Config
    objective: Objective
    steps: list[Step]
    state: State
    start: Weights
    folder: Path
    losses: list[float]


class Subject:
    """A recipe and its twin.

    Args:
        recipe: as shipped.
        seed: of weights, data order, masks.

    Attributes:
        recipe: at full size; only shapes and numbers are asked of it.
        config: the twin: the same kind of everything, narrow, shallow, on short inputs.
    """

    def __init__(self, recipe: Config, seed: int = 0) -> None:
        self.recipe, self.seed = recipe, seed
        self._folder = tempfile.TemporaryDirectory(prefix="latentcast-verify-")
        self._runs: dict[str, Trained] = {}
        self.config = fitted(twin(recipe, seed), self.store)

    @cached_property
    def folder(self) -> Path:
        """A folder of its own, gone with the subject."""
        return Path(self._folder.name)

    @cached_property
    def store(self) -> Store:
        """A synthetic store in the twin's shape, ingested by the library."""
        small = twin(self.recipe, self.seed)
        return read_source(
            small, write_source(small, self.folder, RECORDS), self.folder / "store"
        ).store

    def close(self) -> None:
        self._folder.cleanup()

    def objective(self, changes: Mapping[str, Any] | None = None) -> Objective:
        """A new one, at initialisation, in training mode."""
        return build(self.config.updated(changes or {})).train()

    def batch(self, attempt: int = 0, changes: Mapping[str, Any] | None = None) -> Batch:
        """Integers, as the loader brings them; of one micro-batch."""
        config = self.config.updated({"train.micro_batches": 1, **(changes or {})})
        loader, _ = reading(self.store, config)
        return loader.batch(attempt)

    def inputs(self, attempt: int = 0, changes: Mapping[str, Any] | None = None) -> Inputs:
        """A preprocessed batch, augmented as in training."""
        config = self.config.updated(changes or {})
        _, preprocess = reading(self.store, config)
        batch = self.batch(attempt, changes)
        return preprocess(batch.samples, self.draw(attempt, changes))

    def draw(self, attempt: int = 0, changes: Mapping[str, Any] | None = None) -> Draw:
        """The randomness of that batch."""
        return Draw(self.config.train.seed, attempt, self.batch(attempt, changes).ids)

    def trained(
        self, steps: int = 5, changes: Mapping[str, Any] | None = None, name: str = ""
    ) -> Trained:
        """A run of that many steps by the engine's loop, recorded; the same one when asked again.

        Args:
            changes: to the twin's configuration.
            name: of its run folder; one that has been trained before is resumed.
        """
        short = {"train.steps": steps, "optimizer.warmup_steps": min(8, steps // 2)}
        config = self.config.updated({**short, **(changes or {})})
        key = f"{name} {config!r}"
        if key not in self._runs or name:
            folder = self.folder / "runs" / (name or str(len(self._runs)))
            self._runs[key] = _trained(self.store, config, folder)
        return self._runs[key]


def twin(recipe: Config, seed: int = 0) -> Config:
    """The recipe with every kind and switch as shipped, and every size small.

    Depths of 2 to 3, heads as narrow as positions allow, a few dozen patches; the schedules keep
    their shape over 40 steps. Micro-batches are 2 where the objective allows it, so that what is
    counted in them shows.
    """
    objective, axes = recipe.objective, len(recipe.input.size)
    changes: dict[str, Any] = {
        "encoder.width": 24 * axes, "encoder.depth": 3, "encoder.heads": 2,
        "encoder.mlp_width": 48 * axes,
        "encoder.drop_path": min(recipe.encoder.drop_path, 0.3),
        "train.steps": 40, "train.batch_size": 6, "train.seed": seed, "train.precision": "fp32",
        "train.log_every": 1, "train.checkpoint_every": 1000, "train.evaluate_every": None,
        "train.micro_batches": 2,
        "optimizer.warmup_steps": 8, "input.normalisation": None,
    }  # fmt: skip
    patch = recipe.encoder.patch
    strides = 1
    if isinstance(objective, JepaConfig):
        narrow = {"width": 12 * axes, "depth": 2, "heads": 2, "mlp_width": 24 * axes}
        for key, value in narrow.items():
            changes[f"objective.predictor.{key}"] = value
        for number, level in enumerate(objective.coarser):
            strides *= level.stride
            for key, value in narrow.items():
                changes[f"objective.coarser.{number}.predictor.{key}"] = value
            changes |= {
                f"objective.coarser.{number}.width": 16 * axes,
                f"objective.coarser.{number}.depth": min(level.depth, 1),
                f"objective.coarser.{number}.heads": 2,
                f"objective.coarser.{number}.mlp_width": 32 * axes,
            }
        if objective.regularizer is not None:
            changes["train.micro_batches"] = 1  # it needs the whole batch
    if isinstance(recipe.input, EcgInput):
        # A stretch of context is at least 10 patches, which is to be a sixth of all.
        wanted = 80 if isinstance(objective, JepaConfig) else 40
        cells = strides * -(-wanted // strides)
        changes["input.length"] = min(recipe.input.length, patch * cells)
    else:
        side = min(recipe.input.height // patch, max(8, 4 * strides))
        small = min(patch, 4)
        changes |= {"encoder.patch": small, "input.height": small * side,
                    "input.width": small * side}  # fmt: skip
    return recipe.updated(changes)


class _Recorder:
    """A watcher that keeps what the hooks saw of each step."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.steps, self.losses = objective, list[Step](), list[float]()
        self._forwards = 0
        self.names = {id(p): name for name, p in objective.named_parameters()}

    def start(self, state: State, context: Context) -> None:
        self.start_weights = self.weights()

    def waiting(self, batches: Iterator[loop.MicroBatches]) -> loop.MicroBatches:
        return next(batches)

    def looks(self, step: int) -> bool:
        return True

    def updated(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None:
        self.losses.append(float(output.loss))
        if self.steps:
            self.steps[-1].end = self.weights()

    def skipped(self, state: State, problem: str) -> None: ...

    def weights(self) -> Weights:
        return {n: t.detach().clone() for n, t in self.objective.state_dict().items()}

    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        step = Step(self.weights(), {}, {}, {}, forwards=self._forwards)
        for group in optimizer.param_groups:
            for p in group["params"]:
                name = self.names.get(id(p), "?")
                step.rates[name], step.decays[name] = group["lr"], group["weight_decay"]
                if p.grad is not None:
                    step.gradients[name] = p.grad.detach().clone()
        self.steps.append(step)
        self._forwards = 0

    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.steps[-1].after = self.weights()

    def forward(self, *_: Any) -> None:
        self._forwards += 1


def _trained(store: Store, config: Config, folder: Path) -> Trained:
    objective = build(config)
    loader, preprocess = reading(store, config)
    recorder = _Recorder(objective)
    handles = [
        register_optimizer_step_pre_hook(recorder.before),
        register_optimizer_step_post_hook(recorder.after),
        objective.register_forward_hook(recorder.forward),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            state = loop.train(objective, preprocess, loader.stream, config, folder, recorder)
    finally:
        for handle in handles:
            handle.remove()
    return Trained(
        config, objective, recorder.steps, state, recorder.start_weights, folder, recorder.losses
    )
