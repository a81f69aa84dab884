"""Fixed sine-cosine positions of encoder, levels and predictors, as their first blocks get them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentcast.config import SinCos
from latentcast.nn.hierarchy import Hierarchy, Level
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.network import (
    EXACT,
    finest,
    furthest,
    naive_patches,
    outputs_of,
    real,
    stirred,
    within,
)
from latentcast.verification.observe.rotary import Grid, is_jepa, sizes, strides, vector
from latentcast.verification.observe.twin import Twin


def naive_sincos(grid: Grid, width: int) -> Tensor:
    """I-JEPA's formula, number by number: the last axis has the first share of the channels."""
    pairs = width // (2 * len(grid))
    cells: list[Grid] = [()]
    for extent in grid:
        cells = [(*cell, n) for cell in cells for n in range(extent)]
    rows = []
    for cell in cells:
        row: list[float] = []
        for index in reversed(cell):
            angles = [index * 10000.0 ** (-k / pairs) for k in range(pairs)]
            row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@torch.no_grad()
def _sincos_encoder(twin: Twin) -> Evidence:
    objective = stirred(twin.objective(), twin.seed)
    encoder, told = finest(objective), {}
    for size in sizes(twin):
        generator = torch.Generator().manual_seed(1)
        channels = twin.config.input.channels
        values = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
        added = encoder.embed(values)[:, encoder.prefix :] - naive_patches(encoder.patches, values)
        grid = tuple(n // encoder.patches.patch for n in size)
        expected = naive_sincos(grid, encoder.config.width).expand_as(added)
        told[f"difference on {grid}"] = (furthest(added, expected), EXACT)
    return within(told)


@torch.no_grad()
def _sincos_levels(twin: Twin) -> Evidence:
    objective = stirred(twin.objective(), twin.seed)
    encoder, told = objective.encoder("student"), {}
    assert isinstance(encoder, Hierarchy)
    values = real(twin).values
    grids = encoder.grids(tuple(values.shape[2:]))
    for number, level in enumerate(encoder.coarser, start=1):
        assert isinstance(level, Level)
        first = level.blocks[0] if len(level.blocks) else level.norm
        entered: list[Tensor] = []
        handle = first.register_forward_pre_hook(
            lambda module, args, entered=entered: entered.append(args[0])
        )
        with outputs_of(level.merge) as (merged,):
            encoder(values)
        handle.remove()
        expected = naive_sincos(grids[number], level.config.width).expand_as(merged[0])
        gap = furthest(entered[0] - merged[0], expected)
        told[f"level {number}, difference on {grids[number]}"] = (gap, EXACT)
    return within(told)


@torch.no_grad()
def _sincos_predictor(twin: Twin) -> Evidence:
    """What the first block of each predictor gets, less what was embedded there."""
    objective = stirred(twin.objective(), twin.seed)
    assert isinstance(objective, Jepa)
    grids = objective.student.grids(twin.config.input.size)
    told = {}
    for n, grid in enumerate(grids):
        predictor, count = objective.predictors[n], math.prod(grid)
        width = objective.student.widths[n]
        places = torch.randperm(count, generator=torch.Generator().manual_seed(n))
        known, asked = places[: max(1, count // 3)], places[max(1, count // 3) :]
        entered: list[Tensor] = []
        first = predictor.get_submodule("blocks.0")
        handle = first.register_forward_pre_hook(
            lambda module, args, entered=entered: entered.append(args[0])
        )
        with outputs_of(predictor.get_submodule("embed")) as (embedded,):
            context = vector(width, n).expand(1, len(known), -1)
            predictor(context, known.unsqueeze(0), asked.view(1, 1, -1), grid)
        handle.remove()
        rows, positions = entered[0][0], naive_sincos(grid, embedded[0].shape[-1])
        token = predictor.get_parameter("mask_token").detach()[0]
        gap = furthest(rows[: len(known)] - embedded[0][0], positions[known])
        told[f"level {n}, context"] = (gap, EXACT)
        told[f"level {n}, queries"] = (
            furthest(rows[len(known) :] - token, positions[asked]),
            EXACT,
        )
    return within(told)


def _is_sincos(twin: Twin) -> bool:
    return isinstance(twin.config.encoder.positions, SinCos)


IJEPA = "I-JEPA reference code, vision_transformer.py"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "sincos.encoder", "Patches get I-JEPA's fixed sine-cosine positions, columns first.",
        IJEPA, _sincos_encoder, _is_sincos,
    ),
    Claim(
        "sincos.levels", "Cells of a coarser level get the positions of their own grid.",
        "our design", _sincos_levels,
        lambda s: _is_sincos(s) and strides(s) > 1,
    ),
    Claim(
        "sincos.predictor", "Context and queries of a predictor get the positions of their places.",
        IJEPA, _sincos_predictor, is_jepa,
    ),
)  # fmt: skip
