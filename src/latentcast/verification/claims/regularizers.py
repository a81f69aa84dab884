"""What keeps embeddings apart without a teacher: VICReg's terms and SIGReg, by their formulas.

A recipe with a regularizer is measured with its own. The functions behind both are promised to
anyone who switches one on, so those claims concern every JEPA.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.errors import LatentcastError
from latentcast.objectives import regularizers
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.randomness import Draw, key
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    Pass,
    has_teacher,
    is_jepa,
    live,
    noise,
    observe,
    values,
)
from latentcast.verification.observe.twin import Subject

BOTH: dict[str, dict[str, Any]] = {
    "vicreg": {"kind": "vicreg", "weight": 0.3, "variance": 1.0, "covariance": 0.04},
    "sigreg": {"kind": "sigreg", "weight": 0.3, "slices": 6},
}


def _regularized(subject: Subject, kind: str) -> tuple[Jepa, dict[str, Any]]:
    changes = {"objective.regularizer": BOTH[kind], "train.micro_batches": 1}
    return _straddling(live(subject, changes)), BOTH[kind]


def _straddling(objective: Jepa) -> Jepa:
    """Channels that deviate by less and by more than 1: both sides of VICReg's hinge."""
    student = objective.student
    with torch.no_grad():
        for norm in (student.finest.norm, *(level.norm for level in student.coarser)):
            assert isinstance(norm, torch.nn.LayerNorm)
            norm.weight.copy_(torch.linspace(0.05, 2, len(norm.weight)))
    return objective


def _mixture(subject: Subject, kind: str) -> Evidence:
    """``(1 - λ) · prediction + λ · penalty``, the penalty by hand on what has a gradient."""
    objective, chosen = _regularized(subject, kind)
    x, draw = values(subject), subject.draw()
    seen = observe(objective, Inputs(x), draw)
    plain = observe(_without(subject, objective), Inputs(x), draw)
    penalties = [
        _penalty(rows, chosen, key(draw.seed, draw.step, f"sigreg {n}"))
        for n, rows in enumerate(_rows(seen))
    ]
    penalty = sum(penalties) / len(penalties)
    share = float(chosen["weight"])
    expected = (1 - share) * float(plain.output.loss.detach()) + share * penalty
    measured = float(seen.output.loss.detach())
    told = {"measured": measured, "expected": expected, "penalty": penalty}
    told |= {"difference": abs(measured - expected), "bound": 1e-8}
    return Evidence(abs(measured - expected) <= 1e-8 and penalty > MATTERS, told)


def _without(subject: Subject, objective: Jepa) -> Jepa:
    """The same weights without a regularizer."""
    plain = live(subject, {"train.micro_batches": 1})
    plain.load_state_dict(objective.state_dict())
    return plain


def _rows(seen: Pass) -> list[Tensor]:
    """The context's tokens that say something, at each level."""
    found = []
    for level in seen.context:
        rows = level.values.detach().flatten(0, 1)
        found.append(rows if level.seen is None else rows[level.seen.flatten()])
    return found


def _penalty(rows: Tensor, chosen: dict[str, Any], stream: int) -> float:
    if chosen["kind"] == "vicreg":
        spread, mixed = naive_variance(rows), naive_covariance(rows)
        return float(chosen["variance"]) * spread + float(chosen["covariance"]) * mixed
    a = regularizers.directions(stream, rows.shape[1], chosen["slices"], rows)
    return naive_sigreg(rows, a)


def naive_variance(rows: Tensor) -> float:
    total = 0.0
    for j in range(rows.shape[1]):
        column = rows[:, j].tolist()
        mean = sum(column) / len(column)
        spread = sum((v - mean) ** 2 for v in column) / (len(column) - 1)
        total += max(0.0, 1 - math.sqrt(spread + 1e-4))
    return float(total / rows.shape[1])


def naive_covariance(rows: Tensor) -> float:
    x = rows.numpy()
    centred = [x[:, j] - x[:, j].sum() / len(x) for j in range(x.shape[1])]
    total = 0.0
    for i, one in enumerate(centred):
        for j, other in enumerate(centred):
            if i != j:
                total += float((one * other).sum() / (len(x) - 1)) ** 2
    return float(total / x.shape[1])


