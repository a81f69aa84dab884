"""Terms of embeddings as functions: pooled tokens, projector, VICReg, SIGReg and NT-Xent.

Measured on rows of our own, of which some do not count, whatever the recipe uses of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentcast.config.views import NtXent, SigRegPair, VicRegPair
from latentcast.objectives import comparisons, regularizers
from latentcast.objectives.projector import Projector, pooled
from latentcast.verification.claim import claim
from latentcast.verification.evidence import (
    Evidence,
    above,
    all_of,
    at_most,
    equal,
    greatest,
    none,
    true,
)
from latentcast.verification.observe.jepa import apart, noise
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.terms import naive_covariance, naive_sigreg, naive_variance
from latentcast.verification.observe.twin import Twin

VICREG = "VICReg (Bardes et al. 2022), equations 1 to 6 and published code"
LEJEPA = "LeJEPA (Balestriero & LeCun 2025)"
OURS = "our design, objectives/projector.py"
CLOSE = 1e-9
ROWS, WIDTH = 14, 5


def _rows(seed: int) -> tuple[Tensor, Tensor]:
    """Rows of which some do not count and hold NaN, and which do."""
    rows, counted = 1.3 * noise((ROWS, WIDTH), seed) + 0.2, torch.ones(ROWS, dtype=torch.float64)
    counted[[1, 6, 7]] = 0.0
    return torch.where(counted[:, None] > 0, rows, torch.nan), counted


@claim(
    "views.pooled",
    "The tokens of a view become their mean and sqrt(variance + 1e-4), over the "
    "tokens that are valid; a view without any is found out; the gradient is that of the "
    "formula.",
    source=OURS,
)
def pooled_tokens(twin: Twin) -> Evidence:
    """A view and a channel at a time; with every token valid and with some that hold NaN."""
    tokens, valid = noise((4, 9, 3), twin.seed) + 0.3, noise((4, 9), 3) > 0
    valid[1], valid[2, :1], valid[2, 1:] = False, True, False
    parts = list[Evidence]()
    for name, flags in (("all valid", None), ("some valid", valid)):
        own = torch.ones(4, 9, dtype=torch.bool) if flags is None else flags
        given = torch.where(own[..., None], tokens, torch.nan).requires_grad_()
        rows, found = pooled(given, flags)
        expected = torch.zeros(4, 6, dtype=torch.float64)
        for view, channel in [(v, c) for v in range(4) for c in range(3)]:
            column = tokens[view, own[view], channel].tolist()
            mean = math.fsum(column) / max(1, len(column))
            spread = math.fsum((x - mean) ** 2 for x in column) / max(1, len(column))
            expected[view, channel], expected[view, 3 + channel] = mean, math.sqrt(spread + 1e-4)
        pull = noise((4, 6), 8)
        (slope,) = torch.autograd.grad((rows * pull).sum(), given)
        plain = tokens.clone().requires_grad_()
        weight = own[..., None].double()
        count = weight.sum(1).clamp(min=1)
        centre = (plain * weight).sum(1) / count
        variance = ((plain - centre[:, None]).square() * weight).sum(1) / count
        (gradient,) = torch.autograd.grad(
            (torch.cat([centre, (variance + 1e-4).sqrt()], 1) * pull).sum(), plain
        )
        parts += [
            at_most(f"{name}: difference", apart(rows, expected), CLOSE),
            at_most(f"{name}: of the gradient", apart(slope, gradient), CLOSE),
            equal(f"{name}: views with a token", str(found.tolist()),
                  str([float(row.any()) for row in own])),
        ]  # fmt: skip
    half, _ = pooled(tokens.half(), None)
    return all_of(*parts, equal("type of halves", str(half.dtype), "torch.float32"))


@claim("views.projector", "A projector is linear layers without bias, and between them a norm over "
       "the rows that count and a ReLU; rows that do not count change no other; its operations "
       "are two for each weight.", source=VICREG)  # fmt: skip
def projector(twin: Twin) -> Evidence:
    """A column at a time; gains and biases away from 1 and 0."""
    network, (rows, counted) = Projector(WIDTH, (7, 6, 4)).double(), _rows(twin.seed)
    with torch.no_grad():
        for n, parameter in enumerate(network.parameters()):
            parameter.copy_(noise(parameter.shape, 40 + n))
    rows = torch.nan_to_num(rows, nan=3.0)
    found = network(rows, counted)
    other = network(torch.where(counted[:, None] > 0, rows, -2.0), counted)
    x, weights = rows, [p.detach() for p in network.layers.parameters()]
    for n, weight in enumerate(weights):
        x = x @ weight.T
        if n + 1 == len(weights):
            continue
        gains, biases = (p.detach() for p in network.norms[n].parameters())
        columns = []
        for k, column in enumerate(x.T):
            own = column[counted > 0]
            mean = float(own.sum()) / len(own)
            spread = float((own - mean).square().sum()) / len(own)
            scaled = (column - mean) / math.sqrt(spread + 1e-5)
            columns.append(scaled * gains[k] + biases[k])
        x = torch.stack(columns, 1).clamp(min=0)
    nothing = network(rows, torch.zeros_like(counted))
    return all_of(
        at_most("difference", apart(found, x), 1e-8),
        at_most("change by a row that does not count",
                apart(found[counted > 0], other[counted > 0]), CLOSE),
        equal("operations of a row", network.flops(), 2 * (5 * 7 + 7 * 6 + 6 * 4)),
        equal("parameters without the norms'", sum(p.numel() for p in network.layers.parameters()),
              5 * 7 + 7 * 6 + 6 * 4),
        true("finite where no row counts", bool(nothing.isfinite().all())),
        equal("layers", f"{len(network.layers)} and {len(network.norms)}", "3 and 2"),
    )  # fmt: skip


@claim("regularizer.counted", "Variance, covariance, invariance and SIGReg are those of the rows "
       "that count, whatever stands in the others; of fewer than two rows nothing is asked; half "
       "precision is computed in float32.", source=f"{VICREG}; {LEJEPA}")  # fmt: skip
def counted_rows(twin: Twin) -> Evidence:
    (x, flags), (y, _) = _rows(twin.seed), _rows(twin.seed + 1)
    own, other = x[flags > 0], y[flags > 0]
    ids, stream = torch.arange(ROWS), 1234
    ways = regularizers.directions(stream, WIDTH, 6, own)
    distance = sum(math.dist(a, b) ** 2 for a, b in zip(own.tolist(), other.tolist(), strict=True))
    full, zero = torch.nan_to_num(x, nan=0.7), torch.zeros(ROWS, dtype=torch.float64)
    spreads = [math.sqrt(float(c.var()) + 1e-4) for c in full.T]
    one = zero.clone()
    one[3] = 1
    pairs: dict[str, tuple[Tensor, float]] = {
        "variance": (regularizers.variance(x, weight=flags), naive_variance(own)),
        "variance of all": (regularizers.variance(full, 2.0),
                            sum(max(0.0, 2 - s) for s in spreads) / WIDTH),
        "covariance": (regularizers.covariance(x, flags), naive_covariance(own)),
        "invariance": (regularizers.invariance(x, y, ids, ids, flags), distance / len(own)),
        "sigreg": (regularizers.sigreg(x, stream, 6, weight=flags), naive_sigreg(own, ways)),
        "sigreg, 9 knots to 2": (regularizers.sigreg(x, stream, 6, 9, 2.0, flags),
                                 naive_sigreg(own, ways, 9, 2.0)),
        "sigreg, 2 knots": (regularizers.sigreg(full, stream, 6, 2), naive_sigreg(full, ways, 2)),
        "variance of a row": (regularizers.variance(x, weight=one), 0.0),
        "variance of none": (regularizers.variance(x, weight=zero), 0.0),
        "covariance of a row": (regularizers.covariance(x, one), 0.0),
        "invariance of none": (regularizers.invariance(x, y, ids, ids, zero), 0.0),
        "sigreg of none": (regularizers.sigreg(x, stream, 6, weight=zero), 0.0),
    }  # fmt: skip
    wide = [f"{name} is {term.dtype}" for name, term in (
        ("variance", regularizers.variance(full.half())),
        ("covariance", regularizers.covariance(full.half())),
        ("sigreg", regularizers.sigreg(full.half(), stream, 6)),
    ) if term.dtype != torch.float32]  # fmt: skip
    filled = x.clone().requires_grad_()
    total = regularizers.variance(filled, weight=flags) + regularizers.covariance(filled, flags)
    total = total + regularizers.sigreg(filled, stream, 6, weight=flags)
    (slope,) = torch.autograd.grad(total, filled)
    return all_of(
        *(at_most(name, abs(float(found) - expected), 1e-6 if "sigreg" in name else CLOSE)
          for name, (found, expected) in pairs.items()),
        at_most("gradient of rows that do not count", float(slope[flags == 0].abs().max()), 0.0),
        above("of those that do", float(slope[flags > 0].abs().min()), 0.0),
        none("in half precision", wide),
    )  # fmt: skip


@claim("regularizer.refused", "Rows that are no matrix, weights of other rows, views of other "
       "samples and a trapezoid of one knot are refused; the sentence counts the rows that pair "
       "different samples.", source="our design, law 6: nothing fails quietly")  # fmt: skip
def refused_rows(twin: Twin) -> Evidence:
    x, ids = noise((6, 3), 0), torch.arange(6)
    shifted = ids.clone()
    shifted[4:] = torch.tensor([5, 4])

    def paired(a: Tensor, b: Tensor, first: Tensor, second: Tensor) -> Callable[[], object]:
        return lambda: regularizers.invariance(a, b, first, second)

    views, matrix = "views must be (n, width) with ids (n,)", "an embedding matrix must be"
    cases: dict[str, Case] = {
        "two rows of others": (
            paired(x, x, ids, shifted),
            "invariance: 2 of 6 rows pair different",
        ),
        "all rows of others": (paired(x, x, ids, ids + 9), "invariance: 6 of 6 rows"),
        "fewer rows": (paired(x, x[:5], ids, ids), views),
        "another width": (paired(x, x[:, :2], ids, ids), views),
        "three axes": (paired(x[None], x[None], ids[:1], ids[:1]), views),
        "fewer ids": (paired(x, x, ids[:5], ids[:5]), views),
        "other ids": (paired(x, x, ids, ids[:5]), views),
        "a vector": (lambda: regularizers.variance(x[0]), matrix),
        "weights of fewer": (lambda: regularizers.covariance(x, ids[:5].double()), matrix),
        "weights in two axes": (lambda: regularizers.variance(x, 1.0, x), "with (6, 3)"),
        "no weights, in words": (lambda: regularizers.sigreg(x[0], 1, 2), "not (3,) with none"),
        "one knot": (lambda: regularizers.sigreg(x, 1, 2, 1), "sigreg: 1 knots make no trapezoid"),
    }
    return refusals(cases, {"the same samples": paired(x, x, ids, ids.clone())})


@claim("views.comparisons", "VICReg, SIGReg and NT-Xent between two views are the weighted sums of "
       "their parts over the samples that count, with the published weights; each part is logged "
       "by itself.", source=f"{VICREG}; {LEJEPA}; SimCLR (Chen et al. 2020)")  # fmt: skip
def compared(twin: Twin) -> Evidence:
    """A pair, a column and a candidate at a time, with samples that do not count and hold NaN."""
    (a, flags), (b, _) = _rows(twin.seed), _rows(twin.seed + 1)
    ids, stream, parts = torch.arange(ROWS), 77, list[Evidence]()
    x, y = a[flags > 0], b[flags > 0]
    count = len(x)
    distance = sum(math.dist(p, q) ** 2 for p, q in zip(x.tolist(), y.tolist(), strict=True))
    distance /= count * WIDTH
    spread = (naive_variance(x) + naive_variance(y)) / 2
    mixed = naive_covariance(x) + naive_covariance(y)
    ways = regularizers.directions(stream, WIDTH, 6, x)
    waves = (naive_sigreg(x, ways) + naive_sigreg(y, ways)) / 2
    both = [row / row.norm() for pair in zip(x, y, strict=True) for row in pair]
    terms, decoupled, right = list[float](), list[float](), 0
    for n, row in enumerate(both):
        scores = [float(row @ one) / 0.2 for one in both]
        scores[n] = -math.inf
        total = math.log(math.fsum(math.exp(s) for s in scores))
        terms.append(total - scores[n ^ 1])
        others = math.fsum(math.exp(s) for k, s in enumerate(scores) if k != n ^ 1)
        decoupled.append(math.log(others) - scores[n ^ 1])
        right += max(range(len(both)), key=scores.__getitem__) == n ^ 1
    vicreg = VicRegPair(invariance=3.0, variance=5.0, covariance=0.7)
    plain = VicRegPair()
    expected: dict[str, tuple[Any, float, dict[str, float]]] = {
        "vicreg": (
            comparisons.vicreg(a, b, ids, flags, vicreg),
            3 * distance + 5 * spread + 0.7 * mixed,
            {"invariance": distance, "variance": spread, "covariance": mixed},
        ),
        "vicreg as published": (
            comparisons.vicreg(a, b, ids, flags, plain),
            25 * distance + 25 * spread + mixed,
            {"invariance": distance, "variance": spread, "covariance": mixed},
        ),
        "sigreg": (
            comparisons.sigreg_pair(a, b, ids, flags, SigRegPair(share=0.3, slices=6), stream),
            0.7 * distance / 4 + 0.3 * waves,
            {"invariance": distance / 4, "sigreg": waves},
        ),
        "ntxent": (
            comparisons.ntxent(a, b, flags, NtXent(temperature=0.2)),
            math.fsum(terms) / len(terms),
            {"found": right / len(both)},
        ),
        "ntxent, decoupled": (
            comparisons.ntxent(a, b, flags, NtXent(temperature=0.2, decoupled=True)),
            math.fsum(decoupled) / len(decoupled),
            {"found": right / len(both)},
        ),
    }
    for name, ((term, found), number, own) in expected.items():
        bound = 1e-6 * max(1.0, abs(number))
        parts.append(at_most(f"{name}: difference", abs(float(term) - number), bound))
        gap = greatest(*(abs(float(found[key]) - value) for key, value in own.items()))
        parts.append(at_most(f"{name}: of a part", gap, 1e-6 * max(1.0, *own.values())))
        parts.append(equal(f"{name}: parts", " ".join(found), " ".join(own)))
    zero = torch.zeros_like(flags)
    none_counts = [float(comparisons.ntxent(a, b, zero, NtXent(decoupled=apart))[0])
                   for apart in (False, True)]  # fmt: skip
    none_counts.append(float(comparisons.vicreg(a, b, ids, zero, vicreg)[0]))
    one = NtXent(decoupled=True)
    single = a[:1].nan_to_num(0.1).requires_grad_()
    alone, _ = comparisons.ntxent(single, b[:1].nan_to_num(0.2), flags[:1] * 0 + 1, one)
    (slope,) = torch.autograd.grad(alone, single)
    half, _ = comparisons.ntxent(
        a.nan_to_num(0.1).half(), b.nan_to_num(0.2).half(), flags, NtXent()
    )
    return all_of(
        *parts,
        equal("where no sample counts", str(none_counts), "[0.0, 0.0, 0.0]"),
        equal(
            "decoupled, of one sample",
            str([float(alone.detach()), float(slope.abs().max())]),
            "[0.0, 0.0]",
        ),
        equal("type of halves", str(half.dtype), "torch.float32"),
    )
