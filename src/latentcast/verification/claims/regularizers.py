"""What keeps embeddings apart without a teacher: VICReg's terms and SIGReg, by their formulas.

A recipe with a regularizer is measured with its own. The functions behind both are promised to
anyone who switches one on, so those claims concern every JEPA.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.errors import LatentcastError
from latentcast.objectives import regularizers
from latentcast.objectives.jepa import Jepa
from latentcast.randomness import Draw, key
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, true
from latentcast.verification.observe.config import has_transformer, jepa_of, transformer_of
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
from latentcast.verification.observe.terms import naive_covariance, naive_sigreg, naive_variance
from latentcast.verification.observe.twin import Twin

NEEDS = has_transformer

LEJEPA = "LeJEPA (Balestriero & LeCun 2025)"
VICREG = "VICReg (Bardes et al. 2022)"
EXACT = 1e-8
VICREG_TERMS: dict[str, Any] = {
    "kind": "vicreg", "weight": 0.3, "variance": 1.0, "covariance": 0.04
}  # fmt: skip
SIGREG_TERMS: dict[str, Any] = {"kind": "sigreg", "weight": 0.3, "slices": 6}


def _straddling(objective: Jepa) -> Jepa:
    """Channels that deviate by less and by more than 1: both sides of VICReg's hinge."""
    student = objective.student
    with torch.no_grad():
        for norm in (student.finest.norm, *(level.norm for level in student.coarser)):
            assert isinstance(norm, torch.nn.LayerNorm)
            norm.weight.copy_(torch.linspace(0.05, 2, len(norm.weight)))
    return objective


def _mixture(twin: Twin, terms: dict[str, Any]) -> Evidence:
    """``(1 - λ) · prediction + λ · penalty``, the penalty by hand on what has a gradient."""
    piece = {"train.micro_batches": 1}
    objective = _straddling(live(twin, piece | {"objective.regularizer": terms}))
    plain = live(twin, piece)
    plain.load_state_dict(objective.state_dict())
    x, draw = values(twin), twin.draw()
    forward = observe(objective, Inputs(x), draw)
    prediction = float(observe(plain, Inputs(x), draw).output.loss.detach())
    penalties = [
        _penalty(rows, terms, key(draw.seed, draw.step, f"sigreg {n}"))
        for n, rows in enumerate(_rows(forward))
    ]
    share, penalty = float(terms["weight"]), sum(penalties) / len(penalties)
    expected = (1 - share) * prediction + share * penalty
    measured = float(forward.output.loss.detach())
    return all_of(
        at_most("difference", abs(measured - expected), EXACT),
        above("penalty", penalty, MATTERS),
        measured=measured, expected=expected, weight=share,
    )  # fmt: skip


def _rows(forward: Pass) -> list[Tensor]:
    """The context's valid tokens at each level."""
    levels = [(level.values.detach().flatten(0, 1), level.valid) for level in forward.context]
    return [rows if valid is None else rows[valid.flatten()] for rows, valid in levels]


def _penalty(rows: Tensor, terms: dict[str, Any], stream: int) -> float:
    if terms["kind"] == "vicreg":
        spread, mixed = naive_variance(rows), naive_covariance(rows)
        return float(terms["variance"]) * spread + float(terms["covariance"]) * mixed
    a = regularizers.directions(stream, rows.shape[1], terms["slices"], rows)
    return naive_sigreg(rows, a)


def has_regularizer(twin: Twin) -> bool:
    return has_teacher(twin) and jepa_of(twin.recipe).regularizer is not None


@claim("regularizer.shipped", "The recipe's loss is (1 - λ) of the prediction and λ of its "
       "regularizer on the context, no other term and nothing that pairs different samples.",
       source=f"{LEJEPA}; spec of H-JEPA, defect D7", about=has_regularizer)  # fmt: skip
def shipped(twin: Twin) -> Evidence:
    regularizer = jepa_of(twin.config).regularizer
    assert regularizer is not None
    return _mixture(twin, regularizer.model_dump())


@claim("regularizer.reaches-student", "A regularizer acts on what is trained: its gradient is the "
       "student's, not the teacher's and not the predictors'.",
       source="spec of JEPA, section 6, number 6", about=has_teacher)  # fmt: skip
