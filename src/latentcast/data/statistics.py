"""Normalisation statistics: exact integer sums over the training split.

Sums of counts and of their squares are whole numbers, so the result depends neither on the order
of the records nor on how many processes read them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from latentcast.data.manifest import StoreModel

_BLOCK = 1 << 20


class Sums(ABC):
    """Whole-number sums for the statistics, so that neither order nor workers change a digit."""

    @abstractmethod
    def __add__(self, other: Self) -> Self: ...

    @abstractmethod
    def to_json(self) -> dict[str, Any]: ...


class LeadStatistics(StoreModel):
    """Mean and standard deviation per lead in mV, over every valid sample of the train split.

    ``None`` marks a lead of which the train split holds no valid sample (or one value only): there
    is no number that could stand for it. ``samples`` counts the valid samples per lead.
    """

    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    records: int
    samples: tuple[int, ...]


class ChannelStatistics(StoreModel):
    """Mean and standard deviation per channel of the train split, of values in [0, 1].

    Over every pixel of the canvas of every image. ``None`` marks a channel of one value only (or a
    train split without images): nothing could be divided by.
    """

    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    images: int


@dataclass(frozen=True)
class LeadSums(Sums):
    """Per lead the number of valid samples, their sum and the sum of their squares, in counts."""

    records: int
    samples: tuple[int, ...]
    total: tuple[int, ...]
    squares: tuple[int, ...]

    @classmethod
    def zero(cls, leads: int) -> LeadSums:
        return cls(0, (0,) * leads, (0,) * leads, (0,) * leads)

    @classmethod
    def of(cls, counts: npt.NDArray[np.int16], valid: npt.NDArray[np.bool_]) -> LeadSums:
        """Sums of one record; ``counts`` and ``valid`` are ``(leads, samples)``."""
        sums = cls(1, *((0,) * len(counts),) * 3)
        for start in range(0, counts.shape[1], _BLOCK):
            here = slice(start, start + _BLOCK)
            # float64 is fast, and exact up to 2^53; a block at full scale comes to 2^50.
            values = np.where(valid[:, here], counts[:, here], 0).astype(np.float64)
            sums += cls(
                0,
                tuple(valid[:, here].sum(axis=1).tolist()),
                tuple(int(s) for s in values.sum(axis=1)),
                tuple(int(s) for s in np.einsum("ls,ls->l", values, values)),
            )
        return sums

    def __add__(self, other: LeadSums) -> LeadSums:
        def add(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(x + y for x, y in zip(a, b, strict=True))

        return LeadSums(
            self.records + other.records,
            add(self.samples, other.samples),
            add(self.total, other.total),
            add(self.squares, other.squares),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def statistics(self, scale: float) -> LeadStatistics:
        """Mean and (population) standard deviation per lead, in mV for ``scale`` mV per count."""
        means: list[float | None] = []
        stds: list[float | None] = []
        for n, total, squares in zip(self.samples, self.total, self.squares, strict=True):
            # n * squares - total^2 in whole numbers: no cancellation, however large the offset.
            spread = n * squares - total * total
            if spread == 0:  # no valid sample, or one value only: there is nothing to divide by
                means.append(None)
                stds.append(None)
                continue
            variance = spread / (n * n)
            means.append(total / n * scale)
            stds.append(float(np.sqrt(variance)) * scale)
        return LeadStatistics(
            mean=tuple(means), std=tuple(stds), records=self.records, samples=self.samples
        )


@dataclass(frozen=True)
class ChannelSums(Sums):
    """How many images, and int64 ``(channels, 256)``: how many pixels have each value."""

    images: int
    histogram: npt.NDArray[np.int64]

    @classmethod
    def of(cls, pixels: npt.NDArray[np.uint8]) -> ChannelSums:
        """Sums of one image ``(height, width, channels)``."""
        channels = range(pixels.shape[2])
        counts = [np.bincount(pixels[..., c].ravel(), minlength=256) for c in channels]
        return cls(1, np.stack(counts).astype(np.int64))

    def __add__(self, other: ChannelSums) -> ChannelSums:
        return ChannelSums(self.images + other.images, self.histogram + other.histogram)

    def to_json(self) -> dict[str, Any]:
        return {"images": self.images, "histogram": self.histogram.tolist()}

    def statistics(self) -> ChannelStatistics:
        """Mean and (population) standard deviation per channel of value / 255."""
        means: list[float | None] = []
        stds: list[float | None] = []
        for counts in self.histogram.tolist():
            n = sum(counts)
            total = sum(value * count for value, count in enumerate(counts))
            squares = sum(value * value * count for value, count in enumerate(counts))
            spread = n * squares - total * total
            means.append(total / (255 * n) if spread else None)
            stds.append(math.sqrt(spread) / (255 * n) if spread else None)
        return ChannelStatistics(mean=tuple(means), std=tuple(stds), images=self.images)
