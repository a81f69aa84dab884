"""Encoders: what every backbone's configuration has in common, and the transformer's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from latentcast.config.masks import TargetBlocks
from latentcast.config.registry import Registry
from latentcast.config.settings import (
    Activation,
    Count,
    Factor,
    NotNegative,
    Positive,
    Settings,
    divisor_near,
)

if TYPE_CHECKING:
    from latentcast.config.run import Config

Grid = tuple[int, ...]


class Rotary(Settings):
    """Rotary positions (RoPE) on patches; CLS is never rotated."""

    kind: Literal["rotary"] = "rotary"
    coordinates: Literal["normalized", "seconds"] = "normalized"
    """``normalized``: patch centres in [-1, 1] along each axis (the published rule; a 2.5 s crop
    is stretched to the same span as 10 s). ``seconds``: patch centres in seconds divided by
    ``shortest_period``, the same for every length."""
    theta: Factor = 100.0
    """Ratio of the fastest to the slowest frequency."""
    shortest_period: Positive = 0.4
    """Seconds in one turn of the fastest frequency (``seconds`` only). 0.4 s turns neighbouring
    50 ms patches by π/4, as NEPA-B/14 does on images."""
    rescale: Factor | None = 2.0
    """Training only: coordinates times a log-uniform factor in [1/rescale, rescale]."""
    shift: NotNegative | None = None
    """Training only: coordinates plus a uniform offset in [-shift, shift] for each axis."""
    jitter: Factor | None = None
    """Training only: each axis times a log-uniform factor in [1/jitter, jitter]."""


class SinCos(Settings):
    """Fixed sines and cosines of the patch's index, added to its embedding (I-JEPA)."""

    kind: Literal["sincos"] = "sincos"


class Transformer(Settings):
    """The size of a stack of blocks."""

    width: Count = 384
    depth: Count = 8
    heads: Count = 6
    mlp_width: Count = 1536

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not a multiple of heads {self.heads}; "
                f"use heads {divisor_near(self.width, self.heads)}"
            )
        return self


class BackboneConfig(Settings):
    """Base of the configurations of encoders; a subclass gives ``kind`` its name.

    A token is made of a patch: a stretch of samples, or a square of pixels.
    """

    registry: ClassVar[Registry[Any]]
    can_drop: ClassVar[bool] = True
    """Whether tokens can be left out before the network; otherwise the input is masked."""
    reads_leads: ClassVar[bool] = False
    """Whether a token can be a patch of one lead, on a grid of leads × time."""

    kind: str
    width: Count
    """Of a token that comes out."""
    patch: Count
    """Samples (1-D) or pixels a side (2-D) of a patch; must divide the input."""
    depth: Count
    """Blocks between the embedding and the output."""
    causal: bool = False
    """Whether a token sees only the ones before it."""

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches (a CLS token is one)."""
        return 0

    @property
    def whole_batch(self) -> str | None:
        """The key of what needs statistics of the whole batch, so that it cannot be cut."""
        return None

    def grid(self, size: Grid) -> Grid:
        """Tokens along each axis of an input of ``size`` samples or pixels."""
        return tuple(extent // self.patch for extent in size)

    def check(self, config: Config) -> None:
        """Refuse what this encoder cannot read.

        Raises:
            ValueError: a sentence that names the key and the value to set.
        """
        if config.input.lead_rows is not None and not self.reads_leads:
            raise ValueError(
                f"encoder.kind {self.kind} reads all leads at once; set input.tokens=joint "
                "input.drop_leads=0, or start from hjepa-ecg-leads-tiny"
            )
        for extent in config.input.size:
            if extent % self.patch:
                raise ValueError(
                    f"encoder.patch {self.patch} does not divide the input {config.input.size}; "
                    f"use a patch of {divisor_near(math.gcd(*config.input.size), self.patch)} "
                    f"or an input of {max(self.patch, extent - extent % self.patch)}"
                )


BACKBONES: Registry[BackboneConfig] = Registry(
    "encoder", home="latentcast.nn.backbones", default="transformer"
)
BackboneConfig.registry = BACKBONES

AnyBackbone = Annotated[SerializeAsAny[BackboneConfig], BeforeValidator(BACKBONES.validate)]


class EncoderConfig(BackboneConfig, Transformer):
    """A pre-norm transformer over patches."""

    reads_leads: ClassVar[bool] = True
    plain: ClassVar[bool] = True
    """Whether positions and attention are as written here; those of a public variant are compared
    with its own reference (tests/parity), and the claims about them are not its."""

    kind: str = "transformer"
    width: Count = 384
    depth: Count = 8
    patch: Count = 25
    """Samples (1-D) or pixels a side (2-D) of a patch; must divide the input."""
    patch_std: Positive = 0.02
    """Standard deviation of the patch embedding's weights at the start. The published 0.02 is made
    for patches of many values: with few, all tokens begin next to fixed positions a hundred times
    as long and a JEPA predicts the positions; 1/√values keeps both alike (docs/jepa.md)."""
    gated_mlp: bool = False
    activation: Activation = "gelu"
    qkv_bias: bool = True
    qk_norm: bool = True
    qk_norm_affine: bool = False
    qk_norm_bias: bool = False
    layer_scale: Positive | None = 1e-5
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Rate of the last block; grows linearly from 0 at the first."""
    norm_eps: Positive = 1e-12
    causal: bool = True
    cls: bool = True
    """Whether a CLS token stands before the patches (NEPA has one, I-JEPA has none)."""
    positions: Annotated[Rotary | SinCos, Field(discriminator="kind")] = Rotary()

    @property
    def prefix(self) -> int:
        return 1 if self.cls else 0

    def check(self, config: Config) -> None:
        super().check(config)
        if self.causal and config.input.lead_rows is not None:
            raise ValueError(
                "encoder.causal is true: patches of different leads at one time have no order; "
                "set input.tokens=joint input.drop_leads=0, or start from hjepa-ecg-leads-tiny"
            )
        axes = len(config.input.size)
        if isinstance(self.positions, SinCos):
            check_sincos("encoder.width", self.width, axes)
            return
        check_heads("", self, axes)
        if config.input.kind == "image" and self.positions.coordinates == "seconds":
            raise ValueError(
                "an image has no seconds; set encoder.positions.coordinates=normalized"
            )

    def sized(self, size: Transformer) -> EncoderConfig:
        """The same kind of block at another size."""
        sizes = {name: getattr(size, name) for name in Transformer.model_fields}
        return self.model_copy(update=sizes)


