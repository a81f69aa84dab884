"""Normalisation statistics: exact integer sums over the valid samples of the training split.

Sums of counts and of their squares are whole numbers, so the result depends neither on the order
of the records nor on how many processes read them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast.data.manifest import Statistics

_BLOCK = 1 << 20


@dataclass(frozen=True)
class LeadSums:
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

    def statistics(self, scale: float) -> Statistics:
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
        return Statistics(
            mean=tuple(means), std=tuple(stds), records=self.records, samples=self.samples
        )
