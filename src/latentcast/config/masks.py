"""Which patches are predicted from which: the settings of the mask samplers."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latentcast.config.settings import Count, Interval, Positive, Settings


def _check_interval(name: str, interval: Interval, highest: float) -> None:
    low, high = interval
    if not 0 < low <= high <= highest:
        raise ValueError(
            f"{name} [{low:g}, {high:g}] is no interval of shares; "
            f"write [low, high] with 0 < low <= high <= {highest:g}"
        )


class TargetBlocks(Settings):
    """Blocks of cells to predict, anywhere on a grid."""

    targets: Count = 4
    """Blocks to predict for each sample; each is predicted on its own."""
    target_scale: Interval = (0.15, 0.2)
    """Share of the grid that a block covers."""
    target_aspect: tuple[Positive, Positive] = (0.75, 1.5)
    """Height over width of a block (2-D), drawn independently of its scale."""

    @model_validator(mode="after")
    def _are_shares(self) -> Self:
        _check_interval("target_scale", self.target_scale, 1)
        _check_interval("target_aspect", self.target_aspect, math.inf)
        return self


class Blocks(TargetBlocks):
    """Target blocks, and a context drawn from the patches they leave."""

    kind: Literal["blocks"] = "blocks"
    leads: Literal["all", "some"] = "all"
    """On a grid of leads × time: ``all``: a block is a span of time in all leads; ``some``: of
    neighbouring leads, whose number over cells of time is ``target_aspect``."""
    context_scale: Interval = (0.85, 1.0)
    """Share that the context keeps of the patches which are certainly free: those that remain when
    no two target blocks overlap. Its size is therefore the same for every sample."""
    least_context: Count = 10
    """Fewer context patches than this are refused before training."""
    shapes: Count = 8
    """How many combinations of block and context size a run uses; compiled code recompiles for
    each, so they are few."""

    @model_validator(mode="after")
    def _is_a_share(self) -> Self:
        _check_interval("context_scale", self.context_scale, 1)
        return self


class ContextBlocks(Settings):
    """Recordings: the context is a few stretches, everything else is the one target.

    The published ECG setting keeps 15–25 % of 200 patches in stretches of at least 10. On coarser
    levels the targets are cells of which nothing is in the context.
    """

    kind: Literal["context_blocks"] = "context_blocks"
    context_share: Interval = (0.15, 0.25)
    least_block: Count = 10
    """Patches in the shortest stretch."""
    shapes: Count = 8

    @model_validator(mode="after")
    def _are_shares(self) -> Self:
        _check_interval("context_share", self.context_share, 1)
        return self


class ReferenceBlocks(Settings):
    """I-JEPA's own mask collator, its biases included; for comparisons with published runs.

    ``blocks`` is what to use: here the last row and column are never seen, the context block
    hardly moves, targets can leak into the context, and small grids are refused because the
    original does not terminate on them (spec of I-JEPA, M1 to M5).
    """

    kind: Literal["reference"] = "reference"
    targets: Count = 4
    target_scale: Interval = (0.15, 0.2)
    target_aspect: tuple[Positive, Positive] = (0.75, 1.5)
    context_scale: Interval = (0.85, 1.0)
    min_keep: Count = 10
    """A block with no more patches than this is drawn again."""

    @model_validator(mode="after")
    def _are_shares(self) -> Self:
        _check_interval("target_scale", self.target_scale, 1)
        _check_interval("context_scale", self.context_scale, 1)
        _check_interval("target_aspect", self.target_aspect, math.inf)
        return self


MaskConfig = Annotated[Blocks | ContextBlocks | ReferenceBlocks, Field(discriminator="kind")]