class PredictorConfig(Transformer):
    """The narrow transformer that predicts targets from a context (I-JEPA, section 3)."""

    depth: Count = 6
    heads: Count = 12


class LevelConfig(Transformer):
    """A coarser level: its grid, its blocks on merged tokens, its predictor, its masks."""

    stride: Count | Annotated[tuple[Count, ...], Field(min_length=1)] = 4
    """Cells of the level below along each axis that make one cell of this level; several numbers
    are one for each axis (leads, then time; rows, then columns)."""
    depth: Annotated[int, Field(ge=0)] = 2
    """Blocks after the merge; 0 leaves pooling and projection, the cheap ablation."""
    predictor: PredictorConfig = PredictorConfig()
    masks: TargetBlocks | None = TargetBlocks(targets=2)
    """None with ``objective.masks.kind: context_blocks``, which hides the same on every level."""
    weight: Positive = 1.0
    """Of this level in the loss, relative to ``objective.weight`` of the finest."""

    def strides(self, axes: int) -> Grid:
        """Along each axis of a grid.

        Raises:
            ValueError: it has another number of axes.
        """
        if isinstance(self.stride, int):
            return (self.stride,) * axes
        if len(self.stride) != axes:
            raise ValueError(
                f"objective.coarser: stride {list(self.stride)} is for {len(self.stride)} axes, "
                f"the grid of tokens has {axes}; give one number for all axes, or {axes}"
            )
        return self.stride


def check_heads(name: str, size: Transformer, axes: int) -> None:
    """Refuse heads too narrow for rotary pairs on every axis."""
    if (head := size.width // size.heads) % (2 * axes):
        raise ValueError(
            f"{name}a head of {head} dimensions cannot hold rotary pairs for {axes} axes; "
            f"use a width that is a multiple of {2 * axes * size.heads}"
        )


def check_sincos(name: str, width: int, axes: int) -> None:
    """Refuse a width that sine-cosine pairs of every axis do not fill."""
    if width % (2 * axes):
        raise ValueError(
            f"{name} {width} cannot hold sine-cosine pairs for {axes} axes; "
            f"use a multiple of {2 * axes}"
        )
