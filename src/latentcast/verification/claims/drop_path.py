"""Drop-path: which samples keep which branch, measured from what blocks add to their input."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.network import (
    EXACT,
    block_passes,
    finest,
    real,
    stirred,
    within,
)
from latentcast.verification.observe.twin import Twin

RATE = 0.3
SAMPLES = 512


@torch.no_grad()
def kept_shares(
    twin: Twin, rate: float | None, step: int, ids: Tensor, trains: bool = True
) -> tuple[Tensor, float]:
    """By what factor each branch of each block went into the sum, for each sample.

    Args:
        rate: of drop-path; None leaves the recipe's.
        trains: with the randomness of a step; else evaluation, the modules in training mode still.

    Returns:
        factors ``(blocks, 2, samples)``, attention first, and how far what was added is from the
        branches times these factors.
    """
    changes = {} if rate is None else {"encoder.drop_path": rate}
    objective = stirred(twin.objective(changes), twin.seed)
    encoder = finest(objective).train()
    axes, patch = len(twin.config.input.size), twin.config.encoder.patch
    size = (2 * patch,) * axes
    generator = torch.Generator().manual_seed(step)
    tokens, width = encoder.prefix + 2**axes, twin.config.encoder.width
    x = torch.randn(len(ids), tokens, width, generator=generator, dtype=torch.float64)
    draw = Draw(twin.seed, step, ids) if trains else None
    rows, rest = [], 0.0
    for seen in block_passes(encoder, lambda: encoder.transform(x, size, draw)):
        first, second = (branch.flatten(1) for branch in seen.branches)
        added = (seen.after - seen.before).flatten(1)
        # Least squares in two unknowns a sample: added = f1 · first + f2 · second.
        a, b, c = (first * first).sum(1), (first * second).sum(1), (second * second).sum(1)
        p, q = (added * first).sum(1), (added * second).sum(1)
        determinant = a * c - b * b
        factors = torch.stack([(p * c - q * b) / determinant, (q * a - p * b) / determinant])
        remains = added - factors[0, :, None] * first - factors[1, :, None] * second
        rest = max(rest, float(remains.abs().max() / first.abs().max()))
        rows.append(factors)
    return torch.stack(rows), rest


def _rates(twin: Twin, rate: float) -> list[float]:
    depth = twin.config.encoder.depth
    return [rate * index / max(1, depth - 1) for index in range(depth)]


def _active(twin: Twin) -> Evidence:
    """The share of samples dropped, in two steps, against the rate; 5 standard deviations."""
    told: dict[str, tuple[float, float]] = {}
    ids = torch.arange(SAMPLES)
    rounds = [kept_shares(twin, RATE, step, ids)[0] for step in (0, 1)]
    dropped = (torch.cat(rounds, dim=-1).abs() < 0.5).double().mean(-1)
    for index, rate in enumerate(_rates(twin, RATE)):
        off = 5 * math.sqrt(rate * (1 - rate) / (2 * SAMPLES))
        for branch, share in zip(("attention", "MLP"), dropped[index], strict=True):
            told[f"block {index + 1}, {branch}: dropped, from {rate:.2f}"] = (
                abs(float(share) - rate), off
            )  # fmt: skip
    shipped = twin.config.encoder.drop_path
    factors, _ = kept_shares(twin, None, 0, torch.arange(64))
    if shipped == 0:
        told["as shipped, without drop-path: from 1"] = (float((factors - 1).abs().max()), EXACT)
    return within(told)


def _whole(twin: Twin) -> Evidence:
    factors, rest = kept_shares(twin, RATE, 0, torch.arange(SAMPLES))
    worst = 0.0
    for own, rate in zip(factors, _rates(twin, RATE), strict=True):
        nearest = torch.minimum(own.abs(), (own - 1 / (1 - rate)).abs())
        worst = max(worst, float(nearest.max()))
    means = factors.mean(-1)
    return within(
        {"factors, from 0 or 1 / (1 - rate)": (worst, 1e-6), "not whole samples": (rest, EXACT)},
        **{"mean factor of the last block": float(means[-1].mean())},
    )


def _independent(twin: Twin) -> Evidence:
    """Correlations of who is dropped: between branches, blocks and steps; and among samples."""
    ids = torch.arange(SAMPLES)
    rounds = [kept_shares(twin, RATE, step, ids)[0] for step in (0, 1)]
    rows = torch.stack(rounds).abs() > 0.5
    dropping = [index for index, rate in enumerate(_rates(twin, RATE)) if rate > 0]
    flags = rows[:, dropping].flatten(0, 2).double()
    centred = flags - flags.mean(-1, keepdim=True)
    spread = centred.norm(dim=-1)
    matrix = centred @ centred.T / (spread[:, None] * spread[None, :]).clamp(min=1e-30)
    most = float((matrix - torch.eye(len(matrix), dtype=matrix.dtype)).abs().max())
    follows = (centred[:, 1:] * centred[:, :-1]).sum(-1) / spread.square().clamp(min=1e-30)
    neighbours, bound = float(follows.abs().max()), 5.5 / math.sqrt(SAMPLES)
    rarer = torch.minimum(flags.mean(-1), 1 - flags.mean(-1))
    return within(
        {
            "largest correlation of two branches, blocks or steps": (most, bound),
            "largest correlation of neighbouring samples": (neighbours, bound),
        },
        {"least share of the rarer": (float(rarer.min()), 0.02)},
    )


def _pieces(twin: Twin) -> Evidence:
    """A sample is dropped in a micro-batch where it is dropped in the whole batch."""
    ids = torch.arange(48)
    whole, _ = kept_shares(twin, RATE, 3, ids)
    worst = 0.0
    for piece in (slice(0, 16), slice(16, 48)):
        own, _ = kept_shares(twin, RATE, 3, ids[piece])
        worst = max(worst, float((own - whole[:, :, piece]).abs().max()))
    dropped = float((whole.abs() < 0.5).double().mean())
    return within({"largest difference of a factor": (worst, 1e-6)}, **{"share dropped": dropped})


def _evaluation(twin: Twin) -> Evidence:
    factors, _ = kept_shares(twin, RATE, 0, torch.arange(64), trains=False)
    return within({"factors, from 1": (float((factors - 1).abs().max()), EXACT)})


def _wired(twin: Twin) -> Evidence:
    """Through the objective: a training step's loss is another than evaluation's, and steps differ;
    the blocks of a predictor and of a teacher drop nothing."""
    objective = stirred(twin.objective({"encoder.drop_path": 0.5}), twin.seed)
    inputs, losses = real(twin), []
    ids = torch.arange(len(inputs.values))
    changed, still = 0, 0.0
    for step in range(4):
        draw = Draw(twin.seed, step, ids)
        for seen in block_passes(
            objective,
            lambda draw=draw: losses.append(  # type: ignore[misc]
                float(objective(inputs, draw).loss)
            ),
        ):
            off = float((seen.after - seen.before - sum(seen.branches)).abs().max())
            if seen.name.startswith("student"):
                changed += off > 1e-6
            else:
                still = max(still, off)
    return within({"predictor and teacher: what was dropped": (still, EXACT)},
                  {"student: blocks that dropped, of four steps": (changed, 1)},
                  losses=str([round(loss, 4) for loss in losses]))  # fmt: skip


SOURCE = "Huang et al. 2016; NEPA reference code"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "drop-path.active",
        "Drop-path drops what it says, with LayerScale and without, linear in depth from 0.",
        "H-JEPA defect D18; " + SOURCE, _active,
    ),
    Claim(
        "drop-path.whole-samples",
        "A branch is dropped for a whole sample, and where kept divided by the share kept.",
        SOURCE, _whole,
    ),
    Claim(
        "drop-path.independent",
        "Samples, branches, blocks and steps are dropped independently of each other.",
        SOURCE, _independent,
    ),
    Claim(
        "drop-path.micro-batches", "Micro-batches drop what the whole batch would.",
        "our design, law 1", _pieces,
    ),
    Claim(
        "drop-path.wired",
        "A training step of the objective drops branches of the student, of nothing else.",
        "H-JEPA defect D18", _wired,
    ),
    Claim(
        "drop-path.evaluation", "Evaluation drops nothing, in training mode neither.",
        "H-JEPA defect D18", _evaluation,
    ),
)  # fmt: skip
