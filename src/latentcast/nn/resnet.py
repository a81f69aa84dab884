"""A residual convolutional network over recordings or images."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from latentcast.config import BACKBONES, BackboneConfig, Config
from latentcast.config.settings import Activation, Count
from latentcast.nn.base import Encoder, Unit
from latentcast.nn.blocks import ACTIVATIONS
from latentcast.nn.cells import Grid
from latentcast.nn.conv_norm import (
    ConvNorm,
    Norm,
    convolution,
    flops_of,
    norm_of,
    to_maps,
    to_tokens,
)
from latentcast.nn.tokens import Tokenizer
from latentcast.randomness import Draw


class ResNetConfig(BackboneConfig):
    """A stem that halves the input, and residual blocks that halve it until a cell is a patch."""

    can_drop: ClassVar[bool] = False

    kind: str = "resnet"
    width: Count = 256
    patch: Count = 8
    """A power of two: the stem takes every second sample, and so do the first blocks until a token
    is a patch."""
    depth: Count = 3
    stem_width: Count = 48
    """Channels after the stem; each block doubles them, up to ``width``."""
    kernels: Annotated[tuple[Count, ...], Field(min_length=1)] = (15, 9, 7, 5)
    """Samples, or pixels a side, of the kernels of the stem and of each block; the last one is that
    of all further blocks."""
    activation: Activation = "relu"
    norm: Norm = "batch"
    """``batch``: statistics of the whole batch. ``group``: each sample by itself."""

    @property
    def whole_batch(self) -> str | None:
        return "norm" if self.norm == "batch" else None

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after the stem and after each block."""
        doubled = [min(self.stem_width * 2**n, self.width) for n in range(self.depth)]
        return (*doubled, self.width)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the stem and of each block."""
        halvings = self.patch.bit_length() - 1
        return tuple(2 if n < halvings else 1 for n in range(self.depth + 1))

    def kernel(self, n: int) -> int:
        """Of the stem (0) or of a block (from 1)."""
        return self.kernels[min(n, len(self.kernels) - 1)]

    def check(self, config: Config) -> None:
        super().check(config)
        if math.prod(self.strides) != self.patch:
            most = 2 ** min(self.patch.bit_length() - 1, self.depth + 1)
            power = math.gcd(most, *config.input.size)  # what divides the input as well
            raise ValueError(
                f"encoder.patch {self.patch} is no power of two up to 2^(depth + 1), and each of "
                f"the stem and the {self.depth} blocks halves at most once; use a patch of {power}"
            )
        if even := [kernel for kernel in self.kernels if kernel % 2 == 0]:
            raise ValueError(
                f"encoder.kernels: {even[0]} has no middle; use odd numbers, as {even[0] + 1}"
            )
        if self.causal:
            raise ValueError(
                "encoder.causal is true: a convolution reads both sides; set encoder.causal=false"
            )
        if self.norm == "batch" and config.machine.recompute:
            raise ValueError(
                "machine.recompute computes a batch norm and its sums over ranks twice; set "
                "encoder.norm=group or machine.recompute=false"
            )


class Stem(Tokenizer):
    """The first convolution. Its kernel reaches beyond a patch, which may hold several cells.

    Its norm is applied after it, where it is known which patches are valid.
    """

    def __init__(self, config: ResNetConfig, channels: int, axes: int) -> None:
        super().__init__(config.patch, axes)
        stride = config.strides[0]
        self.per = config.patch // stride
        self.conv = convolution(axes, channels, config.widths[0], config.kernel(0), stride)
        self.norm = norm_of(config.widths[0], config.norm)

    def forward(self, values: Tensor) -> Tensor:
        """``(B, channels, *size)`` to ``(B, per^axes · N, width)``, patch by patch."""
        maps = values.unsqueeze(2) if self.axes == 1 else values
        maps = self.conv(maps.contiguous(memory_format=torch.channels_last))
        return to_tokens(maps, self.grid(values.shape[2:]), self.per)

    def flops(self, patches: int) -> int:
        return int(patches * self.per**self.axes * flops_of(self))


class Residual(Unit):
    """``act(conv(conv(x)) + skip(pool(x)))`` (He et al. 2016; the pooled skip of ResNet-D)."""

    def __init__(self, config: ResNetConfig, n: int, axes: int) -> None:
        super().__init__()
        (before, after), kernel = config.widths[n - 1 : n + 1], config.kernel(n)
        self.stride, norm, act = config.strides[n], config.norm, config.activation
        self.activation = ACTIVATIONS[act]
        self.along = (1, self.stride) if axes == 1 else (self.stride, self.stride)
        self.first = ConvNorm(axes, before, after, kernel, norm, act, stride=self.stride)
        # A small gain at first: a block begins near its skip.
        self.second = ConvNorm(axes, after, after, kernel, norm, None, gain=0.5)
        self.skip = None
        if before != after:
            self.skip = ConvNorm(axes, before, after, 1, norm, None)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Maps in and out; ``valid`` is of those that come out."""
        branch = self.second(self.first(x, valid), valid)
        if self.stride > 1:
            x = F.avg_pool2d(x, self.along)
        return self.activation(branch + (x if self.skip is None else self.skip(x, valid)))


