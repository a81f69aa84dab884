"""How an update moves the weights: AdamW, and Muon for the matrices within blocks."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from latentcast.nn.base import Unit
from latentcast.objectives.nepa import NepaConfig
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, none
from latentcast.verification.formulas import muon_scale, rate_of
from latentcast.verification.observe.loop_recorder import Weights
from latentcast.verification.observe.rehearsal import POISONED, rehearse, rehearsed, revealing
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 2: the engine owns the order"
FLOAT = 2.0**-23
MOMENTUM, ITERATIONS = 0.9, 4
MUON = {"lr": 0.01, "momentum": MOMENTUM, "iterations": ITERATIONS}


@claim("loop.every-parameter-once", "The optimizer has every parameter that is trained, once, and "
       "no other.", source=OURS)  # fmt: skip
def every_parameter_once(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    objective, kind = run.objective, run.config.objective
    teacher = set[int]()
    if objective.encoder("teacher") is not objective.encoder("student"):
        teacher = {id(p) for p in objective.encoder("teacher").parameters()}
    trained = {n for n, p in objective.named_parameters() if id(p) not in teacher}
    if isinstance(kind, NepaConfig) and kind.patch_embedding == "fixed":
        trained = {n for n in trained if ".patches." not in n}
    counts = Counter(run.attempts[0].in_optimizer)
    return all_of(
        none("absent", sorted(trained - set(counts))),
        none("there twice", [name for name, count in counts.items() if count > 1]),
        none("not to be trained", sorted(set(counts) - trained)),
        parameters=len(trained),
    )


@claim("loop.adamw", "An update is AdamW's, decay decoupled, with the recipe's betas.",
       source="Loshchilov & Hutter 2019, algorithm 2")  # fmt: skip
def adamw(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    (first, second), eps = run.config.optimizer.betas, run.config.optimizer.eps
    means: Weights = {}
    squares: Weights = {}
    worst = 0.0
    for n, step in enumerate(run.steps):
        for name in step.gradients.keys() - run.matrices:  # those are of loop.muon
            gradient = step.gradients[name]
            g, p = gradient.double(), step.before[name].double()
            means[name] = first * means.get(name, torch.zeros_like(g)) + (1 - first) * g
            squares[name] = second * squares.get(name, torch.zeros_like(g)) + (1 - second) * g * g
            mean = means[name] / (1 - first ** (n + 1))
            root = (squares[name] / (1 - second ** (n + 1))).sqrt()
            lr = step.rates[name]
            expected = p - lr * step.decays[name] * p - lr * mean / (root + eps)
            allowed = 1e-4 * lr + 4 * FLOAT * p.abs()
            gap = float(((step.after[name] - expected).abs() / allowed).max())
            worst = math.inf if math.isnan(gap) else max(worst, gap)
    return all_of(
        at_most("largest difference, of what rounding allows", worst, 1.0),
        equal("updates", len(run.steps), run.config.train.steps),
    )


@claim("loop.muon", "With Muon the matrices within blocks, and no others, move by the orthogonal "
       "factor of their momentum; a step that is refused leaves it as it was.",
       source="Jordan et al. 2024; its published code")  # fmt: skip
def muon(twin: Twin) -> Evidence:
    """Weight by weight in float64, through the singular values of the momentum."""
    config = revealing(twin).updated({"optimizer.muon": MUON, "train.micro_batches": 1})
    run = rehearse(twin, config, {POISONED})
    unit_names = [
        f"{prefix}.{name}"
        for prefix, module in run.objective.named_modules()
        if isinstance(module, Unit)
        for name, p in module.named_parameters()
        if p.requires_grad and not run.objective.undecayed(f"{prefix}.{name}", p) and p.ndim > 1
    ]
    momenta: Weights = {}
    worst, moved = 0.0, set[str]()
    ratio = muon_scale(config)
    for n, step in enumerate(run.steps):
        plain = rate_of(config, n)
        own = {name: rate / plain for name, rate in step.rates.items() if plain}
        moved |= {name for name, factor in own.items() if abs(factor / ratio - 1) < 1e-9}
        for name in set(unit_names) & step.gradients.keys():
            gradient, before = step.gradients[name].double(), step.before[name].double()
            momenta[name] = MOMENTUM * momenta.get(name, torch.zeros_like(gradient)) + gradient
            matrix = (gradient + MOMENTUM * momenta[name]).flatten(1)
            update, blur = _orthogonal(matrix)
            rows, columns = matrix.shape
            lr = step.rates[name]
            size = lr * math.sqrt(max(1.0, rows / columns))
            expected = (1 - lr * step.decays[name]) * before - size * update.view(before.shape)
            allowed = size * blur + 4 * FLOAT * float(before.abs().max())
            gap = float((step.after[name].double() - expected).abs().max()) / allowed
            worst = math.inf if math.isnan(gap) else max(worst, gap)
    return all_of(
        at_most("largest difference, of what rounding allows", worst, 1.0),
        none("no matrix of a block, at Muon's rate", sorted(moved - set(unit_names))),
        none("matrices at another rate", sorted(set(unit_names) - moved)),
        equal("updates", len(run.steps), config.train.steps),
    )


def _orthogonal(matrix: Tensor) -> tuple[Tensor, float]:
    """``U p(σ) Vᵀ``: the polynomial of each singular value; and how far rounding can move it.

    Near 0 the polynomials are steep: what is rounding in a gradient of few directions is enlarged.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / (matrix.norm() + 1e-7)
    for _ in range(ITERATIONS):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    steep = 3.4445**ITERATIONS
    return left @ (values[:, None] * right), 16 * FLOAT * steep * math.sqrt(len(values))
