"""One number of ours against the reference's: what a comparison finds."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

from torch import Tensor

OUTPUTS = 1e-5
GRADIENTS = 1e-4
TRAJECTORY = 1e-5


@dataclass(frozen=True)
class Agreement:
    """One quantity, ours against the reference's.

    Attributes:
        absolute: largest absolute difference.
        relative: ``absolute`` over the scale of the quantity.
        tolerance: bound on ``relative``; the scale of outputs and weights is at least 1, so for
            them it is also an absolute bound.
    """

    quantity: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.relative <= self.tolerance  # False for NaN


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def agree(
    quantity: str,
    ours: Tensor,
    reference: Tensor,
    tolerance: float = OUTPUTS,
    scale: float | None = None,
) -> Agreement:
    if ours.shape != reference.shape:
        return Agreement(f"{quantity} (shape {tuple(ours.shape)})", nan, nan, tolerance)
    gap = ours.detach().double() - reference.detach().double()
    difference = float(gap.abs().max())
    if scale is None:
        scale = max(1.0, float(reference.detach().double().abs().max()))
    return Agreement(quantity, difference, difference / max(scale, 1e-30), tolerance)
