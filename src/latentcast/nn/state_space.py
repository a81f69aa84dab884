"""Diagonal state spaces (S4D): long convolutions over the tokens of patches."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.config import BACKBONES, BackboneConfig, Config
from latentcast.config.settings import Count, Interval
from latentcast.nn.base import Encoder, Unit
from latentcast.nn.cells import Grid
from latentcast.nn.conv_tokenizer import ConvStem, ConvTokenizer
from latentcast.nn.initialise import draw as draw_normal
from latentcast.nn.initialise import place
from latentcast.nn.tokens import Tokenizer
from latentcast.randomness import Draw

DYNAMICS = ("log_step", "log_decay", "frequency")
DYNAMICS_RATE = 0.1
"""Of the dynamics, relative to the other weights: as published, with an lr of 0.01 and 0.001."""


def is_dynamics(name: str) -> bool:
    """Whether a parameter says how the state evolves: ``Δ`` and ``A``, which are not decayed."""
    return name.rpartition(".")[2] in DYNAMICS


class StateSpaceConfig(BackboneConfig, ConvStem):
    """Convolutions inside each patch, then long convolutions over the tokens."""

    can_drop: ClassVar[bool] = False

    kind: str = "s4d"
    width: Count = 128
    patch: Count = 20
    depth: Count = 4
    state: Count = 32
    """Modes of each channel, each of which stands for a conjugate pair."""
    step: Interval = (0.001, 0.1)
    """Shortest and longest time step of a channel at the start, in tokens: what a mode keeps falls
    to 1/e in 2/step tokens. The published span is for a thousand of them."""
    causal: bool = True
    cls: bool = True
    """Whether a CLS token stands before the patches, as NEPA needs."""

    @property
    def prefix(self) -> int:
        return 1 if self.cls else 0

    def check(self, config: Config) -> None:
        super().check(config)
        low, high = self.step
        if not 0 < low <= high:
            raise ValueError(
                f"encoder.step {self.step} is no span of positive numbers; set "
                "encoder.step=[0.001,0.1]"
            )


class Modes(nn.Module):
    """The kernel of a diagonal state space in real numbers (Gu et al. 2022, S4D-Lin).

    ``K_l = 2 Re Σ_n C_n (exp(Δ A_n) − 1) / A_n · exp(Δ A_n)^l`` with
    ``A = −exp(log_decay) + i · frequency`` and ``Δ = exp(log_step)``: zero-order hold, ``B = 1``.
    ``A`` begins at ``−1/2 + iπn``, ``Δ`` log-uniform over ``step``, ``C`` normal.
    """

    def __init__(self, config: StateSpaceConfig) -> None:
        super().__init__()
        self.step = config.step
        size = (config.width, config.state)
        self.log_step = nn.Parameter(torch.empty(config.width))
        self.log_decay = nn.Parameter(torch.empty(size))
        self.frequency = nn.Parameter(torch.empty(size))
        self.readout = nn.Parameter(torch.empty(*size, 2))

    def initialise_own(self, generator: torch.Generator) -> None:
        low, high = (math.log(end) for end in self.step)
        share = torch.rand(self.log_step.shape, generator=generator, dtype=torch.float64)
        place(self.log_step, low + (high - low) * share)
        place(self.log_decay, torch.full(self.log_decay.shape, math.log(0.5)))
        place(self.frequency, (math.pi * torch.arange(self.frequency.shape[1])).expand(
            self.frequency.shape))  # fmt: skip
        draw_normal(self.readout, 0.5**0.5, generator)

    def forward(self, length: int) -> Tensor:
        """The kernel ``(width, length)``, at least in float32."""
        wide = torch.promote_types(self.readout.dtype, torch.float32)
        a = torch.complex(-self.log_decay.to(wide).exp(), self.frequency.to(wide))
        exponent = a * self.log_step.to(wide).exp().unsqueeze(-1)
        gain = torch.view_as_complex(self.readout.to(wide)) * (exponent.exp() - 1) / a
        lags = torch.arange(length, device=a.device, dtype=wide)
        return 2 * (gain.unsqueeze(-1) * (exponent.unsqueeze(-1) * lags).exp()).real.sum(1)


def long_convolution(x: Tensor, forward: Tensor, backward: Tensor | None = None) -> Tensor:
    """``y_t = Σ_{l ≥ 0} forward_l x_{t−l} + Σ_{l ≥ 0} backward_l x_{t+1+l}`` by FFT.

    Twice as long as the input, so that its end does not reach its beginning. What comes later
    changes a causal output by rounding, and by nothing else.

    Args:
        x: ``(B, T, width)``.
        forward, backward: ``(width, T)``; without ``backward`` the convolution is causal.
    """
    length = x.shape[1]
    kernel = F.pad(forward, (0, length))
    if backward is not None:
        kernel = kernel + F.pad(backward.flip(-1), (length, 0))
    rows = torch.fft.rfft(x.to(kernel.dtype).transpose(1, 2), n=2 * length)
    mixed: Tensor = torch.fft.irfft(rows * torch.fft.rfft(kernel), n=2 * length)
    return mixed[..., :length].transpose(1, 2)


class StateSpaceBlock(Unit):
    """``x += GLU(W gelu(S4D(LN x) + D · LN x))``, one state space for each channel."""

    def __init__(self, config: StateSpaceConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.forward_modes = Modes(config)
        self.backward_modes = None if config.causal else Modes(config)
        self.skip = Skip(config.width)
        self.mix = nn.Linear(config.width, 2 * config.width)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """``(B, T, width)`` in and out; tokens that are not ``valid`` ``(B, T)`` read as 0."""
        normed = self.norm(x)
        if valid is not None:
            normed = normed * valid.unsqueeze(-1)
        with torch.autocast(x.device.type, enabled=False):
            length, back = x.shape[1], self.backward_modes
            kernels = self.forward_modes(length), None if back is None else back(length)
            state = long_convolution(normed, *kernels)
        mixed: Tensor = F.glu(self.mix(F.gelu(state.to(normed.dtype) + self.skip(normed))), dim=-1)
        return x + mixed


class Skip(nn.Module):
    """``D · x``, a gain for each channel, normal at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))

    def initialise_own(self, generator: torch.Generator) -> None:
        draw_normal(self.gain, 1.0, generator)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


