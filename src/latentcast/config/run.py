"""The configuration of a whole run, and what its parts must agree on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, model_validator

from latentcast.config.inputs import EcgInput, ImageInput
from latentcast.config.machine import MachineConfig
from latentcast.config.network import EncoderConfig, Rotary, SinCos
from latentcast.config.objective import JepaConfig, NepaConfig
from latentcast.config.settings import Settings, divisor_near
from latentcast.config.training import EmaConfig, OptimizerConfig, TrainConfig


class Config(Settings):
    """A whole run: input, encoder, objective, optimizer, EMA, training, and the machine for it."""

    recipe: str
    input: Annotated[EcgInput | ImageInput, Field(discriminator="kind")]
    encoder: EncoderConfig
    objective: Annotated[NepaConfig | JepaConfig, Field(discriminator="kind")] = NepaConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig | None = EmaConfig(base=0.9999)
    train: TrainConfig = TrainConfig()
    machine: MachineConfig = MachineConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_grid(self)
        _check_positions(self)
        if isinstance(self.objective, JepaConfig):
            _check_jepa(self, self.objective)
        else:
            _check_nepa(self)
        if self.optimizer.warmup_steps > self.train.steps:
            raise ValueError(
                f"optimizer.warmup_steps {self.optimizer.warmup_steps} is longer than "
                f"train.steps {self.train.steps}; shorten the warm-up or train longer"
            )
        return self

    @property
    def patch_seconds(self) -> float | None:
        """Seconds in one patch of a recording; None for images."""
        if isinstance(self.input, ImageInput):
            return None
        return self.encoder.patch / self.input.sampling_rate

    @property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """Cells along each axis at every level, the patches first."""
        finest = tuple(extent // self.encoder.patch for extent in self.input.size)
        grids = [finest]
        if isinstance(self.objective, JepaConfig):
            for level in self.objective.coarser:
                grids.append(tuple(n // level.stride for n in grids[-1]))
        return tuple(grids)

    def updated(self, changes: Mapping[str, Any]) -> Config:
        """This configuration with dotted keys replaced, validated anew.

        Raises:
            LatentcastError: an unknown key (with the nearest known one) or an invalid value.
        """
        from latentcast.config.resolve import updated  # it reads and checks Config itself

        return updated(self, changes)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _check_grid(config: Config) -> None:
    patch = config.encoder.patch
    for extent in config.input.size:
        if extent % patch:
            raise ValueError(
                f"encoder.patch {patch} does not divide the input {config.input.size}; "
                f"use a patch of {divisor_near(math.gcd(*config.input.size), patch)} "
                f"or an input of {max(patch, extent - extent % patch)}"
            )


def _check_positions(config: Config) -> None:
    axes, encoder = len(config.input.size), config.encoder
    if isinstance(encoder.positions, SinCos):
        _check_sincos("encoder.width", encoder.width, axes)
        return
    _check_heads("", encoder.width, encoder.heads, axes)
    if config.input.kind == "image" and encoder.positions.coordinates == "seconds":
        raise ValueError("an image has no seconds; set encoder.positions.coordinates normalized")


def _check_heads(name: str, width: int, heads: int, axes: int) -> None:
    if (head := width // heads) % (2 * axes):
        raise ValueError(
            f"{name}a head of {head} dimensions cannot hold rotary pairs for {axes} axes; "
            f"use a width that is a multiple of {2 * axes * heads}"
        )


def _check_sincos(name: str, width: int, axes: int) -> None:
    if width % (2 * axes):
        raise ValueError(
            f"{name} {width} cannot hold sine-cosine pairs for {axes} axes; "
            f"use a multiple of {2 * axes}"
        )


def _check_nepa(config: Config) -> None:
    if not config.encoder.causal:
        raise ValueError(
            "encoder.causal is false: NEPA would see the patch it predicts; set it to true"
        )
    if not config.encoder.cls:
        raise ValueError("encoder.cls is false: NEPA predicts the first patch from it; set true")
    if not isinstance(config.encoder.positions, Rotary):
        raise ValueError(
            "encoder.positions sincos would be part of what NEPA predicts; use kind rotary"
        )


def _check_jepa(config: Config, jepa: JepaConfig) -> None:
    if config.encoder.causal:
        raise ValueError(
            "encoder.causal is true: a JEPA context is read in both directions; set it to false"
        )
    if config.encoder.cls:
        raise ValueError("encoder.cls is true: nothing in a JEPA trains it; set it to false")
    if (config.ema is None) != (jepa.target == "student"):
        raise ValueError(
            "objective.target teacher needs an ema, target student has none; set "
            + ("objective.target=student" if config.ema is None else "ema=null")
        )
    if jepa.regularizer is not None and config.train.micro_batches > 1:
        raise ValueError(
            "objective.regularizer needs the statistics of the whole batch; set "
            "train.micro_batches=1 and, if memory is short, a smaller train.batch_size"
        )
    axes = len(config.input.size)
    if jepa.masks.kind == "context_blocks" and axes > 1:
        raise ValueError("masks context_blocks are stretches of a recording; use kind blocks")
    _check_sincos("objective.predictor.width", jepa.predictor.width, axes)
    grids = config.grids
    for number, (level, grid) in enumerate(zip(jepa.coarser, grids, strict=False)):
        name = f"objective.coarser.{number}"
        for extent in grid:
            if extent % level.stride:
                raise ValueError(
                    f"{name}.stride {level.stride} does not divide the grid {grid} below it; "
                    f"use {divisor_near(extent, level.stride)}, or another encoder.patch"
                )
        if math.prod(grids[number + 1]) < 2:
            raise ValueError(
                f"{name} has a grid of {grids[number + 1]}, nothing would be left to predict "
                f"from; remove the level or use a stride under {level.stride}"
            )
        _check_sincos(f"{name}.width", level.width, axes)
        if isinstance(config.encoder.positions, Rotary):
            _check_heads(f"{name}: ", level.width, level.heads, axes)
        _check_sincos(f"{name}.predictor.width", level.predictor.width, axes)
    _check_masks(config, jepa)


def _check_masks(config: Config, jepa: JepaConfig) -> None:
    """Ask for the masks of every step's shape now, so that none can fail or hang in training."""
    from latentcast.config.shapes import mask_shapes

    mask_shapes(config.grids, jepa, config.train.seed)
