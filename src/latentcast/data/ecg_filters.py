"""Filters of recordings, on the device and on the samples that the network reads.

Training and use come here through the same preprocessing, so a window of a recording is filtered
in one way whoever reads it. A window is continued by its mirror image for ever: nothing outside of
it counts. Stretches that are not valid are bridged by a line from the valid sample before to the
one after, so that what lies in them reaches no other sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.config.filters import AnyFilter, LinearFilter

BLOCK_SECONDS, MEDIANS_SECONDS = 0.04, (0.2, 0.6)
"""The baseline is found in means over the first, which is far shorter than any baseline's wave."""


def filtered(
    signal: Tensor, valid: Tensor, filters: Sequence[AnyFilter], sampling_rate: float
) -> Tensor:
    """Float ``(B, leads, samples)`` after all filters, in their order.

    Args:
        signal: in any unit; what it holds where it is not valid does not matter.
        valid: bool of the same shape.
        filters: see :mod:`latentcast.config.filters`.
        sampling_rate: in Hz.
    """
    if signal.is_cuda or not valid.all():  # a GPU is not waited for
        signal = bridged(signal, valid)
    for one in filters:
        if isinstance(one, LinearFilter):
            signal = _multiplied(signal, one, sampling_rate)
        else:
            signal = signal - baseline(signal, sampling_rate)
    return signal


def bridged(signal: Tensor, valid: Tensor) -> Tensor:
    """With lines in the place of what is not valid, level at the ends; 0 where nothing is."""
    samples = signal.shape[-1]
    place = torch.arange(samples, device=signal.device).expand(signal.shape)
    before = torch.where(valid, place, -1).cummax(-1).values
    after = torch.where(valid, place, samples).flip(-1).cummin(-1).values.flip(-1)
    # At the ends of a lead the only neighbour stands for both.
    low = torch.where(before < 0, after, before).clamp(max=samples - 1)
    high = torch.where(after == samples, before, after).clamp(min=0)
    share = (place - low) / (high - low).clamp(min=1)
    filled = torch.lerp(signal.gather(-1, low), signal.gather(-1, high), share.to(signal))
    any_valid = valid.any(-1, keepdim=True)
    return torch.where(valid, signal, torch.where(any_valid, filled, 0.0))


def _multiplied(signal: Tensor, one: LinearFilter, sampling_rate: float) -> Tensor:
    """By the gain at each frequency of the signal and its mirror image."""
    samples = signal.shape[-1]
    gain = _gain(one, 2 * samples, sampling_rate).to(signal)
    # The offset may be a thousand times the ECG, and float32 has seven digits.
    offset = signal.mean(-1, keepdim=True)
    spectrum = torch.fft.rfft(torch.cat([signal - offset, (signal - offset).flip(-1)], -1))
    both = torch.fft.irfft(spectrum * gain, n=2 * samples)
    left: Tensor = both.narrow(-1, 0, samples) + offset * gain[0]
    return left


@lru_cache(maxsize=32)
def _gain(one: LinearFilter, samples: int, sampling_rate: float) -> Tensor:
    hertz = np.arange(samples // 2 + 1, dtype=np.float64) * (sampling_rate / samples)
    return torch.from_numpy(one.gain(hertz, sampling_rate))


def baseline(signal: Tensor, sampling_rate: float) -> Tensor:
    """The slow line under ``(B, leads, samples)``: medians, of the same shape."""
    samples, rows = signal.shape[-1], signal.flatten(0, 1)
    block = max(1, round(BLOCK_SECONDS * sampling_rate))
    rows = F.pad(rows, (0, -samples % block), mode="replicate")
    slow = F.avg_pool1d(rows, block)
    for seconds in MEDIANS_SECONDS:
        half = max(1, round(seconds * sampling_rate / block / 2))
        slow = F.pad(slow, (half, half), mode="replicate").unfold(-1, 2 * half + 1, 1)
        slow = slow.median(-1).values
    line = F.interpolate(slow[:, None], size=rows.shape[-1], mode="linear")[:, 0, :samples]
    return line.view(signal.shape)