@BACKBONES.register
class StateSpaceEncoder(Encoder):
    """Convolutions in each patch, with or without CLS → S4D blocks → final norm.

    Tokens are one sequence, those of an image row by row. None can be left out of a convolution:
    the input is masked.
    """

    settings = StateSpaceConfig
    can_drop = False

    def __init__(self, config: StateSpaceConfig, channels: int, axes: int) -> None:
        super().__init__()
        self.config, self.width, self.causal = config, config.width, config.causal
        self.prefix = config.prefix
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width)) if config.cls else None
        self.patches = ConvTokenizer(config, config.patch, config.width, channels, axes)
        self.blocks = nn.ModuleList(StateSpaceBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    @classmethod
    def of(cls, config: Config) -> Self:
        assert isinstance(config.encoder, StateSpaceConfig)
        return cls(config.encoder, config.input.channels, len(config.input.size))

    @property
    def tokenizer(self) -> Tokenizer:
        return self.patches

    @property
    def layer_names(self) -> tuple[str, ...]:
        return ("embedding", *(f"block {n}" for n in range(1, self.config.depth + 1)), "norm")

    def embed(self, values: Tensor) -> Tensor:
        patches = super().embed(values)
        if self.cls is None:
            return patches
        return torch.cat([self.cls.expand(patches.shape[0], -1, -1), patches], dim=1)

    def layers(
        self,
        tokens: Tensor,
        size: Grid,
        draw: Draw | None = None,
        kept: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> list[Tensor]:
        if valid is not None and self.prefix:
            valid = F.pad(valid, (self.prefix, 0), value=True)
        states = [tokens]
        for block in self.blocks:
            states.append(block(states[-1], valid))
        return [*states, self.norm(states[-1])]

    def flops(self, size: Grid, kept: int | None = None) -> int:
        """The masked input is read in full, so ``kept`` saves nothing.

        Kernels and Fourier transforms are no matrix products and are not counted. By
        ``5/2 · N log2 N`` a real transform, those of 50 tokens of 128 channels are about 4 % more.
        """
        patches = math.prod(self.grid(size))
        mixed = self.config.depth * 2 * self.width**2
        return self.patches.flops(patches) + 2 * (patches + self.prefix) * mixed
