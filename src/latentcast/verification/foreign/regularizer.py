"""A term against collapse, from outside: does it cost anything when features collapse?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from latentcast.verification.evidence import above, equal
from latentcast.verification.foreign.verified import Lines, Verified

SOURCE = (
    "VICReg (Bardes et al. 2022), equations 1 and 4; LeJEPA (Balestriero and LeCun 2025), SIGReg"
)
DRAWS = 8
"""Of independent features, whose spread is what a difference must exceed."""
SURE = 6.0
SHRUNK = 1e-3
"""What collapsed features are scaled by: no loss is then without a variance."""


def verify_regularizer(
    penalty: Callable[[Tensor], Tensor], width: int = 64, samples: int = 512
) -> Verified:
    """Give a term against collapse features that have collapsed, and ask whether it is larger.

    Args:
        penalty: maps features ``(samples, width)`` to the number that training makes small.
        width: of the features.
        samples: of a batch.
    """
    lines, generator = Lines(SOURCE), torch.Generator().manual_seed(0)

    def normal(columns: int = width) -> Tensor:
        return torch.randn(samples, columns, generator=generator)

    def cost(features: Tensor) -> float:
        with torch.no_grad():
            return float(penalty(features))

    values = torch.tensor([cost(normal()) for _ in range(DRAWS)], dtype=torch.float64)
    mean, spread = float(values.mean()), float(values.std())
    most = mean + SURE * max(spread, 1e-6 * abs(mean))
    along = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    for name, sentence, features in (
        ("scale", "Features that shrink to a point cost more than independent ones.",
         SHRUNK * normal()),
        ("rank", "Features on one line cost more than independent ones.",
         normal(1) * along * math.sqrt(width)),
        ("copies", "Features of which each is there twice cost more than independent ones.",
         normal((width + 1) // 2).repeat(1, 2)[:, :width]),
    ):  # fmt: skip
        lines.add(f"regularizer.{name}", sentence, above("cost", cost(features), most),
                  independent=mean, spread=spread)  # fmt: skip
    point = torch.zeros(samples, width, requires_grad=True)
    (slope,) = torch.autograd.grad(penalty(point), point, allow_unused=True)
    finite = slope is None or bool(slope.isfinite().all())
    lines.add("regularizer.gradient", "Where all features are equal the gradient is finite.",
              equal("finite", finite, True))  # fmt: skip
    lines.note("regularizer.shift", "Features far from zero may cost more or not.",
               shifted=cost(normal() + 10.0), independent=mean)  # fmt: skip
    return Verified(tuple(lines))
