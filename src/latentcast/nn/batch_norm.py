"""Batch normalisation: statistics over all ranks and over valid cells, for maps."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.nn.ranks import summed

LEAST_GAIN = 0.05
"""What a batch counts for in the running statistics once there were more than twenty of them."""


class BatchNorm(nn.Module):
    """``γ (x − μ) / √(σ² + ε) + β`` for each channel (Ioffe & Szegedy 2015).

    In training ``μ`` and ``σ²`` are those of the valid cells of the batch, of all ranks together,
    so two ranks train what one does. In evaluation they are running statistics, which a forward
    pass never changes: it leaves those of its batch in :attr:`batch`, and the engine moves the
    running ones once for each step that counts (:mod:`latentcast.engine.running_statistics`).
    A skipped, interrupted or recomputed step therefore leaves no trace in them.

    A teacher that reads batches keeps the statistics of its own passes; one that only averages
    weights takes over those of its student.

    Args:
        channels: of the maps.
        gain: initial ``γ``.
    """

    running_mean: Tensor
    running_variance: Tensor
    batches: Tensor
    batch: tuple[Tensor, Tensor] | None = None
    """Mean and variance of the last batch in training that has not moved the running ones."""

    def __init__(self, channels: int, gain: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain, self.eps = gain, eps
        self.weight = nn.Parameter(torch.full((channels,), gain))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros(1))

    def initialise_own(self, generator: torch.Generator) -> None:
        self.weight.fill_(self.gain)
        self.bias.zero_()
        self.running_mean.zero_()
        self.running_variance.fill_(1)
        self.batches.zero_()

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """``(B, channels, rows, columns)`` in and out.

        Args:
            valid: ``(B, 1, rows, columns)`` bool, cells that count; None when all do.
        """
        if not self.training:
            running = (self.running_mean, self.running_variance)
            return F.batch_norm(x, *running, self.weight, self.bias, False, 0.0, self.eps)
        if valid is None and not (dist.is_available() and dist.is_initialized()):
            y, mean, scale = torch.native_batch_norm(
                x, self.weight, self.bias, None, None, True, 0.0, self.eps
            )
            self.batch = mean.detach(), scale.detach() ** -2 - self.eps
            return y
        # Out of autocast: sums over a batch in bf16 have three digits.
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            counted = torch.ones_like(wide[:, :1]) if valid is None else valid.to(wide.dtype)
            packed = summed(torch.cat([_sums(wide * counted), counted.sum()[None]]))
            total = packed[-1].clamp(min=1)
            mean = packed[:-1] / total
            centred = (wide - _along(mean)) * counted
            variance = summed(_sums(centred.square())) / total
            self.batch = mean.detach(), variance.detach()
            y = centred * _along((variance + self.eps).rsqrt() * self.weight) + _along(self.bias)
            return y.to(x.dtype)

    @torch.no_grad()
    def follow(self, refused: Tensor) -> None:
        """Move the running statistics by the batch's, unless its step was ``refused`` (1)."""
        if self.batch is None:
            return
        # The first batches are averaged evenly: there is no initial value to forget.
        gain = (1 / (self.batches + 1)).clamp(min=LEAST_GAIN)
        for running, batch in zip(
            (self.running_mean, self.running_variance), self.batch, strict=True
        ):
            moved = running + gain * (batch - running)
            running.copy_(torch.where(refused > 0, running, moved))
        self.batches += 1 - refused
        self.batch = None


def _sums(x: Tensor) -> Tensor:
    return x.sum((0, 2, 3))


def _along(x: Tensor) -> Tensor:
    return x.view(1, -1, 1, 1)
