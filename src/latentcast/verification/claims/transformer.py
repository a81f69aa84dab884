"""Blocks, norms, gains, MLP and patch embedding, against plain products in float64."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.nn.blocks import LayerScale, QKNorm
from latentcast.nn.hierarchy import Tokens
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest
from latentcast.verification.observe.config import has_transformer, patch_by_patch, transformer_of
from latentcast.verification.observe.network import (
    EXACT,
    BlockPass,
    block_passes,
    corners,
    evaluated,
    finest,
    furthest,
    measured_epsilon,
    naive_norm,
    naive_patches,
    naive_product,
    outputs_of,
    passes_of,
    real,
    stirred,
    window,
    worst_of,
)
from latentcast.verification.observe.twin import Twin

NEEDS = has_transformer

REFERENCE = "NEPA and I-JEPA reference code"
NEPA = "NEPA reference code, block"


@claim("block.pre-norm", "Attention and MLP read the norm of the residual stream.",
       source=REFERENCE)  # fmt: skip
def pre_norm(twin: Twin) -> Evidence:
    def gap(block: BlockPass) -> float:
        attended = _normed(block.module.norm1, block.before)
        mixed = _normed(block.module.norm2, block.before.double() + block.branches[0])
        return max(furthest(block.into["attention"], attended), furthest(block.into["mlp"], mixed))

    return worst_of(passes_of(twin), gap)


@claim("block.residual", "A block adds its two branches to its input.", source=REFERENCE)
def residual(twin: Twin) -> Evidence:
    return worst_of(
        passes_of(twin), lambda block: furthest(block.after, block.before + sum(block.branches))
    )


@claim("mlp.product", "The MLP is down(act(up(x))) with biases.", source=REFERENCE)
def mlp(twin: Twin) -> Evidence:
    name = transformer_of(twin.config).activation

    def gap(block: BlockPass) -> float:
        mlp, x = block.module.mlp, block.into["mlp"]
        up = naive_product(x, mlp.up.weight, mlp.up.bias)
        gate = None if mlp.gate is None else naive_product(x, mlp.gate.weight, mlp.gate.bias)
        hidden = _activated(name, up) if gate is None else _activated(name, gate) * up
        out = naive_product(hidden, mlp.down.weight, mlp.down.bias)
        return furthest(block.out["mlp"], out)

    return worst_of(passes_of(twin), gap)


def _activated(name: str, x: Tensor) -> Tensor:
    match name:
        case "gelu":
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
        case "gelu_tanh":
            return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        case "relu":
            return x * (x > 0)
        case _:
            return x / (1 + torch.exp(-x))


@claim("encoder.stack", "Blocks follow each other, and a norm follows the last.", source=REFERENCE)
@torch.no_grad()
def stack(twin: Twin) -> Evidence:
    """From embedding to norm: what each block reads, and that what is returned is what was made."""
    objective = stirred(twin.objective(), twin.seed)
    inputs, encoder = real(twin), finest(objective)
    embedding, states = encoder.embed(inputs.values), list[Tensor]()
    size = tuple(inputs.values.shape[2:])
    blocks = block_passes(encoder, lambda: states.extend(encoder.layers(embedding, size)))
    depth = twin.config.encoder.depth
    parts = [equal("states", len(states), depth + 2), equal("blocks run", len(blocks), depth)]
    if not all(part.holds for part in parts):
        return all_of(*parts)
    parts.append(at_most("first state, from the embedding", furthest(states[0], embedding), 0.0))
    for n, block in enumerate(blocks):
        gap = max(furthest(block.before, states[n]), furthest(block.after, states[n + 1]))
        parts.append(at_most(f"block {n + 1}, from its states", gap, 0.0))
    last = furthest(states[-1], _normed(encoder.norm, states[-2]))
    parts.append(at_most("last state, from the norm", last, EXACT))
    if isinstance(objective, Jepa):
        parts += _levels(objective, inputs)
    return all_of(*parts)


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, nn.LayerNorm)
    return naive_norm(x, norm.weight, norm.bias, norm.eps)


def _levels(objective: Jepa, inputs: Inputs) -> list[Evidence]:
    """The same of coarser levels and predictors, in a step of the objective."""
    stacks = {f"student.coarser.{n}": m for n, m in enumerate(objective.student.coarser)}
    stacks |= {f"predictors.{n}": m for n, m in enumerate(objective.predictors)}
    with outputs_of(*stacks.values()) as outputs:
        blocks = evaluated(objective, inputs)
    parts = []
    for (name, module), returned in zip(stacks.items(), outputs, strict=True):
        first: Any = returned[0]
        out: Tensor = first.values if isinstance(first, Tokens) else first
        own = [block for block in blocks if block.name.startswith(f"{name}.")]
        if not own:  # a level without blocks
            continue
        gaps = [furthest(after.before, before.after) for before, after in pairwise(own)]
        parts.append(at_most(f"{name}, one block after the other", max([0.0, *gaps]), 0.0))
        expected = _normed(module.get_submodule("norm"), own[-1].after)
        if name.startswith("predictors"):
            proj, targets = module.get_submodule("proj"), out.shape[2]
            assert isinstance(proj, nn.Linear)
            expected = naive_product(expected[:, -targets:], proj.weight, proj.bias).view_as(out)
        parts.append(at_most(f"{name}, from the norm", furthest(out, expected), EXACT))
    return parts


@claim("norm.epsilon", "Every norm adds its configured epsilon.", source=REFERENCE)
def epsilon(twin: Twin) -> Evidence:
    expected, modules = transformer_of(twin.config).norm_eps, twin.objective().double().modules()
    norms = [module for module in modules if isinstance(module, nn.LayerNorm | QKNorm)]
    found = [measured_epsilon(norm, expected) for norm in norms]
    shown = max(found, key=lambda measured: abs(measured - expected))
    gap = abs(shown / expected - 1)
    return all_of(
        at_most("relative difference", gap, 1e-6),
        measured=shown,
        expected=expected,
        norms=len(norms),
    )


def _has_layer_scale(twin: Twin) -> bool:
    return transformer_of(twin.config).layer_scale is not None


@claim("layer-scale.initial", "The gains of both branches begin at their configured value.",
       source=NEPA, about=_has_layer_scale)  # fmt: skip
def scale_initial(twin: Twin) -> Evidence:
    value = transformer_of(twin.recipe).layer_scale
    assert value is not None
    objective, effects = twin.objective(), 0.0
    blocks = block_passes(objective, lambda: objective(twin.inputs(), None))
    scales = [s for block in blocks for s in (block.module.scale1, block.module.scale2)]
    gains = [scale.gain.detach() for scale in scales if isinstance(scale, LayerScale)]
    gaps = [float((gain / value - 1).abs().max()) for gain in gains]
    for block in blocks:
        # And it is what the branch is multiplied with: against the branch as if its gain were 1.
        plain = block.out["attention"] + block.out["mlp"]
        change = (block.after.double() - block.before.double()).norm() / plain.double().norm()
        effects = greatest(effects, abs(float(change) / value - 1))
    return all_of(
        equal("branches without a gain", len(scales) - len(gains), 0),
        at_most("relative difference of a gain", max(gaps, default=0.0), 1e-6),
        at_most("of what it does to its branch", effects, 0.05),
        blocks=len(blocks), value=value,
    )  # fmt: skip


@claim("layer-scale.place", "The gains multiply both branches and nothing else.",
       source=NEPA, about=_has_layer_scale)  # fmt: skip
def scale_place(twin: Twin) -> Evidence:
    """With gains of 0 a block is the identity, with one of them 0 it is the other branch."""
    parts = []
    for name, first, second in (("both 0", 0, 0), ("first alone", 1, 0), ("second alone", 0, 1)):
        objective = stirred(twin.objective(), twin.seed)
        generator = torch.Generator().manual_seed(1)
        for scale, on in (("scale1", first), ("scale2", second)):
            for module_name, module in objective.named_modules():
                if module_name.endswith(scale) and isinstance(module, LayerScale):
                    drawn = torch.randn(len(module.gain), generator=generator, dtype=torch.float64)
                    module.gain.data.copy_(drawn * on)
        gap = greatest(
            *(
                furthest(
                    block.after,
                    block.before + first * block.branches[0] + second * block.branches[1],
                )
                for block in evaluated(objective, real(twin, 2))
            )
        )
        parts.append(at_most(name, gap, 0.0 if name == "both 0" else EXACT))
    return all_of(*parts)


@claim("patches.product", "A patch's embedding is its values times the weights, plus the bias.",
       source=REFERENCE, about=patch_by_patch)  # fmt: skip
@torch.no_grad()
def patches(twin: Twin) -> Evidence:
    encoder = finest(stirred(twin.objective(), twin.seed))
    values = real(twin).values
    expected = naive_patches(encoder.patches, values)
    gap = furthest(encoder.patches(values), expected)
    return all_of(at_most("largest difference", gap, EXACT), patches=expected.shape[1])


@claim("patches.order", "Token n is patch n, row-major, and of no other.", source=REFERENCE,
       about=patch_by_patch)  # fmt: skip
@torch.no_grad()
def patch_order(twin: Twin) -> Evidence:
    """Sample n has patch n changed, row-major: token n alone may differ, after the prefix."""
    encoder = finest(stirred(twin.objective(), twin.seed))
    size, patch = twin.config.input.size, twin.config.encoder.patch
    leads = twin.config.input.lead_rows
    places = corners(size, patch, leads)
    values = real(twin, 1).values.expand(len(places), *[-1] * (1 + len(size))).clone()
    was = encoder.embed(values)
    for sample, corner in enumerate(places):
        window(values[sample], corner, patch, leads).add_(1.0)
    changed = (encoder.embed(values) - was).abs().amax(-1) > 0
    wrong = int((changed[:, encoder.prefix :] != torch.eye(len(places), dtype=torch.bool)).sum())
    before = int(changed[:, : encoder.prefix].sum())
    return all_of(equal("tokens that answer to another patch", wrong + before, 0),
                  patches=len(places))  # fmt: skip
