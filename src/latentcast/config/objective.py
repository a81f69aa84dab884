"""What a run minimises: NEPA, or JEPA with one or more levels."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latentcast.config.masks import Blocks, MaskConfig, TargetBlocks
from latentcast.config.network import Transformer
from latentcast.config.settings import Count, NotNegative, Positive, Settings, Share


class NepaConfig(Settings):
    """Next-embedding prediction (objectives/nepa.py)."""

    kind: Literal["nepa"] = "nepa"
    patch_embedding: Literal["trained", "fixed"] = "trained"
    """``trained`` is the published rule: input and target move together. ``fixed`` keeps the patch
    embedding at its random initialisation, so that targets cannot drift to what is easy to
    predict; docs/nepa-on-ecg.md has the comparison."""


class PredictorConfig(Transformer):
    """The narrow transformer that predicts targets from a context (I-JEPA, section 3)."""

    depth: Count = 6
    heads: Count = 12


class LevelConfig(Transformer):
    """A coarser level: its grid, its blocks on merged tokens, its predictor, its masks."""

    stride: Count = 4
    """Cells of the level below along each axis that make one cell of this level."""
    depth: Annotated[int, Field(ge=0)] = 2
    """Blocks after the merge; 0 leaves pooling and projection, the cheap ablation."""
    predictor: PredictorConfig = PredictorConfig()
    masks: TargetBlocks | None = TargetBlocks(targets=2)
    """None with ``objective.masks.kind: context_blocks``, which hides the same on every level."""
    weight: Positive = 1.0
    """Of this level in the loss, relative to ``objective.weight`` of the finest."""


class SigReg(Settings):
    """LeJEPA's regularizer: embeddings distributed as an isotropic Gaussian."""

    kind: Literal["sigreg"] = "sigreg"
    weight: Share = 0.05
    """λ in ``(1 − λ) · prediction + λ · regularizer``."""
    slices: Count = 256


class VicReg(Settings):
    """VICReg's variance and covariance terms on the embeddings of a batch."""

    kind: Literal["vicreg"] = "vicreg"
    weight: Share = 0.5
    """λ in ``(1 − λ) · prediction + λ · regularizer``."""
    variance: NotNegative = 1.0
    covariance: NotNegative = 0.04


class JepaConfig(Settings):
    """Joint-embedding prediction (objectives/jepa.py): I-JEPA, with ``coarser`` levels H-JEPA."""

    kind: Literal["jepa"] = "jepa"
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
                "masks reference know one level; with objective.coarser use kind blocks"
            )
        own = self.masks.kind == "blocks"
        for number, level in enumerate(self.coarser):
            if own != (level.masks is not None):
                raise ValueError(
                    f"coarser.{number}.masks "
                    + (
                        "is null: say what this level hides, as masks.targets=2"
                        if own
                        else "is not read with masks context_blocks, which hide the same on every "
                        f"level; set objective.coarser.{number}.masks=null"
                    )
                )
        if not self.coarser and (self.fusion or self.top_down):
            raise ValueError(
                "fusion and top_down join levels and there is one; add objective.coarser or set "
                "both to false"
            )
        return self