def naive_sigreg(rows: Tensor, directions: Tensor, knots: int = 17, reach: float = 3.0) -> float:
    """A slice and a knot at a time, by the definition of LeJEPA (spec of JEPA, 3.1)."""
    x, a = rows.double().numpy(), directions.double().numpy()
    step, total = reach / (knots - 1), 0.0
    for m in range(a.shape[1]):
        y = x @ a[:, m]
        for j in range(knots):
            t = j * step
            phi = math.exp(-t * t / 2)
            weight = (step if j in (0, knots - 1) else 2 * step) * phi
            real, imaginary = float(np.cos(t * y).mean()), float(np.sin(t * y).mean())
            total += len(y) * weight * ((real - phi) ** 2 + imaginary**2)
    return float(total / a.shape[1])


def vicreg(subject: Subject) -> Evidence:
    return _mixture(subject, "vicreg")


def sigreg(subject: Subject) -> Evidence:
    return _mixture(subject, "sigreg")


def shipped(subject: Subject) -> Evidence:
    """The recipe's own regularizer and weight: in the loss, and in the student's gradient."""
    jepa = subject.config.objective
    assert isinstance(jepa, JepaConfig) and jepa.regularizer is not None
    own = jepa.regularizer.model_dump()
    objective = _straddling(live(subject, {"objective.regularizer": own}))
    x, draw = values(subject), subject.draw()
    seen = observe(objective, Inputs(x), draw)
    plain = observe(_without(subject, objective), Inputs(x), draw)
    penalties = [
        _penalty(rows, own, key(draw.seed, draw.step, f"sigreg {n}"))
        for n, rows in enumerate(_rows(seen))
    ]
    share, penalty = float(own["weight"]), sum(penalties) / len(penalties)
    expected = (1 - share) * float(plain.output.loss.detach()) + share * penalty
    measured = float(seen.output.loss.detach())
    told = {"measured": measured, "expected": expected, "weight": share, "penalty": penalty}
    difference = abs(measured - expected)
    told |= {"difference": difference, "bound": 1e-8}
    return Evidence(difference <= 1e-8, told)


def reaches_student(subject: Subject) -> Evidence:
    """With its weight at 1 the regularizer is the loss: the student's gradient is its gradient."""
    told: dict[str, float | str] = {}
    holds = True
    for kind, chosen in BOTH.items():
        own = {**chosen, "weight": 1.0}
        objective = live(subject, {"objective.regularizer": own, "train.micro_batches": 1})
        seen = observe(objective, Inputs(values(subject)), subject.draw())
        seen.output.loss.backward()  # type: ignore[no-untyped-call]
        sums = {"student": 0.0, "predictors": 0.0, "teacher": 0.0}
        for name, parameter in objective.named_parameters():
            if parameter.grad is not None:
                part = name.partition(".")[0]
                sums[part] = max(sums.get(part, 0.0), float(parameter.grad.abs().max()))
        told |= {f"{kind}: gradient of the {part}": value for part, value in sums.items()}
        holds &= sums["student"] > MATTERS and sums["predictors"] == 0 == sums["teacher"]
    return Evidence(holds, told)


def hinge(subject: Subject) -> Evidence:
    """The variance term against its formula, column by column; alive and dead columns."""
    x = noise((60, 8), subject.seed) * torch.linspace(0.1, 2, 8, dtype=torch.float64) + 3
    measured, expected = float(regularizers.variance(x)), naive_variance(x)
    alive, dead = float(regularizers.variance(3 * x)), float(regularizers.variance(0 * x + 5))
    told = {"measured": measured, "expected": expected, "bound": ROUNDING}
    told |= {"less of it when spread": alive, "all rows equal": dead}
    return Evidence(
        abs(measured - expected) <= ROUNDING and alive < measured and abs(dead - 0.99) < 1e-6, told
    )


