"""Which sample comes when: a pure function of (seed, position)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from latentcast import randomness

Ints = npt.NDArray[np.int64]


class Order:
    """An endless sequence that visits every row once an epoch, in a new order each time.

    There is no iterator state: a batch is a range of positions in it. An epoch ends wherever it
    ends, also inside a batch; nothing is dropped and nothing repeated.
    """

    def __init__(self, rows: Ints, seed: int) -> None:
        self.rows, self.seed = rows, seed

    def at(self, positions: Ints) -> Ints:
        """Rows at these positions ``(n,)``, each position a single visit."""
        epochs, places = np.divmod(positions, len(self.rows))
        shuffled = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            shuffled[here] = _permutation(self.seed, int(epoch), len(self.rows))[places[here]]
        return self.rows[shuffled]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, n: int) -> Ints:
    return randomness.permutation(randomness.key(seed, "order", epoch), n)
