"""What keeps embeddings from collapsing without a teacher: VICReg's terms and SIGReg.

All are plain losses of a matrix ``(n, width)``, one row a sample or token, for any objective.
``weight`` ``(n,)`` is 1 for the rows that count and 0 for padding, whose values and gradients then
play no part; shapes stay what they are. With several ranks every statistic is one over all their
rows (:mod:`latentcast.nn.ranks`). Everything is computed in float32 at least, inside
autocast too. A batch cut into micro-batches is regularized piece by piece: the statistics of a
piece are not those of the whole.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.config.settings import Count, NotNegative, Settings, Share
from latentcast.errors import LatentcastError
from latentcast.nn.ranks import centred, summed
from latentcast.randomness import tensor_uniform


class SigReg(Settings):
    """LeJEPA's regularizer: embeddings distributed as an isotropic Gaussian."""

    kind: Literal["sigreg"] = "sigreg"
    weight: Share = 0.05
    """λ in ``(1 − λ) · prediction + λ · regularizer``."""
    slices: Count = 256


class VicReg(Settings):
    """VICReg's variance and covariance terms on the embeddings of a batch."""

    kind: Literal["vicreg"] = "vicreg"
    weight: Share = 0.5
    """λ in ``(1 − λ) · prediction + λ · regularizer``."""
    variance: NotNegative = 1.0
    covariance: NotNegative = 0.04


def variance(x: Tensor, target: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """``mean_j max(0, target − sqrt(Var(x_j) + 1e-4))`` (VICReg, Bardes et al. 2022, eq. 1–2).

    About ``target`` when all rows are equal, 0 when every dimension deviates enough; 0 too with
    fewer than two rows, of which no deviation can be asked.
    """
    with _wide(x):
        rows, counted = _rows(x, weight)
        apart, total = centred(rows, counted)
        spread = summed(counted @ apart.square()) / (total - 1).clamp(min=1)
        return torch.where(total > 1, F.relu(target - (spread + 1e-4).sqrt()).mean(), 0)


def covariance(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """``sum_{i≠j} C(x)_ij² / width`` of the covariance ``C`` over ``n − 1`` (VICReg, eq. 3–4)."""
    with _wide(x):
        rows, counted = _rows(x, weight)
        apart, total = centred(rows, counted)
        matrix = summed(apart.T @ (counted[:, None] * apart)) / (total - 1).clamp(min=1)
        # Not all squares less the diagonal's, which cancels; nor a diagonal copied out in place.
        off = matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool, device=x.device), 0)
        return off.square().sum() / x.shape[1]


def invariance(
    a: Tensor, b: Tensor, ids_a: Tensor, ids_b: Tensor, weight: Tensor | None = None
) -> Tensor:
    """``mean_i ‖a_i − b_i‖²`` between two views of the same samples (VICReg, eq. 5).

    The code published with the paper takes the mean over dimensions too, and half of
    :func:`variance` for each view; its weights 25, 25, 1 are for that.

    Args:
        a: ``(n, width)``, one view of each sample.
        b: ``(n, width)``, another view.
        ids_a: ``(n,)`` integers, the sample that each row of ``a`` is a view of.
        ids_b: the same of ``b``. Giving one tensor for both is free; two are compared, for which
            a GPU has to be waited for.

    Raises:
        LatentcastError: the rows are not of the same samples: pulling different samples together
            is collapse by construction.
    """
    if not (a.shape == b.shape and a.ndim == 2 and ids_a.shape == ids_b.shape == a.shape[:1]):
        raise ValueError(
            f"views must be (n, width) with ids (n,), not {tuple(a.shape)}, {tuple(b.shape)}, "
            f"{tuple(ids_a.shape)}, {tuple(ids_b.shape)}"
        )
    if ids_a is not ids_b and not torch.equal(ids_a, ids_b):
        differing = int((ids_a != ids_b).sum())
        raise LatentcastError(
            f"invariance: {differing} of {len(a)} rows pair different samples, which would make "
            "all samples equal; pair two views of the same sample, in the same order"
        )
    with _wide(a):
        ones, counted = _rows(a, weight)
        others, _ = _rows(b, weight)
        total = summed(torch.stack([counted @ (ones - others).square().sum(1), counted.sum()]))
        return total[0] / total[1].clamp(min=1)


