"""Fixed sine-cosine positions of encoder, levels and predictors, as their first blocks get them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentcast.config import SinCos
from latentcast.nn.hierarchy import Hierarchy, Level
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most
from latentcast.verification.observe.config import has_transformer, transformer_of
from latentcast.verification.observe.jepa import is_jepa
from latentcast.verification.observe.network import (
    EXACT,
    finest,
    furthest,
    inputs_of,
    naive_patches,
    outputs_of,
    real,
    stirred,
)
from latentcast.verification.observe.rotary import Grid, sizes, strides, vector
from latentcast.verification.observe.twin import Twin
from latentcast.verification.parity import plain_ijepa

NEEDS = has_transformer

IJEPA = "I-JEPA reference code, vision_transformer.py"


def naive_sincos(grid: Grid, width: int, rows: int | None, network: nn.Module) -> Tensor:
    """Of every cell of a grid, number by number; of leads × time those of the time, and what the
    network has for the lead."""
    if rows is not None:
        grid = grid[1:]
    cells = torch.arange(math.prod(grid))
    fixed = plain_ijepa.sincos(cells, grid, width, torch.zeros(0).double())
    if rows is None:
        return fixed
    own = dict(network.named_parameters()).get("leads.weight", torch.zeros(rows, width))
    return torch.cat([fixed + lead.detach().double() for lead in own])


def _is_sincos(twin: Twin) -> bool:
    return isinstance(transformer_of(twin.config).positions, SinCos)


@claim("sincos.encoder", "Patches get I-JEPA's fixed sine-cosine positions, columns first.",
       source=IJEPA, about=_is_sincos)  # fmt: skip
@torch.no_grad()
def encoder_positions(twin: Twin) -> Evidence:
    objective = stirred(twin.objective(), twin.seed)
    encoder, parts = finest(objective), list[Evidence]()
    for size in sizes(twin):
        generator = torch.Generator().manual_seed(1)
        channels = twin.config.input.channels
        values = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
        added = encoder.embed(values)[:, encoder.prefix :] - naive_patches(encoder.patches, values)
        grid = encoder.patches.grid(size)
        rows, width = encoder.lead_rows, encoder.config.width
        expected = naive_sincos(grid, width, rows, encoder).expand_as(added)
        parts.append(at_most(f"difference on {grid}", furthest(added, expected), EXACT))
    return all_of(*parts)


@claim("sincos.levels", "Cells of a coarser level get the positions of their own grid.",
       source="our design", about=lambda twin: _is_sincos(twin) and strides(twin) > 1)  # fmt: skip
@torch.no_grad()
def level_positions(twin: Twin) -> Evidence:
    encoder = stirred(twin.objective(), twin.seed).encoder("student")
    assert isinstance(encoder, Hierarchy)
    values, parts = real(twin).values, list[Evidence]()
    grids = encoder.grids(tuple(values.shape[2:]))
    for number, level in enumerate(encoder.coarser, start=1):
        assert isinstance(level, Level)
        first = level.blocks[0] if len(level.blocks) else level.norm
        with inputs_of(first) as entered, outputs_of(level.merge) as (merged,):
            encoder(values)
        width, rows = level.config.width, encoder.rows[number]
        expected = naive_sincos(grids[number], width, rows, level).expand_as(merged[0])
        name = f"level {number}, difference on {grids[number]}"
        parts.append(at_most(name, furthest(entered[0] - merged[0], expected), EXACT))
    return all_of(*parts)


@claim("sincos.predictor", "Context and queries of a predictor get the positions of their places.",
       source=IJEPA, about=is_jepa)  # fmt: skip
@torch.no_grad()
def predictor_positions(twin: Twin) -> Evidence:
    """What the first block of each predictor reads, less what was embedded there."""
    objective = stirred(twin.objective(), twin.seed)
    assert isinstance(objective, Jepa)
    parts = []
    for n, grid in enumerate(objective.student.grids(twin.config.input.size)):
        predictor, count = objective.predictors[n], math.prod(grid)
        places = torch.randperm(count, generator=torch.Generator().manual_seed(n))
        context, queries = places.tensor_split([max(1, count // 3)])
        values = vector(objective.student.widths[n], n).expand(1, len(context), -1)
        first, embed = (predictor.get_submodule(name) for name in ("blocks.0", "embed"))
        with inputs_of(first) as entered, outputs_of(embed) as (outputs,):
            predictor(values, context.unsqueeze(0), queries.view(1, 1, -1), grid)
        rows, embedded = entered[0][0], outputs[0][0]
        rows_of_leads = objective.student.rows[n]
        positions = naive_sincos(grid, embedded.shape[-1], rows_of_leads, predictor)
        token = predictor.get_parameter("mask_token").detach()[0]
        gaps = {
            "context": furthest(rows[: len(context)] - embedded, positions[context]),
            "queries": furthest(rows[len(context) :] - token, positions[queries]),
        }
        parts += [at_most(f"level {n}, {name}", gap, EXACT) for name, gap in gaps.items()]
    return all_of(*parts)
