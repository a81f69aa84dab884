"""Drop-path: which samples keep which branch, measured from what blocks add to their input."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, greatest
from latentcast.verification.observe.config import has_transformer, transformer_of
from latentcast.verification.observe.network import EXACT, block_passes, finest, real, stirred
from latentcast.verification.observe.twin import Twin

NEEDS = has_transformer

SOURCE = "Huang et al. 2016; NEPA reference code"
RATE = 0.3
SAMPLES = 512


@torch.no_grad()
def branch_factors(
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
    tokens = encoder.prefix + 2**axes * (twin.config.input.lead_rows or 1)
    width = twin.config.encoder.width
    x = torch.randn(len(ids), tokens, width, generator=generator, dtype=torch.float64)
    draw = Draw(twin.seed, step, ids) if trains else None
    rows, rest = [], 0.0
    for block in block_passes(encoder, lambda: encoder.transform(x, size, draw)):
        first, second = (branch.flatten(1) for branch in block.branches)
        added = (block.after - block.before).flatten(1)
        # Least squares in two unknowns a sample: added = f1 · first + f2 · second.
        a, b, c = (first * first).sum(1), (first * second).sum(1), (second * second).sum(1)
        p, q = (added * first).sum(1), (added * second).sum(1)
        determinant = a * c - b * b
        factors = torch.stack([(p * c - q * b) / determinant, (q * a - p * b) / determinant])
        remains = added - factors[0, :, None] * first - factors[1, :, None] * second
        rest = greatest(rest, float(remains.abs().max() / first.abs().max()))
        rows.append(factors)
    return torch.stack(rows), rest


def _rates(twin: Twin, rate: float) -> list[float]:
    depth = twin.config.encoder.depth
    return [rate * index / max(1, depth - 1) for index in range(depth)]


@claim("drop-path.active", "Drop-path drops at its rate, with LayerScale and without, linear in "
       "depth from 0.", source=f"H-JEPA defect D18; {SOURCE}")  # fmt: skip
def active(twin: Twin) -> Evidence:
    """The share of samples dropped, in two steps, against the rate; 5 standard deviations."""
    parts, ids = list[Evidence](), torch.arange(SAMPLES)
    rounds = [branch_factors(twin, RATE, step, ids)[0] for step in (0, 1)]
    dropped = (torch.cat(rounds, dim=-1).abs() < 0.5).double().mean(-1)
    for index, rate in enumerate(_rates(twin, RATE)):
        bound = 5 * math.sqrt(rate * (1 - rate) / (2 * SAMPLES))
        for branch, share in zip(("attention", "MLP"), dropped[index], strict=True):
            name = f"block {index + 1}, {branch}: dropped, from {rate:.2f}"
            parts.append(at_most(name, abs(float(share) - rate), bound))
    if transformer_of(twin.config).drop_path == 0:
        factors, _ = branch_factors(twin, None, 0, torch.arange(64))
        gap = float((factors - 1).abs().max())
        parts.append(at_most("as shipped, without drop-path: from 1", gap, EXACT))
    return all_of(*parts)


@claim("drop-path.whole-samples", "A branch is dropped for a sample in full, and where it stays "
       "divided by the share that does.", source=SOURCE)  # fmt: skip
def whole_samples(twin: Twin) -> Evidence:
    factors, rest = branch_factors(twin, RATE, 0, torch.arange(SAMPLES))
    worst = 0.0
    for own, rate in zip(factors, _rates(twin, RATE), strict=True):
        nearest = torch.minimum(own.abs(), (own - 1 / (1 - rate)).abs())
        worst = greatest(worst, float(nearest.max()))
    return all_of(
        at_most("factors, from 0 or 1 / (1 - rate)", worst, 1e-6),
        at_most("not of samples in full", rest, EXACT),
        mean_factor_of_the_last_block=float(factors.mean(-1)[-1].mean()),
    )


@claim("drop-path.independent", "Samples, branches, blocks and steps are dropped independently of "
       "each other.", source=SOURCE)  # fmt: skip
def independent(twin: Twin) -> Evidence:
    """Correlations of who is dropped: between branches, blocks and steps; and among samples."""
    ids = torch.arange(SAMPLES)
    rounds = [branch_factors(twin, RATE, step, ids)[0] for step in (0, 1)]
    rows = torch.stack(rounds).abs() > 0.5
    dropping = [index for index, rate in enumerate(_rates(twin, RATE)) if rate > 0]
    flags = rows[:, dropping].flatten(0, 2).double()
    centred = flags - flags.mean(-1, keepdim=True)
    spread = centred.norm(dim=-1)
    matrix = centred @ centred.T / (spread[:, None] * spread[None, :]).clamp(min=1e-30)
    most = float((matrix - torch.eye(len(matrix), dtype=matrix.dtype)).abs().max())
    follows = (centred[:, 1:] * centred[:, :-1]).sum(-1) / spread.square().clamp(min=1e-30)
    rarer = torch.minimum(flags.mean(-1), 1 - flags.mean(-1))
    bound = 5.5 / math.sqrt(SAMPLES)
    return all_of(
        at_most("largest correlation of two branches, blocks or steps", most, bound),
        at_most("largest correlation of neighbouring samples", float(follows.abs().max()), bound),
        above("least share of the rarer", float(rarer.min()), 0.02),
    )


@claim("drop-path.micro-batches", "Micro-batches drop what the batch in one piece would.",
       source="our design, law 1")  # fmt: skip
def micro_batches(twin: Twin) -> Evidence:
    ids = torch.arange(48)
    batch, _ = branch_factors(twin, RATE, 3, ids)
    worst = 0.0
    for piece in (slice(0, 16), slice(16, 48)):
        own, _ = branch_factors(twin, RATE, 3, ids[piece])
        worst = greatest(worst, float((own - batch[:, :, piece]).abs().max()))
    return all_of(
        at_most("largest difference of a factor", worst, 1e-6),
        share_dropped=float((batch.abs() < 0.5).double().mean()),
    )


@claim("drop-path.wired", "A training step of the objective drops branches of the student, of "
       "nothing else; evaluation drops none, in training mode neither.",
       source="H-JEPA defect D18")  # fmt: skip
def wired(twin: Twin) -> Evidence:
    """The blocks of a predictor and of a teacher drop nothing."""
    objective = stirred(twin.objective({"encoder.drop_path": 0.5}), twin.seed)
    inputs = real(twin)
    ids = torch.arange(len(inputs.values))
    factors, _ = branch_factors(twin, RATE, 0, torch.arange(64), trains=False)
    dropped, still = 0, 0.0
    for step in range(4):
        draw = Draw(twin.seed, step, ids)
        for block in block_passes(objective, partial(objective, inputs, draw)):
            off = float((block.after - block.before - sum(block.branches)).abs().max())
            if "student." in block.name:
                dropped += off > 1e-6
            else:
                still = greatest(still, off)
    return all_of(
        at_most("predictor and teacher: what was dropped", still, EXACT),
        above("student: blocks that dropped, of four steps", dropped, 0),
        at_most("evaluation: factors, from 1", float((factors - 1).abs().max()), EXACT),
    )