def covariance(subject: Subject) -> Evidence:
    """Against its formula, pair by pair; the mean and the diagonal play no part."""
    x = noise((60, 6), subject.seed) @ noise((6, 6), 1)
    measured, expected = float(regularizers.covariance(x)), naive_covariance(x)
    shifted = abs(float(regularizers.covariance(x + 50)) - measured)
    apart = torch.linalg.qr(noise((60, 7), 2) - noise((60, 7), 2).mean(0)).Q
    apart = 9 * (apart - apart.mean(0))
    apart = torch.linalg.qr(apart).Q  # centred columns at right angles
    alone = float(regularizers.covariance(5 * apart))
    told = {"measured": measured, "expected": expected, "changed by the mean": shifted}
    told |= {"of uncorrelated columns": alone, "bound": 1e-8}
    return Evidence(max(abs(measured - expected), shifted, alone) <= 1e-8, told)


def same_sample(subject: Subject) -> Evidence:
    """Two views of the same samples cost their distance; of different samples, they are refused."""
    a, b, ids = noise((20, 4), subject.seed), noise((20, 4), 1), torch.arange(20)
    rows = zip(a.tolist(), b.tolist(), strict=True)
    expected = sum(sum((u - v) ** 2 for u, v in zip(*pair, strict=True)) for pair in rows) / 20
    measured = float(regularizers.invariance(a, b, ids, ids.clone()))
    try:
        regularizers.invariance(a[:10], a[10:], ids[:10], ids[10:])
        refused = False
    except LatentcastError:
        refused = True
    told = {"measured": measured, "expected": expected, "bound": ROUNDING}
    told |= {"halves of a batch refused": refused}
    return Evidence(abs(measured - expected) <= ROUNDING and refused, told)


# SIGReg


def definition(subject: Subject) -> Evidence:
    """Against a loop over slices and knots; its gradient against finite differences."""
    x = 1.3 * noise((40, 6), subject.seed) + 0.2
    stream = key(subject.seed, 0, "sigreg")
    a = regularizers.directions(stream, 6, 7, x)
    measured, expected = float(regularizers.sigreg(x, stream, slices=7)), naive_sigreg(x, a)
    x.requires_grad_()
    regularizers.sigreg(x, stream, slices=7).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    slope = 0.0
    toward, h = noise((40, 6), 9), 1e-5
    with torch.no_grad():
        up, down = (naive_sigreg(x + s * h * toward, a) for s in (1, -1))
        slope = abs((up - down) / (2 * h) - float((x.grad * toward).sum()))
    told = {"measured": measured, "expected": expected, "difference": abs(measured - expected)}
    told |= {"slope less finite differences": slope, "bound": 1e-6}
    return Evidence(max(abs(measured - expected), slope) <= 1e-6, told)


def not_standardised(subject: Subject) -> Evidence:
    """What standardised projections hide: rank, scale and mean of the rows."""
    rows, width = 600, 32
    x, stream = noise((rows, width), subject.seed), key(subject.seed, 0, "sigreg")
    bad = {
        "rank one": x[:, :1] * noise((1, width), 1),
        "shrunk": 1e-3 * x,
        "shifted": x + 100,
        "all equal": x[:1].expand(rows, width),
    }
    isotropic = float(regularizers.sigreg(x, stream, slices=64))
    scores = {name: float(regularizers.sigreg(y, stream, slices=64)) for name, y in bad.items()}
    least, bound = min(scores.values()), 10 * isotropic
    told = {"isotropic": isotropic, **scores, "lower bound": bound}
    return Evidence(isotropic < 3 and least > bound, told)


def directions_uniform(subject: Subject) -> Evidence:
    """Of unit length, and in no preferred direction: their mean outer product is 1 / width."""
    width, slices = 16, 8192
    like = torch.zeros(1, width, dtype=torch.float64)
    a = regularizers.directions(key(subject.seed, 0, "sigreg"), width, slices, like)
    length = float((a.square().sum(0) - 1).abs().max())
    outer = float((a @ a.T / slices - torch.eye(width, dtype=a.dtype) / width).abs().max())
    mean = float(a.mean(1).abs().max())
    told = {"length less 1": length, "outer product less 1 / width": outer, "mean": mean}
    return Evidence(length < 1e-6 and outer < 0.01 and mean < 0.015, told | {"bound": 0.01})


