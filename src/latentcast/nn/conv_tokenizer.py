"""Tokens made by convolutions of the samples, and a transformer on them."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.config import BACKBONES, Config, EncoderConfig
from latentcast.config.settings import Count, Settings
from latentcast.nn.cells import Grid
from latentcast.nn.tokens import Tokenizer, unfold
from latentcast.nn.transformer import PatchEncoder


class ConvStem(Settings):
    """The convolutions of a tokenizer."""

    stem_width: Count = 32
    """Channels between the convolutions."""
    stem_kernel: Count = 7
    """Samples or pixels a side; padded with zeros so that the size stays."""


class ConvTokenizer(Tokenizer):
    """``token = W · patch of gelu(conv(gelu(conv(x))))``.

    Each patch is padded and convolved by itself: no convolution crosses from one patch into the
    next, so hidden content cannot reach a visible token and a NEPA target shows its own patch
    only. With ``overlap`` the input is convolved in one piece, and a token shows :attr:`reach`
    samples on each side of its patch besides.
    """

    def __init__(
        self, stem: ConvStem, patch: int, width: int, channels: int, axes: int,
        overlap: bool = False, lead_rows: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(patch, axes, lead_rows)
        channels = channels if lead_rows is None else 1
        conv: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv1d if axes == 1 else nn.Conv2d
        inner, kernel = stem.stem_width, stem.stem_kernel
        self.conv1 = conv(channels, inner, kernel, padding="same")
        self.conv2 = conv(inner, inner, kernel, padding="same")
        self.proj = nn.Linear(inner * patch**axes, width)
        self.overlap = overlap
        # Of an even kernel the longer half lies behind the sample.
        self.reach = 2 * (kernel // 2) if overlap else 0

    def forward(self, values: Tensor) -> Tensor:
        grid = self.grid(values.shape[2:])
        if self.overlap:
            tokens: Tensor = self.proj(unfold(self.convolved(values), grid))
            return tokens
        channels = self.conv1.in_channels
        patches = self.unfold(values).reshape(-1, channels, *(self.patch,) * self.axes)
        tokens = self.proj(self.convolved(patches).flatten(1))
        return tokens.view(values.shape[0], math.prod(grid), -1)

    def convolved(self, x: Tensor) -> Tensor:
        return F.gelu(self.conv2(F.gelu(self.conv1(x))))

    def flops(self, patches: int) -> int:
        positions: int = self.patch**self.axes
        convolutions = (self.conv1.weight.numel() + self.conv2.weight.numel()) * positions
        return int(2 * patches * (convolutions + self.proj.weight.numel()))


class ConvEncoderConfig(EncoderConfig, ConvStem):
    """The transformer's settings, and those of the convolutions in front of it."""

    kind: str = "conv_transformer"
    stem_overlap: bool = False
    """Whether the convolutions cross from one patch into the next. What is hidden is then hidden
    from the input and not dropped from the tokens; nothing causal can be trained on it."""

    def check(self, config: Config) -> None:
        super().check(config)
        if self.stem_overlap and config.input.lead_rows is not None:
            raise ValueError(
                "convolutions that cross patches read all leads at once; set "
                "encoder.stem_overlap=false"
            )
        if self.stem_overlap and self.causal:
            raise ValueError(
                "encoder.stem_overlap is true: a token would show the patch after it, which is "
                "what a causal encoder is to predict; set encoder.stem_overlap=false"
            )


@BACKBONES.register
class ConvPatchEncoder(PatchEncoder):
    """:class:`PatchEncoder` with a :class:`ConvTokenizer` in the place of the linear patches."""

    settings = ConvEncoderConfig

    def make_tokenizer(self, channels: int, axes: int) -> Tokenizer:
        config = self.config
        assert isinstance(config, ConvEncoderConfig)
        self.can_drop = not config.stem_overlap
        return ConvTokenizer(
            config, config.patch, config.width, channels, axes, config.stem_overlap, self.lead_rows
        )

    def flops(self, size: Grid, kept: int | None = None) -> int:
        """Where convolutions cross patches the masked input is read in full."""
        return super().flops(size, kept if self.can_drop else None)