@BACKBONES.register
class ResNet(Encoder):
    """Stem → residual blocks, on grids of twice as many cells along each axis until the patches'.

    It cannot drop tokens: the input is masked. Cells of patches that are not valid stay 0 on every
    layer and out of the statistics of batch norms.
    """

    settings = ResNetConfig
    causal, can_drop = False, False

    def __init__(self, config: ResNetConfig, channels: int, axes: int) -> None:
        super().__init__()
        self.config, self.width, self.axes = config, config.width, axes
        self.stem = Stem(config, channels, axes)
        blocks = (Residual(config, n, axes) for n in range(1, config.depth + 1))
        self.blocks = nn.ModuleList(blocks)

    @classmethod
    def of(cls, config: Config) -> Self:
        assert isinstance(config.encoder, ResNetConfig)
        return cls(config.encoder, config.input.channels, len(config.input.size))

    @property
    def tokenizer(self) -> Stem:
        return self.stem

    @property
    def layer_names(self) -> tuple[str, ...]:
        return ("stem", *(f"block {n}" for n in range(1, self.config.depth + 1)))

    def layers(
        self,
        tokens: Tensor,
        size: Grid,
        draw: Draw | None = None,
        kept: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> list[Tensor]:
        grid = self.grid(size)
        # On a CPU this is known at once, and a batch without gaps takes the faster path. A graph
        # that is exported has one path, for any batch.
        on_cpu = tokens.device.type == "cpu" and not torch.compiler.is_exporting()
        if on_cpu and valid is not None and valid.all():
            valid = None
        flags = None if valid is None else to_maps(valid.unsqueeze(-1), grid)
        per = self.stem.per
        x = to_maps(tokens, grid, per)
        spread = self._spread(flags, per)
        x = ACTIVATIONS[self.config.activation](self.stem.norm(x, spread))
        x = x if spread is None else x * spread
        states = [to_tokens(x, grid, per)]
        for block in self.blocks:
            assert isinstance(block, Residual)
            per //= block.stride
            x = block(x, self._spread(flags, per))
            states.append(to_tokens(x, grid, per))
        return states

    def _spread(self, flags: Tensor | None, per: int) -> Tensor | None:
        """Flags of patches for each of their cells."""
        if flags is None:
            return None
        flags = flags.repeat_interleave(per, dim=3)
        return flags if self.axes == 1 else flags.repeat_interleave(per, dim=2)

    def flops(self, size: Grid, kept: int | None = None) -> int:
        """The masked input is read whole, so ``kept`` saves nothing."""
        patches, per = math.prod(self.grid(size)), self.stem.per
        total = self.stem.flops(patches)
        for block in self.blocks:
            assert isinstance(block, Residual)
            per //= block.stride
            total += patches * per**self.axes * flops_of(block)
        return total
