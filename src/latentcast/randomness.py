"""Counter-based randomness: every draw is a pure function of (seed, step, sample id, stream).

There is no generator whose state could be lost, so a resumed run, another number of workers or
another split into micro-batches draws the same numbers. The mixing function is SplitMix64
(Steele, Lea & Flood 2014); the NumPy form serves data order and crops on the host, the torch
form serves drop-path, coordinates and masks on the device, and both give the same bits.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def key(*parts: int | str) -> int:
    """Fold seeds, step numbers and stream names into one 64-bit key.

    Names keep unrelated draws apart: ``key(seed, "crop")`` and ``key(seed, "order")`` share
    nothing, and adding a new stream never shifts an old one.
    """
    state = 0
    for part in parts:
        word = zlib.crc32(part.encode()) if isinstance(part, str) else part & _MASK
        state = _finish((state ^ word) + _GOLDEN & _MASK)
    return state


def _finish(z: int) -> int:
    z = (z ^ z >> 30) * _MIX_1 & _MASK
    z = (z ^ z >> 27) * _MIX_2 & _MASK
    return z ^ z >> 31


def bits(stream: int, counters: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """64 random bits for each counter (any shape) under the key ``stream``."""
    z = (counters.astype(np.uint64) ^ np.uint64(stream)) + np.uint64(_GOLDEN)
    z = (z ^ z >> np.uint64(30)) * np.uint64(_MIX_1)
    z = (z ^ z >> np.uint64(27)) * np.uint64(_MIX_2)
    return z ^ z >> np.uint64(31)


def uniform(stream: int, counters: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 bits, one for each counter."""
    return (bits(stream, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(stream: int, n: int) -> npt.NDArray[np.int64]:
    """A permutation of ``range(n)`` that no later NumPy release can change."""
    return np.argsort(bits(stream, np.arange(n)), kind="stable").astype(np.int64)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _shift_right(z: Tensor, places: int) -> Tensor:
    # torch has no unsigned 64-bit shift on every device: shift, then clear the copied sign bits.
    return z >> places & (1 << 64 - places) - 1


def tensor_bits(stream: int, counters: Tensor) -> Tensor:
    """:func:`bits` on the device of ``counters`` (int64); the same bits, read as signed."""
    z = (counters ^ _signed(stream)) + _signed(_GOLDEN)
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX_2)
    return z ^ _shift_right(z, 31)


def tensor_uniform(stream: int, counters: Tensor) -> Tensor:
    """Uniform float32 numbers in [0, 1) with 24 bits, one for each int64 counter."""
    return _shift_right(tensor_bits(stream, counters), 40).to(torch.float32) * 2.0**-24


@dataclass(frozen=True)
class Draw:
    """Random numbers of one optimizer step.

    Attributes:
        seed: of the run.
        step: the optimizer step.
        ids: ``(B,)`` int64, the sample ids of the batch: a sample draws the same numbers in
            whichever micro-batch, worker or rank it is.
    """

    seed: int
    step: int
    ids: Tensor

    def for_samples(self, stream: str) -> Tensor:
        """``(B,)`` uniform float32 in [0, 1), one for each sample, on the device of ``ids``."""
        return tensor_uniform(key(self.seed, self.step, stream), self.ids)

    def for_step(self, stream: str, n: int, device: torch.device) -> Tensor:
        """``(n,)`` uniform float32 in [0, 1), the same for all samples of the step."""
        counters = torch.arange(n, device=device)
        return tensor_uniform(key(self.seed, self.step, stream), counters)

    def for_cells(self, stream: str, n: int) -> Tensor:
        """``(B, n)`` random int64 in [0, 2^62), ``n`` for each sample; ties do not happen."""
        counters = self.ids[:, None] * n + torch.arange(n, device=self.ids.device)
        return _shift_right(tensor_bits(key(self.seed, self.step, stream, n), counters), 2)

    def uniform(self, stream: str, n: int) -> Tensor:
        """``(B, n)`` uniform float32 in [0, 1), ``n`` for each sample."""
        return _shift_right(self.for_cells(stream, n), 38).to(torch.float32) * 2.0**-24

    def normal(self, stream: str, n: int) -> Tensor:
        """``(B, n)`` standard normal float32, ``n`` for each sample (Box & Muller 1958)."""
        radius, angle = self.uniform(f"{stream} radius", n), self.uniform(f"{stream} angle", n)
        return (-2 * (1 - radius).log()).sqrt() * (2 * torch.pi * angle).cos()

    def choice(self, stream: str, n: int) -> int:
        """A number in ``range(n)`` for the whole step, drawn on the host without a sync."""
        # The first number of uniform(), without an array: a compiled step must not make one.
        word = _finish(key(self.seed, self.step, stream) + _GOLDEN & _MASK)
        return int((word >> 11) * 2.0**-53 * n)
