"""What two views of the same samples should be: VICReg, SIGReg and NT-Xent, each an equation.

Rows ``a`` and ``b`` ``(n, width)`` are views of the same samples in the same order; ``counted``
``(n,)`` is 1 for the samples that count. With several ranks everything is over all their rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.config.views import NtXent, SigRegPair, VicRegPair
from latentcast.nn.ranks import gathered, summed
from latentcast.objectives.regularizers import covariance, invariance, sigreg, variance

Parts = dict[str, Tensor]


def vicreg(
    a: Tensor, b: Tensor, ids: Tensor, counted: Tensor, settings: VicRegPair
) -> tuple[Tensor, Parts]:
    """``λ · s(a, b) + μ · (v(a) + v(b)) / 2 + ν · (c(a) + c(b))``.

    ``s`` is the mean over samples and dimensions, as in the code of Bardes et al. 2022, whose
    weights are 25, 25 and 1.
    """
    parts = {
        "invariance": invariance(a, b, ids, ids, counted) / a.shape[1],
        "variance": (variance(a, weight=counted) + variance(b, weight=counted)) / 2,
        "covariance": covariance(a, counted) + covariance(b, counted),
    }
    term = (
        settings.invariance * parts["invariance"]
        + settings.variance * parts["variance"]
        + settings.covariance * parts["covariance"]
    )
    return term, parts


def sigreg_pair(
    a: Tensor, b: Tensor, ids: Tensor, counted: Tensor, settings: SigRegPair, stream: int
) -> tuple[Tensor, Parts]:
    """``(1 − λ) · mean ‖view − mean of the views‖² / width + λ · (SIGReg(a) + SIGReg(b)) / 2``.

    LeJEPA (Balestriero & LeCun 2025); of two views the first mean is a quarter of ``(a − b)²``.
    """
    spread = [sigreg(x, stream, settings.slices, weight=counted) for x in (a, b)]
    parts = {
        "invariance": invariance(a, b, ids, ids, counted) / (4 * a.shape[1]),
        "sigreg": (spread[0] + spread[1]) / 2,
    }
    share = settings.share
    return (1 - share) * parts["invariance"] + share * parts["sigreg"], parts


def ntxent(a: Tensor, b: Tensor, counted: Tensor, settings: NtXent) -> tuple[Tensor, Parts]:
    """``−mean log exp(cos(z_i, z_j) / τ) / Σ_{k≠i} exp(cos(z_i, z_k) / τ)``, ``j`` the other view.

    SimCLR (Chen et al. 2020): the candidates are the two views of every sample of the batch but
    the view itself, on all ranks. ``decoupled`` leaves ``k = j`` out of the sum (Yeh et al. 2022);
    of a batch of one sample, which has no other, the term is 0.
    """
    with torch.autocast(a.device.type, enabled=False):
        wide = torch.promote_types(a.dtype, torch.float32)
        both = torch.stack([F.normalize(x.to(wide), dim=1) for x in (a, b)], dim=1)
        candidates, before = gathered(both.flatten(0, 1))  # rows 2 i and 2 i + 1 are of sample i
        count, _ = gathered(counted.to(wide).repeat_interleave(2))
        own = torch.arange(2 * len(a), device=a.device)
        scores = both.flatten(0, 1) @ candidates.T / settings.temperature
        scores = scores.masked_fill(count == 0, -torch.inf)
        scores = scores.scatter(1, (before + own)[:, None], -torch.inf)
        counts = counted.to(wide).repeat_interleave(2)
        # Of a sample that does not count even the other view is no candidate: no term, no NaN.
        scores = torch.where(counts[:, None] > 0, scores, 0.0)
        other = before + (own ^ 1)
        right = scores.argmax(1) == other
        if settings.decoupled:
            near = scores.gather(1, other[:, None]).squeeze(1)
            alone = count.sum() <= 2
            far = torch.where(alone, 0.0, scores.scatter(1, other[:, None], -torch.inf))
            terms = torch.where(alone, 0.0, far.logsumexp(1) - near)
        else:
            terms = F.cross_entropy(scores, other, reduction="none")
        total = summed(torch.stack([counts @ terms, counts @ right.to(wide), counts.sum()]))
        return total[0] / total[2].clamp(min=1), {"found": total[1] / total[2].clamp(min=1)}