def reaches_student(twin: Twin) -> Evidence:
    """With its weight at 1 the regularizer is the loss."""
    parts = []
    for terms in (VICREG_TERMS, SIGREG_TERMS):
        kind = terms["kind"]
        own = {"objective.regularizer": {**terms, "weight": 1.0}, "train.micro_batches": 1}
        objective = live(twin, own)
        forward = observe(objective, Inputs(values(twin)), twin.draw())
        forward.output.loss.backward()  # type: ignore[no-untyped-call]
        sizes = {"student": 0.0, "predictors": 0.0, "teacher": 0.0}
        for name, parameter in objective.named_parameters():
            if parameter.grad is not None:
                part = name.partition(".")[0]
                sizes[part] = max(sizes.get(part, 0.0), float(parameter.grad.abs().max()))
        parts.append(above(f"{kind}: gradient of the student", sizes.pop("student"), MATTERS))
        parts += [at_most(f"{kind}: of the {part}", size, 0.0) for part, size in sizes.items()]
    return all_of(*parts)


@claim("vicreg.mixture", "With VICReg the loss is (1 - λ) of the prediction and λ of variance and "
       "covariance of the context, averaged over levels.",
       source=f"{VICREG}; spec of H-JEPA, defect D7", about=has_teacher)  # fmt: skip
def vicreg(twin: Twin) -> Evidence:
    return _mixture(twin, VICREG_TERMS)


@claim("vicreg.variance", "The variance term is the mean over dimensions of max(0, 1 - sqrt(Var + "
       "1e-4)).", source=f"{VICREG}, equations 1 and 2", about=is_jepa)  # fmt: skip
def variance(twin: Twin) -> Evidence:
    """Column by column; alive and dead columns."""
    x = noise((60, 8), twin.seed) * torch.linspace(0.1, 2, 8, dtype=torch.float64) + 3
    measured, expected = float(regularizers.variance(x)), naive_variance(x)
    alive, dead = float(regularizers.variance(3 * x)), float(regularizers.variance(0 * x + 5))
    return all_of(
        at_most("difference", abs(measured - expected), ROUNDING),
        above("less of it when spread, by", measured - alive, 0.0),
        at_most("all rows equal, from 0.99", abs(dead - 0.99), 1e-6),
        measured=measured, expected=expected,
    )  # fmt: skip


@claim("vicreg.covariance", "The covariance term is the sum of squared off-diagonal covariances "
       "over the width.", source=f"{VICREG}, equations 3 and 4", about=is_jepa)  # fmt: skip
def covariance(twin: Twin) -> Evidence:
    """Pair by pair; the mean and the diagonal play no part."""
    x = noise((60, 6), twin.seed) @ noise((6, 6), 1)
    measured, expected = float(regularizers.covariance(x)), naive_covariance(x)
    y, shifted = noise((60, 7), 2), float(regularizers.covariance(x + 50))
    apart = torch.linalg.qr(y - y.mean(0)).Q  # centred columns at right angles
    return all_of(
        at_most("difference", abs(measured - expected), EXACT),
        at_most("changed by the mean", abs(shifted - measured), EXACT),
        at_most("of uncorrelated columns", float(regularizers.covariance(45 * apart)), EXACT),
        measured=measured, expected=expected,
    )  # fmt: skip


@claim("vicreg.same-sample", "Invariance pulls views of the same sample together, and never "
       "different samples.",
       source="VICReg, equation 5; spec of H-JEPA, defect D7", about=is_jepa)  # fmt: skip
def same_sample(twin: Twin) -> Evidence:
    """Two views of the same samples cost their distance; of different samples, they are refused."""
    a, b, ids = noise((20, 4), twin.seed), noise((20, 4), 1), torch.arange(20)
    expected = sum(math.dist(*pair) ** 2 for pair in zip(a.tolist(), b.tolist(), strict=True)) / 20
    measured = float(regularizers.invariance(a, b, ids, ids.clone()))
    refused = False
    try:
        regularizers.invariance(a[:10], a[10:], ids[:10], ids[10:])
    except LatentcastError:
        refused = True
    return all_of(
        at_most("difference", abs(measured - expected), ROUNDING),
        true("halves of a batch refused", refused),
        measured=measured, expected=expected,
    )  # fmt: skip


@claim("sigreg.mixture", "With SIGReg the loss is (1 - λ) of the prediction and λ of the "
       "statistic of the context, averaged over levels.",
       source=LEJEPA, about=has_teacher)  # fmt: skip
