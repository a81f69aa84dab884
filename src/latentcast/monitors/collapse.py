"""Is the representation still alive? Statistics of embeddings, and alarms that name the part.

A cosine objective without negatives can be solved by a constant direction, a teacher and its
student can agree on a constant, and on ECG, where most patches are baseline, repeating the last
patch goes far. All of them look like a good loss, so the loss is never the alarm here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from latentcast.objectives.base import Part, View, ViewRole

ROWS: Final = 4096
"""Rows a statistic is computed from at the most: enough for widths up to about a thousand."""
MEMBERS: Final = 16
"""Tokens of a sample that are kept, if it has them, when a view has more rows than that."""
RIDGE: Final = 1e-4
"""Added to the within-class scatter of LiDAR, as in its paper."""

LEAST_RANK: Final = 2.0
"""Effective rank under which a representation has collapsed to a line."""
CONSTANT_DIRECTION: Final = 0.99
"""Norm of the mean direction above which all vectors point the same way. Coarse levels of an
untrained hierarchy stand at 0.85 to 0.92, which is no collapse."""
MOST_DEAD: Final = 0.5
"""Share of dimensions that may stand still."""
LEAST_BETWEEN: Final = 1e-4
"""Share of the variance that has to lie between samples. The third level of an untrained hierarchy
has 3e-3: pooling averages content away and leaves position."""
LEAST_OF_TARGET: Final = 1e-3
"""Variance of predictions, over that of their targets, under which they are one constant."""
FEWEST: Final = 10
"""Logged losses before one can be called a spike."""
FAR: Final = 10
LEAST_SPREAD: Final = 0.01
COPYING_WORKS: Final = -0.5
"""Loss of repeating the last patch under which copying is a temptation."""


@dataclass(frozen=True)
class Statistics:
    """Of the tokens ``(B, N, width)`` of a view; NaN where nothing can be said.

    Attributes:
        rank: effective rank of the centred vectors: the exponential of the entropy of the
            normalised singular values (RankMe, Garrido et al. 2023); between 1 and the width.
        mean_norm: norm of the mean *direction*: 0 for vectors spread around the origin, 1 when
            all point the same way.
        std: mean over dimensions of the standard deviation.
        dead: share of dimensions whose deviation is under a thousandth of the mean one.
        lidar: effective rank of what tells samples apart (after LiDAR, Thilak et al. 2023):
            exponential of the entropy of the eigenvalues of ``W^-½ B W^-½``, with the scatter
            ``B`` of the samples' means and ``W`` of the tokens around them, plus a ridge. **Not
            the paper's figure:** there the members of a class are embedded augmentations of a
            clean sample, here they are the tokens of one, so it also counts as noise that the
            parts of a sample differ. For watching one run, not for comparing with published
            numbers. At most ``B − 1``; NaN for views of one token.
        variance: mean over dimensions of the variance.
        between: share of the variance that lies between samples, at the same place of the view;
            the rest is positional, equal for all samples. 0 for features that say where a token
            is and nothing about what it shows, however large their ``std``.
    """

    rank: float
    mean_norm: float
    std: float
    dead: float
    lidar: float
    variance: float
    between: float


@torch.no_grad()
def statistics(tokens: Tensor, valid: Tensor | None = None) -> Statistics:
    """Statistics of ``(B, N, width)`` over its valid tokens; ``(n, width)`` is N = 1."""
    return Statistics(*measured(tokens, valid).tolist())


@torch.no_grad()
def watched(
    views: Sequence[View], scalars: Mapping[str, Tensor]
) -> tuple[list[Statistics], dict[str, float]]:
    """Statistics of all views, and the scalars, in a single transfer from the device."""
    parts = [measured(view.tokens, view.valid) for view in views]
    parts += [value.detach().double().reshape(1) for value in scalars.values()]
    numbers = iter(torch.cat(parts).tolist() if parts else ())
    size = len(fields(Statistics))
    found = [Statistics(*(next(numbers) for _ in range(size))) for _ in views]
    return found, {name: next(numbers) for name in scalars}


def measured(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """The fields of :class:`Statistics` as a float64 tensor on the device, without a sync of ours.

    Tokens that are not valid are weighted with 0 and not taken out: shapes do not depend on data.
    """
    # Few temporaries: for the sizes in question memory costs more than arithmetic.
    x, counted = _sampled(tokens, valid)
    rows, weight = x.flatten(0, 1), counted.flatten()
    counts = weight.sum()
    total = counts.clamp(min=1)
    norms = torch.linalg.vector_norm(rows, dim=1).clamp(min=1e-12)
    mean_norm = torch.linalg.vector_norm((weight / norms) @ rows) / total
    size = torch.linalg.vector_norm(norms * weight).double()
    centred = x - x.sum((0, 1)) / total  # a sum is pairwise; a product with ones is not exact
    if valid is not None:
        centred.mul_(counted[..., None])

    squares = torch.linalg.vector_norm(centred, dim=(0, 1)).square()
    squares = torch.where(squares > 1e-12 * size.square(), squares, 0)  # what rounding leaves
    variance = squares / (total - 1).clamp(min=1)
    deviation = variance.sqrt()
    std = deviation.mean()

    # Between samples against positional: what is left of the variance in the mean over samples.
    counts_at = counted.sum(0)
    positional = (centred.sum(0).square() / counts_at.clamp(min=1)[:, None]).sum()
    between = (1 - positional / squares.sum()).clamp(min=0)
    between = torch.where((squares.sum() > 0) & (counts_at.max() > 1), between, torch.nan)

    members = counted.sum(1)
    means = centred.sum(1) / members.clamp(min=1)[:, None]
    centred.sub_(means[:, None])
    if valid is not None:
        centred.mul_(counted[..., None])
    # In float64: the ridge is small, and the scatter must not become indefinite by rounding.
    inner, spread = centred.flatten(0, 1).double(), (means * members.sqrt()[:, None]).double()
    within = inner.T @ inner
    rank = _effective(_eigenvalues(within + spread.T @ spread).sqrt(), size)
    lidar = torch.where(members.max() > 1, _lidar(within / total, spread / total.sqrt()), torch.nan)

    found = [rank, mean_norm, std, (deviation <= 1e-3 * std).float().mean(), lidar]
    found += [variance.mean(), between]
    row = torch.stack([value.double() for value in found])
    return torch.where(counts < 2, torch.nan, row)


def _sampled(tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """About :data:`ROWS` tokens ``(b, n, width)`` at the most, in float32, and what each counts.

    Whole samples and whole places are left out, evenly, because which is which matters.
    """
    if tokens.ndim == 2:
        tokens, valid = tokens[:, None], None if valid is None else valid[:, None]
    samples, places, _ = tokens.shape
    kept = min(places, max(MEMBERS, ROWS // max(1, samples)))
    chosen = _even(places, kept, tokens.device), _even(samples, ROWS // kept, tokens.device)
    for axis, index in zip((1, 0), chosen, strict=True):
        if index is not None:
            tokens = tokens.index_select(axis, index)
            valid = None if valid is None else valid.index_select(axis, index)
    x = tokens.float()
    if valid is None:
        return x, x.new_ones(x.shape[:2])
    return x.masked_fill(~valid[..., None], 0), valid.float()


def _even(n: int, most: int, device: torch.device) -> Tensor | None:
    return torch.linspace(0, n - 1, most, device=device).long() if n > most else None


def _eigenvalues(matrix: Tensor) -> Tensor:
    """NaN of a matrix that is not finite, where LAPACK would stop the run."""
    finite = matrix.isfinite().all()
    values = torch.linalg.eigvalsh(torch.where(finite, matrix, 0)).clamp(min=0)
    return torch.where(finite, values, torch.nan)


def _effective(spectrum: Tensor, scale: Tensor) -> Tensor:
    """Exponential of the entropy; 1 when the spectrum is nothing beside ``scale``."""
    total = spectrum.sum()
    shares = spectrum / total
    rank = torch.exp(-(shares * (shares + 1e-30).log()).sum())
    return torch.where(total <= 1e-6 * scale + 1e-30, 1.0, rank)


def _lidar(within: Tensor, means: Tensor) -> Tensor:
    ridge = RIDGE * torch.eye(len(within), dtype=within.dtype, device=within.device)
    factor, _ = torch.linalg.cholesky_ex(within + ridge)
    white = torch.linalg.solve_triangular(factor, means.T, upper=False)
    small = white.T @ white if white.shape[1] < white.shape[0] else white @ white.T
    return _effective(_eigenvalues(small), small.new_zeros(()))


@torch.no_grad()
def effective_rank(rows: Tensor) -> float:
    """RankMe of centred rows ``(n, width)``; 1 when they are all the same."""
    centred = rows - rows.mean(0)
    # Eigenvalues of the small covariance instead of an SVD of all rows: n does not matter.
    spectrum = _eigenvalues((centred.T @ centred).double()).sqrt()
    return float(_effective(spectrum, rows.double().norm()))


@dataclass(frozen=True)
class Alarm:
    """A threshold that was crossed.

    Attributes:
        name: of the view and the problem, as ``level0_target-rank-collapse``.
        evidence: the number that crossed it, in a sentence.
        part: of the network, where it begins.
        advice: what to change.
        role: of the view; None where no view raised it.
    """

    name: str
    evidence: str
    part: Part | None
    advice: str
    role: ViewRole | None = None

    def __str__(self) -> str:
        part = f" ({self.part})" if self.part else ""
        return f"{self.name}: {self.evidence}{part}; {self.advice}"


ADVICE: Final[Mapping[Part, str]] = {
    "encoder": "lower optimizer.lr, or check that the input is not constant; "
    "NEPA: set objective.patch_embedding=fixed; JEPA: raise ema.base, or set "
    "objective.regularizer.kind=sigreg",
    "merge": "what it merges is alive: lower optimizer.lr, or give this level of "
    "objective.coarser a smaller stride or a larger width",
    "predictor": "its targets are alive: lower optimizer.lr, hide less (objective.masks), or give "
    "it more depth (objective.predictor.depth)",
}


def alarms(
    views: Sequence[View],
    statistics: Sequence[Statistics],
    loss: float,
    copy_last_loss: float | None,
) -> list[Alarm]:
    """The alarms that the statistics of one step raise; ``x < nan`` must not silence one.

    A collapse is reported where it begins. What is made of a collapsed view collapses too, which
    is no news: the same view of a coarser level, and predictions of a collapsed target.

    Args:
        views: of the step; of their tokens nothing is read.
        statistics: of each view.
    """
    by_place = {(view.level, view.role): n for n, view in enumerate(views)}
    sources = [_source(view, by_place) for view in views]
    problems = [
        _problems(view, own, None if source is None else statistics[source])
        for view, own, source in zip(views, statistics, sources, strict=True)
    ]
    found = []
    for view, source, own in zip(views, sources, problems, strict=True):
        of_source = problems[source].keys() if source is not None else set[str]()
        collapsed = {"rank-collapse", "same-for-all-samples"} & of_source
        for problem, evidence in own.items():
            if not collapsed and problem not in of_source:
                advice = ADVICE[view.part]
                if problem == "without-rows":
                    advice = "look at the data: latentcast inspect"
                name = f"{_name(view)}-{problem}"
                found.append(Alarm(name, evidence, view.part, advice, view.role))
    if copy_last_loss is not None and loss > copy_last_loss and copy_last_loss < COPYING_WORKS:
        evidence = f"repeating the last patch scores {copy_last_loss:.3f}, the model {loss:.3f}"
        advice = "train longer, or use a longer encoder.patch so that copying no longer works"
        found.append(Alarm("copying-is-better", evidence, None, advice))
    return found


def spike(loss: float, before: Collection[float]) -> Alarm | None:
    """A loss far above the logged ones before it: by ten times the spread of those."""
    losses = torch.tensor([value for value in before if math.isfinite(value)])
    if len(losses) < FEWEST:
        return None
    usual = losses.median()
    spread = torch.maximum((losses - usual).abs().median(), LEAST_SPREAD * usual.abs())
    if math.isfinite(loss) and loss <= usual + FAR * spread:
        return None
    evidence = f"the loss is {loss:.4f}, of the last {len(losses)} rows it was {float(usual):.4f}"
    advice = "look at the gradient norm beside it; if it does not come back, lower optimizer.lr"
    return Alarm("loss-spike", evidence, None, advice)


def _name(view: View) -> str:
    return f"level{view.level}_{view.role}"


def _source(view: View, by_place: Mapping[tuple[int, ViewRole], int]) -> int | None:
    """The view that this one is made to match or made of, where a collapse would come from."""
    if view.part == "predictor" and view.role != "target":
        return by_place.get((view.level, "target"))
    return by_place.get((view.level - 1, view.role))


def _problems(view: View, own: Statistics, source: Statistics | None) -> dict[str, str]:
    """What is wrong with one view, taken by itself and, of a prediction, beside its target."""
    name = _name(view)
    if not math.isfinite(own.rank):
        return {"without-rows": f"no two valid and finite rows of the {name} to look at"}
    if view.part == "predictor" and source is not None:
        shrunk = own.variance < LEAST_OF_TARGET * source.variance
        if shrunk:
            share = f"{own.variance / source.variance:.1e} of that of the level{view.level}_target"
            return {"constant": f"the variance of the {name} is {share}"}
    found = {}
    if own.rank < LEAST_RANK:
        found["rank-collapse"] = f"effective rank of the {name} is {own.rank:.1f}"
    if own.mean_norm > CONSTANT_DIRECTION:
        evidence = f"the mean direction of the {name} has norm {own.mean_norm:.2f}"
        found["constant-direction"] = evidence
    if own.dead > MOST_DEAD:
        found["dead-dimensions"] = f"{own.dead:.0%} of the dimensions of the {name} do not vary"
    if own.between < LEAST_BETWEEN:
        evidence = f"only {own.between:.1e} of the variance of the {name} differs between samples"
        found["same-for-all-samples"] = evidence
    return found
