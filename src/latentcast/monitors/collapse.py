"""Is the representation still alive? Statistics of embeddings, and alarms with advice.

A cosine objective without negatives can be solved by a constant direction, and on ECG, where most
patches are baseline, by repeating the last patch. Both look like a good loss, so the loss is
never the alarm here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 4096
"""Rows a statistic is computed from at the most: enough for widths up to about a thousand."""

LEAST_RANK = 2.0
"""Effective rank under which a representation has collapsed to a line."""
CONSTANT_DIRECTION = 0.95
"""Norm of the mean direction above which all vectors point the same way."""
MOST_DEAD = 0.5
"""Share of dimensions that may stand still."""
COPYING_WORKS = -0.5
"""Loss of repeating the last patch under which copying is a temptation."""


@dataclass(frozen=True)
class Statistics:
    """Of a set of vectors ``(n, width)``.

    Attributes:
        rank: effective rank of the centred vectors: the exponential of the entropy of the
            normalised singular values (RankMe, Garrido et al. 2023); between 1 and the width.
        mean_norm: norm of the mean *direction*: 0 for vectors spread around the origin, 1 when
            all point the same way.
        std: mean over dimensions of the standard deviation.
        dead: share of dimensions whose deviation is under a thousandth of the mean one.
    """

    rank: float
    mean_norm: float
    std: float
    dead: float


@torch.no_grad()
def statistics(view: Tensor, valid: Tensor | None = None) -> Statistics:
    """Statistics of ``(B, N, width)`` (or ``(n, width)``) over its valid rows."""
    rows = view.reshape(-1, view.shape[-1]).float()
    if valid is not None:
        rows = rows[valid.reshape(-1)]
    if len(rows) > ROWS:  # an even stride, so that every sample and position is represented
        rows = rows[torch.linspace(0, len(rows) - 1, ROWS, device=rows.device).long()]
    if len(rows) < 2:
        return Statistics(float("nan"), float("nan"), float("nan"), float("nan"))
    deviation = rows.std(0)
    directions = torch.nn.functional.normalize(rows, dim=-1)
    return Statistics(
        rank=effective_rank(rows),
        mean_norm=float(directions.mean(0).norm()),
        std=float(deviation.mean()),
        dead=float((deviation <= 1e-3 * deviation.mean()).float().mean()),
    )


@torch.no_grad()
def effective_rank(rows: Tensor) -> float:
    """RankMe of centred rows ``(n, width)``; 1 when they are all the same."""
    centred = rows - rows.mean(0)
    # Eigenvalues of the small covariance instead of an SVD of all rows: n does not matter.
    spectrum = torch.linalg.eigvalsh((centred.T @ centred).double()).clamp(min=0).sqrt()
    total = spectrum.sum()
    if total <= 1e-6 * float(rows.norm()) + 1e-30:
        return 1.0
    shares = spectrum / total
    return float(torch.exp(-(shares * (shares + 1e-30).log()).sum()))


@dataclass(frozen=True)
class Alarm:
    """A threshold that was crossed: its name, what was seen, what to do."""

    name: str
    seen: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}; {self.advice}"


def alarms(
    views: Mapping[str, Statistics], loss: float, copy_last_loss: float | None
) -> list[Alarm]:
    """The alarms that the statistics of one step raise; ``x < nan`` must not silence one."""
    found = []
    for name, seen in views.items():
        if not math.isfinite(seen.rank):
            what = f"no two valid rows of the {name} to look at"
            found.append(
                Alarm(f"{name}-without-rows", what, "look at the data: latentcast inspect")
            )
        if seen.rank < LEAST_RANK:
            what = f"effective rank of the {name} is {seen.rank:.1f}"
            mend = "lower optimizer.lr, or check that the input is not constant"
            found.append(Alarm(f"{name}-rank-collapse", what, mend))
        if seen.mean_norm > CONSTANT_DIRECTION:
            what = f"the mean direction of the {name} has norm {seen.mean_norm:.2f}"
            mend = "set objective.patch_embedding=fixed, or lower optimizer.lr"
            found.append(Alarm(f"{name}-constant-direction", what, mend))
        if seen.dead > MOST_DEAD:
            what = f"{seen.dead:.0%} of the dimensions of the {name} do not vary"
            mend = "lower optimizer.lr or encoder.width"
            found.append(Alarm(f"{name}-dead-dimensions", what, mend))
    if copy_last_loss is not None and loss > copy_last_loss and copy_last_loss < COPYING_WORKS:
        what = f"repeating the last patch scores {copy_last_loss:.3f}, the model {loss:.3f}"
        mend = "train longer, or use a longer encoder.patch so that copying no longer works"
        found.append(Alarm("copying-is-better", what, mend))
    return found