def sigreg(twin: Twin) -> Evidence:
    return _mixture(twin, SIGREG_TERMS)


@claim("sigreg.definition", "SIGReg is LeJEPA's statistic, value and gradient.",
       source=f"{LEJEPA}; spec of JEPA, 3.1", about=is_jepa)  # fmt: skip
def definition(twin: Twin) -> Evidence:
    """Against a loop over slices and knots; its gradient against finite differences."""
    x = 1.3 * noise((40, 6), twin.seed) + 0.2
    stream = key(twin.seed, 0, "sigreg")
    a = regularizers.directions(stream, 6, 7, x)
    measured, expected = float(regularizers.sigreg(x, stream, slices=7)), naive_sigreg(x, a)
    x.requires_grad_()
    regularizers.sigreg(x, stream, slices=7).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    toward, h = noise((40, 6), 9), 1e-5
    with torch.no_grad():
        up, down = (naive_sigreg(x + s * h * toward, a) for s in (1, -1))
        slope = abs((up - down) / (2 * h) - float((x.grad * toward).sum()))
    return all_of(
        at_most("difference", abs(measured - expected), 1e-6),
        at_most("slope less finite differences", slope, 1e-6),
        measured=measured, expected=expected,
    )  # fmt: skip


@claim("sigreg.not-standardised", "SIGReg measures rank, scale and mean: rows of rank one, "
       "shrunk, shifted or all equal score ten times an isotropic Gaussian.",
       source="spec of H-JEPA, defect D8 and behaviour 15", about=is_jepa)  # fmt: skip
def not_standardised(twin: Twin) -> Evidence:
    """What standardised projections hide."""
    rows, width = 600, 32
    x, stream = noise((rows, width), twin.seed), key(twin.seed, 0, "sigreg")
    bad = {
        "rank one": x[:, :1] * noise((1, width), 1),
        "shrunk": 1e-3 * x,
        "shifted": x + 100,
        "all equal": x[:1].expand(rows, width),
    }
    isotropic = float(regularizers.sigreg(x, stream, slices=64))
    return all_of(
        at_most("isotropic", isotropic, 3.0),
        *(above(name, float(regularizers.sigreg(y, stream, slices=64)), 10 * isotropic)
          for name, y in bad.items()),
    )  # fmt: skip


@claim("sigreg.directions", "Slices are unit vectors without a preferred direction.",
       source=LEJEPA, about=is_jepa)  # fmt: skip
def directions_uniform(twin: Twin) -> Evidence:
    """Their mean outer product is 1 / width."""
    width, slices = 16, 8192
    like = torch.zeros(1, width, dtype=torch.float64)
    a = regularizers.directions(key(twin.seed, 0, "sigreg"), width, slices, like)
    outer = float((a @ a.T / slices - torch.eye(width, dtype=a.dtype) / width).abs().max())
    return all_of(
        at_most("length less 1", float((a.square().sum(0) - 1).abs().max()), 1e-6),
        at_most("outer product less 1 / width", outer, 0.01),
        at_most("mean", float(a.mean(1).abs().max()), 0.015),
    )


def still(twin: Twin) -> bool:
    """Nothing but the slices is random once masks are given."""
    encoder = transformer_of(twin.recipe)
    moves = encoder.positions.model_dump()
    moving = any(moves.get(name) is not None for name in ("rescale", "shift", "jitter"))
    return is_jepa(twin) and encoder.drop_path == 0 and not moving


@claim("sigreg.slices", "Slices are new each step, and the same whatever samples a rank has.",
       source="LeJEPA; spec of JEPA, 3.1", about=still)  # fmt: skip
def slices(twin: Twin) -> Evidence:
    """The same masks and values, another step, other samples: when do the directions change?"""
    changes = {"objective.regularizer": SIGREG_TERMS, "train.micro_batches": 1}
    objective = _straddling(live(twin, changes))
    x, own = values(twin), twin.draw()
    masks = objective.masks(own, None)

    def loss(step: int, ids: Tensor) -> float:
        with torch.no_grad():
            return float(objective.energy(x, None, masks, Draw(own.seed, step, ids)).loss)

    first = loss(0, own.ids)
    return all_of(
        above("changed by the step", abs(loss(1, own.ids) - first), MATTERS),
        at_most("changed by other samples", abs(loss(0, own.ids + 1000) - first), 0.0),
    )
