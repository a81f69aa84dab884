"""The settings of a JEPA, and what a run must agree with to train one."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from latentcast.config import (
    Blocks,
    Config,
    EncoderConfig,
    LevelConfig,
    MaskConfig,
    PredictorConfig,
    Rotary,
)
from latentcast.config.network import check_heads, check_sincos
from latentcast.config.objective import Grid, ObjectiveConfig
from latentcast.config.settings import Positive, divisor_near
from latentcast.objectives.jepa.mask_shapes import MaskShape, mask_shapes
from latentcast.objectives.regularizers import SigReg, VicReg


class JepaConfig(ObjectiveConfig):
    """Joint-embedding prediction (objectives/jepa): I-JEPA, with ``coarser`` levels H-JEPA."""

    reads_leads: ClassVar[bool] = True

    kind: str = "jepa"
    predictor: PredictorConfig = PredictorConfig()
    masks: MaskConfig = Blocks()
    weight: Positive = 1.0
    coarser: tuple[LevelConfig, ...] = ()
    """Levels above the patches, each merging cells of the one before it."""
    top_down: bool = False
    """Whether the prediction of a coarser level is given to the queries of the finer one."""
    fusion: bool = False
    """Whether each predictor reads its level fused with the coarser ones; the fusion is trained by
    the prediction alone and can be read out as layer ``fused``."""
    target: Literal["teacher", "student"] = "teacher"
    """``teacher``: layer-normed output of the averaged weights, without gradient (I-JEPA).
    ``student``: the trained weights themselves, with gradient, which a regularizer has to keep
    from collapsing (LeJEPA)."""
    target_norm: Literal["layer", "instance"] = "layer"
    """``layer``: each target token over its channels (I-JEPA). ``instance``: each channel over the
    tokens of a sample (data2vec, Baevski et al. 2022), so that what all tokens of a recording share
    is no target and a constant answer earns nothing; docs/jepa.md has the comparison."""
    regularizer: Annotated[SigReg | VicReg, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.target == "student" and self.regularizer is None:
            raise ValueError(
                "target student collapses without a regularizer; "
                "set objective.regularizer.kind=sigreg"
            )
        if self.target == "student" and self.target_norm != "layer":
            raise ValueError(
                f"target_norm {self.target_norm} is for a teacher's targets; a student's are taken "
                "as they are: leave target_norm out"
            )
        if self.coarser and self.masks.kind == "reference":
            raise ValueError(
                "masks reference are for one level; with objective.coarser use "
                "objective.masks.kind=blocks"
            )
        own = self.masks.kind == "blocks"
        for number, level in enumerate(self.coarser):
            if own != (level.masks is not None):
                raise ValueError(
                    f"coarser.{number}.masks "
                    + (
                        "is null: say what this level hides, as "
                        f"objective.coarser.{number}.masks.targets=2"
                        if own
                        else "is not read with masks context_blocks, which hide the same on every "
                        f"level; set objective.coarser.{number}.masks=null"
                    )
                )
        if not self.coarser and (self.fusion or self.top_down):
            raise ValueError(
                "fusion and top_down join levels and there is one; set objective.fusion=false "
                "objective.top_down=false, or start from a recipe with hjepa in its name"
            )
        return self

    def grids(self, finest: Grid) -> tuple[Grid, ...]:
        grids = [finest]
        for level in self.coarser:
            strides = level.strides(len(finest))
            grids.append(tuple(n // s for n, s in zip(grids[-1], strides, strict=True)))
        return tuple(grids)

    def mask_grids(self, config: Config) -> tuple[Grid, ...]:
        """The grids that masks are drawn on: without the leads where all of them hide the same."""
        grids = config.grids
        some = self.masks.kind == "blocks" and self.masks.leads == "some"
        return grids if config.input.lead_rows is None or some else tuple(g[1:] for g in grids)

    @property
    def whole_batch(self) -> str | None:
        return super().whole_batch if self.regularizer is None else "regularizer"

    def shapes(self, grids: tuple[Grid, ...], seed: int) -> tuple[MaskShape, ...]:
        """The mask shapes that the steps of a run choose from; see :func:`mask_shapes`."""
        coarser = [level.masks for level in self.coarser if level.masks is not None]
        return mask_shapes(grids, self.masks, coarser, seed)

    def check(self, config: Config) -> None:
        encoder = config.encoder
        if encoder.causal:
            raise ValueError(
                "encoder.causal is true: a JEPA context is read in both directions; set "
                "encoder.causal=false"
            )
        if encoder.prefix:
            raise ValueError(
                "encoder.cls is true: nothing in a JEPA trains it; set encoder.cls=false"
            )
        if (config.ema is None) != (self.target == "student"):
            raise ValueError(
                "objective.target teacher needs an ema, target student has none; set "
                + ("objective.target=student" if config.ema is None else "ema=null")
            )
        axes = len(config.input.size)
        if self.masks.kind == "context_blocks" and axes > 1:
            raise ValueError(
                "masks context_blocks are stretches of a recording; use objective.masks.kind=blocks"
            )
        if config.input.lead_rows is None and getattr(self.masks, "leads", "all") == "some":
            raise ValueError(
                "objective.masks.leads some is for a grid of leads × time; set "
                "objective.masks.leads=all"
            )
        check_sincos("objective.predictor.width", self.predictor.width, axes)
        grids = config.grids
        for number, (level, grid) in enumerate(zip(self.coarser, grids, strict=False)):
            name = f"objective.coarser.{number}"
            for extent, stride in zip(grid, level.strides(len(grid)), strict=True):
                if extent % stride:
                    raise ValueError(
                        f"{name}.stride {level.stride} does not divide the grid {grid} below it; "
                        f"use {divisor_near(extent, stride)}, or another encoder.patch"
                    )
            if math.prod(grids[number + 1]) < 2:
                raise ValueError(
                    f"{name} has a grid of {grids[number + 1]}, nothing would be left to predict "
                    f"from; remove the level or use a stride under {level.stride}"
                )
            check_sincos(f"{name}.width", level.width, axes)
            if isinstance(encoder, EncoderConfig) and isinstance(encoder.positions, Rotary):
                check_heads(f"{name}: ", level, axes)
            check_sincos(f"{name}.predictor.width", level.predictor.width, axes)
        # Of every step's shape now, so that none can fail or hang in training.
        self.shapes(self.mask_grids(config), config.train.seed)
