"""I-JEPA's mask collator as it is, biases included: for comparing with published runs only.

Block sizes, placement rule, relaxation and truncation follow the specification (spec of I-JEPA,
section 1.1); only the random numbers are ours, keyed by (seed, step, sample).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast import randomness
from latentcast.config import ReferenceBlocks
from latentcast.config.objective import Grid
from latentcast.objectives.jepa.mask_shapes import reference_extent
from latentcast.randomness import Draw

TRIES = 20
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ReferenceMasks:
    """One block size a batch, placements that never reach the last row and column, a context block
    cut to the batch's shortest from the front, and regions given up when the draw keeps failing."""

    grid: Grid
    config: ReferenceBlocks

    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Context ``(B, K)`` and targets ``(M, B, T)``, int64 and ascending."""
        c = self.config
        u = randomness.uniform(randomness.key(draw.seed, draw.step, "mask-size"), np.arange(2))
        low, high = c.target_scale
        target = reference_extent(
            self.grid, low + (high - low) * float(u[0]), c.target_aspect, c.target_scale
        )
        low, high = c.context_scale
        context = reference_extent(
            self.grid, low + (high - low) * float(u[1]), (1.0, 1.0), c.context_scale
        )
        contexts: list[npt.NDArray[np.int64]] = []
        targets: list[list[npt.NDArray[np.int64]]] = []
        for sample in draw.ids.tolist():
            places = self._places(draw, sample)
            blocks = [self._block(target, next(places)) for _ in range(c.targets)]
            targets.append([np.flatnonzero(block) for block in blocks])
            for tried in itertools.count():
                # After every 20 failures one more target no longer restricts the context.
                respected = blocks[: max(0, len(blocks) - tried // TRIES)]
                kept = self._block(context, next(places))
                for block in respected:
                    kept &= ~block
                if kept.sum() > c.min_keep:
                    break
            contexts.append(np.flatnonzero(kept))
        shortest = min(map(len, contexts))
        device = draw.ids.device
        return (
            torch.from_numpy(np.stack([kept[:shortest] for kept in contexts])).to(device),
            torch.from_numpy(np.stack(targets, axis=1)).to(device),
        )

    def _block(self, extent: Grid, place: tuple[float, float]) -> Flags:
        """A block at a place; the upper bound of the draw is exclusive, as in the original."""
        top, left = (
            int(u * (n - size)) for u, n, size in zip(place, self.grid, extent, strict=True)
        )
        block = np.zeros(self.grid, dtype=np.bool_)
        block[top : top + extent[0], left : left + extent[1]] = True
        flat: Flags = block.reshape(math.prod(self.grid))
        return flat

    def _places(self, draw: Draw, sample: int) -> Iterator[tuple[float, float]]:
        """As many places as are asked for, each a pair of uniform numbers."""
        stream = randomness.key(draw.seed, draw.step, "mask-place", sample)
        for n in itertools.count():
            down, across = randomness.uniform(stream, np.arange(2 * n, 2 * n + 2)).tolist()
            yield down, across