def slices(subject: Subject) -> Evidence:
    """The same masks and values, another step, other samples: when do the directions change?"""
    objective, _ = _regularized(subject, "sigreg")
    x, own = values(subject), subject.draw()
    masks = objective.masks(own, None)

    def loss(step: int, ids: Tensor) -> float:
        with torch.no_grad():
            found = objective.energy(x, None, masks, Draw(own.seed, step, ids))
        return float(found.loss)

    first = loss(0, own.ids)
    step = abs(loss(1, own.ids) - first)
    rank = abs(loss(0, own.ids + 1000) - first)
    told = {"changed by the step": step, "changed by other samples": rank, "bound": 0}
    return Evidence(step > MATTERS and rank == 0, told)


def still(subject: Subject) -> bool:
    """Nothing but the slices is random once masks are given."""
    encoder = subject.recipe.encoder
    moving = encoder.positions.kind == "rotary" and any(
        part is not None
        for part in (encoder.positions.rescale, encoder.positions.shift, encoder.positions.jitter)
    )
    return is_jepa(subject) and encoder.drop_path == 0 and not moving


def has_regularizer(subject: Subject) -> bool:
    jepa = subject.recipe.objective
    return isinstance(jepa, JepaConfig) and jepa.regularizer is not None and has_teacher(subject)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "regularizer.shipped",
        "The recipe's loss is (1 - λ) of the prediction and λ of its regularizer on the context, "
        "no other term and nothing that pairs different samples.",
        "LeJEPA (Balestriero & LeCun 2025); spec of H-JEPA, defect D7",
        shipped,
        has_regularizer,
    ),
    Claim(
        "regularizer.reaches-student",
        "A regularizer acts on what is trained: its gradient is the student's, not the teacher's "
        "and not the predictors'.",
        "spec of JEPA, section 6, number 6",
        reaches_student,
        has_teacher,
    ),
    Claim(
        "vicreg.mixture",
        "With VICReg the loss is (1 - λ) of the prediction and λ of variance and covariance of the "
        "context, averaged over levels.",
        "VICReg (Bardes et al. 2022); spec of H-JEPA, defect D7",
        vicreg,
        has_teacher,
    ),
    Claim(
        "vicreg.variance",
        "The variance term is the mean over dimensions of max(0, 1 - sqrt(Var + 1e-4)).",
        "VICReg (Bardes et al. 2022), equations 1 and 2",
        hinge,
        is_jepa,
    ),
    Claim(
        "vicreg.covariance",
        "The covariance term is the sum of squared off-diagonal covariances over the width.",
        "VICReg (Bardes et al. 2022), equations 3 and 4",
        covariance,
        is_jepa,
    ),
    Claim(
        "vicreg.same-sample",
        "Invariance pulls views of the same sample together, and never different samples.",
        "VICReg, equation 5; spec of H-JEPA, defect D7",
        same_sample,
        is_jepa,
    ),
    Claim(
        "sigreg.mixture",
        "With SIGReg the loss is (1 - λ) of the prediction and λ of the statistic of the context, "
        "averaged over levels.",
        "LeJEPA (Balestriero & LeCun 2025)",
        sigreg,
        has_teacher,
    ),
    Claim(
        "sigreg.definition",
        "SIGReg is LeJEPA's statistic, value and gradient.",
        "LeJEPA (Balestriero & LeCun 2025); spec of JEPA, 3.1",
        definition,
        is_jepa,
    ),
    Claim(
        "sigreg.not-standardised",
        "SIGReg sees rank, scale and mean: rows of rank one, shrunk, shifted or all equal score "
        "ten times an isotropic Gaussian.",
        "spec of H-JEPA, defect D8 and behaviour 15",
        not_standardised,
        is_jepa,
    ),
    Claim(
        "sigreg.directions",
        "Slices are unit vectors without a preferred direction.",
        "LeJEPA (Balestriero & LeCun 2025)",
        directions_uniform,
        is_jepa,
    ),
    Claim(
        "sigreg.slices",
        "Slices are new each step, and the same whatever samples a rank holds.",
        "LeJEPA; spec of JEPA, 3.1",
        slices,
        still,
    ),
)