def sigreg(
    x: Tensor,
    stream: int,
    slices: int = 256,
    knots: int = 17,
    reach: float = 3.0,
    weight: Tensor | None = None,
) -> Tensor:
    """How far the rows are from a standard isotropic Gaussian (SIGReg, Balestriero & LeCun 2025).

    The rows are projected on ``slices`` random directions, and each projection's empirical
    characteristic function is compared with that of N(0, 1) (Epps & Pulley 1983):
    ``T = N · sum_j w_j [(mean cos(t_j y) − φ_j)² + (mean sin(t_j y))²]``, with
    ``φ_j = exp(−t_j²/2)``, the knots ``t_j`` linear on ``[0, reach]`` and ``w_j`` the trapezoid
    rule of both halves of the axis times ``φ_j``. The result is the mean of ``T`` over slices:
    about 1 for Gaussian rows, whatever ``N``, and in proportion to ``N`` for others.

    The projections are **not** standardised. Doing so hides the scale, the mean and the rank of
    the rows, which are what has to be watched.

    Args:
        x: ``(n, width)``.
        stream: key of the directions, as ``randomness.key(seed, step, "sigreg")``: new ones each
            step, and the same on all ranks, whose means would be of different things otherwise.
        slices: directions; the cost is in proportion.
        weight: ``(n,)``, 0 for rows that do not count.

    Returns:
        Scalar; 0 without a row that counts.
    """
    if knots < 2:
        raise ValueError(f"sigreg: {knots} knots make no trapezoid; use 17")
    with _wide(x):
        rows, counted = _rows(x, weight)
        step = reach / (knots - 1)
        projected = rows @ directions(stream, rows.shape[1], slices, rows)
        # At t = 0 both functions are 1, whatever the rows: the first knot has nothing to say.
        waves = _Waves.apply(projected, counted, step, knots - 1)  # type: ignore[no-untyped-call]
        packed = summed(torch.cat([waves.flatten(), counted.sum()[None]]))
        total = packed[-1]
        cosine, sine = (packed[:-1] / total.clamp(min=1)).view(2, knots - 1, slices)
        at = step * torch.arange(1, knots, dtype=rows.dtype, device=rows.device)[:, None]
        gaussian = torch.exp(-at.square() / 2)
        trapezoid = 2 * step * gaussian
        trapezoid[-1] /= 2
        distance = (cosine - gaussian).square() + sine.square()
        score: Tensor = total * (trapezoid * distance).sum(0).mean()
        return score


def directions(stream: int, width: int, slices: int, like: Tensor) -> Tensor:
    """``(width, slices)``: unit columns, uniform on the sphere, a function of ``stream`` alone.

    They are computed on the device and in the type of ``like`` (at least float32).
    """
    counters = torch.arange(2 * width * slices, device=like.device)
    radius, angle = tensor_uniform(stream, counters).to(like.dtype).view(2, width, slices)
    # Box and Muller; the uniform numbers reach 0 but never 1.
    normal = (-2 * (1 - radius).log()).sqrt() * (2 * math.pi * angle).cos()
    return F.normalize(normal, dim=0)


class _Waves(torch.autograd.Function):
    """Weighted sums of ``cos(j · step · y)`` and ``sin(j · step · y)`` over rows, j from 1.

    The knots are multiples of one another, so the waves come from each other by rotation, with
    one cosine and one sine for all of them, and need not be kept for the backward pass: against
    the same in autograd's hands a third of the time and a sixteenth of the memory.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, step: float, count: int) -> Tensor:
        cosine, sine = torch.cos(step * y), torch.sin(step * y)
        ctx.save_for_backward(cosine, sine, weight)
        ctx.step, ctx.count = step, count
        out = y.new_empty(2, count, y.shape[1])
        c, s = cosine, sine
        for j in range(count):
            out[0, j], out[1, j] = weight @ c, weight @ s
            c, s = _rotated(c, s, cosine, sine)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        cosine, sine, weight = ctx.saved_tensors
        slope = torch.zeros_like(cosine)
        c, s = cosine, sine
        for j in range(ctx.count):
            t = ctx.step * (j + 1)
            slope.addcmul_(c, t * gradient[1, j]).addcmul_(s, t * gradient[0, j], value=-1)
            c, s = _rotated(c, s, cosine, sine)
        return slope.mul_(weight[:, None]), None, None, None


def _rotated(c: Tensor, s: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.addcmul(c * cosine, s, sine, value=-1),
        torch.addcmul(s * cosine, c, sine),
    )


def _wide(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


def _rows(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows in float32 at least, those that do not count set to 0, and what each counts."""
    if x.ndim != 2 or (weight is not None and weight.shape != x.shape[:1]):
        shape = "none" if weight is None else str(tuple(weight.shape))
        raise ValueError(
            f"an embedding matrix must be (n, width) with weights (n,), not {tuple(x.shape)} with "
            f"{shape}"
        )
    rows = x.to(torch.promote_types(x.dtype, torch.float32))
    if weight is None:
        return rows, rows.new_ones(len(rows))
    # Filled and not multiplied: a padding row may hold NaN.
    return rows.masked_fill((weight == 0)[:, None], 0), weight.to(rows.dtype)
