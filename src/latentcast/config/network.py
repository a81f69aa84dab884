"""The transformer over patches: widths, depths, positions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latentcast.config.settings import (
    Activation,
    Count,
    Factor,
    NotNegative,
    Positive,
    Settings,
    divisor_near,
)


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


class EncoderConfig(Transformer):
    """A pre-norm transformer over patches."""

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

    def sized(self, size: Transformer) -> EncoderConfig:
        """The same kind of block at another size."""
        sizes = {name: getattr(size, name) for name in Transformer.model_fields}
        return self.model_copy(update=sizes)
