"""What is verified: a recipe, alive, at a size that takes seconds on two cores.

A twin builds everything through the library itself: store, loader, preprocessing, objective, loop.
Nothing of it is a copy, so a bug in any of them is in the twin too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from latentcast.batch import Batch, Inputs
from latentcast.config import Config, EcgInput, EncoderConfig
from latentcast.data.fit import fitted, reading
from latentcast.data.store import Store
from latentcast.data.synthetic import read_source, write_source
from latentcast.nn.resnet import ResNetConfig
from latentcast.nn.state_space import StateSpaceConfig
from latentcast.objectives.base import Objective
from latentcast.objectives.build import build
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.masked import MaskedConfig
from latentcast.randomness import Draw
from latentcast.verification.observe.config import strides_of
from latentcast.verification.observe.loop_recorder import LoopRecord, record_loop

RECORDS = 50
"""Of the synthetic store: 40 to train on, which is no multiple of a batch."""
T = TypeVar("T")


@dataclass(frozen=True)
class _Failed:
    """In the place of what could not be made."""

    problem: str


class Twin:
    """A recipe and its small counterpart.

    Args:
        recipe: as shipped, or a user's own.
        seed: of weights, data order, masks.

    Attributes:
        recipe: at full size; only shapes and numbers are asked of it.
        config: the same kind of everything, narrow, shallow, on short inputs.
    """

    def __init__(self, recipe: Config, seed: int = 0) -> None:
        self.recipe, self.seed = recipe, seed
        self._folder = tempfile.TemporaryDirectory(prefix="latentcast-verify-")
        self._made: dict[str, Any] = {}
        self.config = fitted(twin_config(recipe, seed), self.store)

    @cached_property
    def folder(self) -> Path:
        """A folder of its own, gone with the twin."""
        return Path(self._folder.name)

    @cached_property
    def store(self) -> Store:
        """A synthetic store in the twin's shape, ingested by the library."""
        small = twin_config(self.recipe, self.seed)
        source = write_source(small, self.folder, RECORDS)
        return read_source(small, source, self.folder / "store").store

    def close(self) -> None:
        self._folder.cleanup()

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What is made under a name, made when it is first asked for; what failed fails again."""
        if name not in self._made:
            try:
                self._made[name] = make()
            except Exception as problem:  # of a library that is broken
                self._made[name] = _Failed(f"{type(problem).__name__}: {problem}")
        made: T | _Failed = self._made[name]
        if isinstance(made, _Failed):
            raise RuntimeError(made.problem)
        return made

    def objective(self, changes: Mapping[str, Any] | None = None) -> Objective:
        """A new one, at initialisation, in training mode.

        Without the term between two views, unless ``changes`` have one or it is all there is:
        claims about an objective are about its own loss.
        """
        alone = self.config.objective.kind == "two_views"
        without = {} if alone else {"objective.views": None}
        return build(self.config.updated({**without, **(changes or {})})).train()

    def batch(self, attempt: int = 0) -> Batch:
        """Integers, as the loader brings them; of one micro-batch."""
        loader, _ = reading(self.store, self.config.updated({"train.micro_batches": 1}))
        return loader.batch(attempt)

    def inputs(self, attempt: int = 0) -> Inputs:
        """A preprocessed batch, augmented as in training."""
        _, preprocess = reading(self.store, self.config)
        return preprocess(self.batch(attempt).samples, self.draw(attempt))

    def draw(self, attempt: int = 0) -> Draw:
        """The randomness of that batch."""
        return Draw(self.config.train.seed, attempt, self.batch(attempt).ids)

    def trained(self) -> LoopRecord:
        """A run of five steps by the engine's loop, recorded; the same one when asked again."""
        config = self.config.updated({"train.steps": 5, "optimizer.warmup_steps": 2})
        folder = self.folder / "runs" / "trained"
        return self.once("trained", lambda: record_loop(self.store, config, folder))


def twin_config(recipe: Config, seed: int = 0) -> Config:
    """The recipe with every kind and switch as shipped, and every size small.

    Depths of 2 to 3, heads as narrow as positions allow, a few dozen patches; the schedules keep
    their shape over 40 steps. Micro-batches are 2 where the objective allows it, so that what is
    counted in them shows.
    """
    objective, axes = recipe.objective, len(recipe.input.size)
    changes: dict[str, Any] = {
        "encoder.width": 24 * axes, "encoder.depth": 3,
        "train.steps": 40, "train.batch_size": 6, "train.seed": seed, "train.precision": "fp32",
        "train.log_every": 1, "train.checkpoint_every": 1000, "train.evaluate_every": None,
        "train.micro_batches": 2, "machine": {"device": "cpu"},
        "optimizer.warmup_steps": 8, "input.normalisation": None, "train.leave_out": (),
    }  # fmt: skip
    encoder, patch, strides = recipe.encoder, recipe.encoder.patch, 1
    if isinstance(encoder, EncoderConfig):
        changes |= {
            "encoder.heads": 2, "encoder.mlp_width": 48 * axes,
            "encoder.drop_path": min(encoder.drop_path, 0.3),
        }  # fmt: skip
    if isinstance(encoder, StateSpaceConfig):
        changes |= {"encoder.stem_width": 6 * axes, "encoder.state": 4, "encoder.step": (0.02, 0.5)}
    if isinstance(encoder, ResNetConfig):
        # At the kink of a ReLU a rounding decides, and a gradient in float32 is not float64's.
        changes |= {"encoder.stem_width": 6 * axes, "encoder.activation": "silu"}
    if isinstance(objective, MaskedConfig):
        own = {"width": 16, "activation": "silu"}
        changes |= {f"objective.predictor.{key}": value for key, value in own.items()}
    if isinstance(objective, JepaConfig):
        narrow = {"width": 12 * axes, "depth": 2, "heads": 2, "mlp_width": 24 * axes}
        changes |= {f"objective.predictor.{key}": value for key, value in narrow.items()}
        for number, level in enumerate(objective.coarser):
            strides *= strides_of(level, len(recipe.grids[0]))[-1]
            own = {"width": 16 * axes, "depth": min(level.depth, 1), "heads": 2}
            own |= {"mlp_width": 32 * axes}
            own |= {f"predictor.{key}": value for key, value in narrow.items()}
            changes |= {f"objective.coarser.{number}.{key}": value for key, value in own.items()}
    if recipe.whole_batch:
        changes["train.micro_batches"] = 1
    if isinstance(recipe.input, EcgInput):
        # A stretch of context is at least 10 patches, which is to be a sixth of all.
        patches = 80 if isinstance(objective, JepaConfig) else 40
        if recipe.input.lead_rows is not None:  # so many times of twelve tokens each
            patches = 24
        cells = strides * -(-patches // strides)
        changes["input.length"] = min(recipe.input.length, patch * cells)
    else:
        side = min(recipe.input.height // patch, max(8, 4 * strides))
        small = min(patch, 4)
        changes |= {"encoder.patch": small, "input.height": small * side,
                    "input.width": small * side}  # fmt: skip
    return recipe.updated(changes)
