"""Normalisation statistics: exact integer sums over the training split.

Sums of values and of their squares are whole numbers, so the result depends neither on the order
of the records nor on how many processes read them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.manifest import Statistics

_BLOCK = 1 << 20
_PIXELS, _ROWS = 256, 64
"""Of images, pixels of a row and rows that are added at once."""
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ChannelSums:
    """Per channel the number of valid values, their sum and the sum of their squares."""

    records: int
    samples: tuple[int, ...]
    total: tuple[int, ...]
    squares: tuple[int, ...]

    @classmethod
    def zero(cls, channels: int) -> ChannelSums:
        return cls(0, (0,) * channels, (0,) * channels, (0,) * channels)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ChannelSums:
        """What ``asdict`` gave, read back."""
        return cls(stored["records"], *(tuple(stored[n]) for n in ("samples", "total", "squares")))

    @classmethod
    def of(cls, values: npt.NDArray[Any], valid: Bools | None = None) -> ChannelSums:
        """Sums of one record; ``values`` and ``valid`` are ``(channels, samples)``."""
        sums = cls(1, *((0,) * len(values),) * 3)
        for start in range(0, values.shape[1], _BLOCK):
            block = values[:, start : start + _BLOCK]
            mask = None if valid is None else valid[:, start : start + _BLOCK]
            # float64 is fast, and exact up to 2^53; a block at full scale comes to 2^50.
            floats = block.astype(np.float64)
            if mask is None or mask.all():
                samples = (block.shape[1],) * len(block)
            else:
                samples = tuple(mask.sum(axis=1).tolist())
                floats[~mask] = 0
            sums += cls(
                0,
                samples,
                tuple(int(s) for s in floats.sum(axis=1)),
                tuple(int(s) for s in np.einsum("ls,ls->l", floats, floats)),
            )
        return sums

    @classmethod
    def of_each(cls, counts: npt.NDArray[np.int16]) -> list[ChannelSums]:
        """:meth:`of` each of several records, ``(N, channels, samples)``, every value valid."""
        if counts.shape[2] > _BLOCK:
            return [cls.of(values) for values in counts]
        floats = counts.astype(np.float64)
        totals = floats.sum(axis=2).astype(np.int64).tolist()
        squares = np.einsum("nls,nls->nl", floats, floats).astype(np.int64).tolist()
        samples = (counts.shape[2],) * counts.shape[1]
        return [
            cls(1, samples, tuple(total), tuple(square))
            for total, square in zip(totals, squares, strict=True)
        ]

    @classmethod
    def of_images(cls, images: Sequence[npt.NDArray[np.uint8]]) -> list[ChannelSums]:
        """Of each of several images ``(height, width, channels)`` of one shape."""
        size = images[0].size if images else 1
        together = max(1, _BLOCK // 4 // size)
        return [
            sums
            for start in range(0, len(images), together)
            for sums in cls._of_images(images[start : start + together])
        ]

    @classmethod
    def _of_images(cls, images: Sequence[npt.NDArray[np.uint8]]) -> list[ChannelSums]:
        height, width, channels = images[0].shape
        flat = [image.reshape(-1) for image in images]
        values = np.stack(flat) if len(flat) > 1 else flat[0][None]
        count = values.shape[1]
        # Rows of some hundred values that are added one under the other, in whole numbers: the
        # square of a byte fits into 16 bits, and 2^16 such squares into 32.
        row = channels * _PIXELS
        added = np.zeros((2, len(images), row))
        for start in range(0, count, row * _ROWS):
            block = values[:, start : start + row * _ROWS].astype(np.uint16)
            aligned = block.shape[1] // row * row
            for power in added:
                rows = block[:, :aligned].reshape(len(images), -1, row)
                power += rows.sum(axis=1, dtype=np.uint32)
                power[:, : block.shape[1] - aligned] += block[:, aligned:]
                block *= block
        ones = np.tile(np.eye(channels), (_PIXELS, 1))
        totals, squares = (added @ ones).astype(np.int64).tolist()
        samples = (height * width,) * channels
        return [
            cls(1, samples, tuple(total), tuple(square))
            for total, square in zip(totals, squares, strict=True)
        ]

    def __add__(self, other: ChannelSums) -> ChannelSums:
        return ChannelSums(
            self.records + other.records,
            tuple(map(add, self.samples, other.samples)),
            tuple(map(add, self.total, other.total)),
            tuple(map(add, self.squares, other.squares)),
        )

    def of_leads(self, scale: float) -> Statistics:
        """Mean and (population) standard deviation per lead, in mV for ``scale`` mV per count."""
        spreads = self._spreads()
        return Statistics(
            mean=tuple(total / n * scale if s else None for n, total, s in spreads),
            std=tuple(math.sqrt(s / (n * n)) * scale if s else None for n, _, s in spreads),
            records=self.records,
            samples=self.samples,
        )

    def of_pixels(self) -> Statistics:
        """Mean and (population) standard deviation per colour of value / 255."""
        spreads = self._spreads()
        return Statistics(
            mean=tuple(total / (255 * n) if s else None for n, total, s in spreads),
            std=tuple(math.sqrt(s) / (255 * n) if s else None for n, _, s in spreads),
            images=self.records,
        )

    def _spreads(self) -> list[tuple[int, int, int]]:
        """Of each channel n, the sum, and n² times the variance; 0 where nothing could be divided
        by it: no valid value, or one only."""
        # n * squares - total^2 in whole numbers: no cancellation, however large the offset.
        return [
            (n, total, n * squares - total * total)
            for n, total, squares in zip(self.samples, self.total, self.squares, strict=True)
        ]
