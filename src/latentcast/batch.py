"""What travels: integers from the store to the device, and floats from there to the objective."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Integers as they lie in the store.

    Attributes:
        samples: int16 ``(B, samples, leads)``, time-major, or uint8 ``(B, height, width,
            channels)``.
        ids: int64 ``(B,)``, the place of each sample in the endless order of visits. All randomness
            is keyed by them, so a record met twice in one batch is cropped and dropped twice.
        targets: ``(B, ...)``, one row a sample, for objectives that are supervised; else None.
    """

    samples: Tensor
    ids: Tensor
    targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Batch:
        targets = self.targets
        return Batch(
            self.samples.to(device, non_blocking=True),
            self.ids.to(device, non_blocking=True),
            None if targets is None else targets.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Inputs:
    """A preprocessed batch.

    Attributes:
        values: ``(B, channels, *size)`` float, normalised, 0 where not valid.
        valid: same shape, bool; None when everything is valid.
        targets: those of the batch, or None.
        clean: the values before they were augmented, what a teacher reads; None where ``values``
            are not augmented.
    """

    values: Tensor
    valid: Tensor | None = None
    targets: Tensor | None = None
    clean: Tensor | None = None

    def with_targets(self, targets: Tensor | None) -> Inputs:
        """These inputs beside the targets of their batch."""
        return self if targets is None else replace(self, targets=targets)
