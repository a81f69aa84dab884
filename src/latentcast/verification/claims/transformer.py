"""Blocks, norms, gains, MLP and patch embedding, against plain products in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.nn.blocks import LayerScale, QKNorm
from latentcast.nn.hierarchy import Tokens
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.network import (
    EXACT,
    BlockPass,
    block_passes,
    corners,
    evaluated,
    finest,
    furthest,
    naive_norm,
    naive_patches,
    naive_product,
    passes_of,
    real,
    stirred,
    window,
    within,
    worst_of,
)
from latentcast.verification.observe.twin import Twin


def _pre_norm(twin: Twin) -> Evidence:
    def gap(seen: BlockPass) -> float:
        first, second = seen.block.norm1, seen.block.norm2
        x = seen.before.double()
        attended = naive_norm(x, first.weight, first.bias, first.eps)
        between = x + seen.branches[0]
        mixed = naive_norm(between, second.weight, second.bias, second.eps)
        return max(furthest(seen.into["attention"], attended), furthest(seen.into["mlp"], mixed))

    return worst_of(passes_of(twin), gap)


def _residual(twin: Twin) -> Evidence:
    return worst_of(
        passes_of(twin), lambda seen: furthest(seen.after, seen.before + sum(seen.branches))
    )


def _mlp(twin: Twin) -> Evidence:
    name = twin.config.encoder.activation

    def gap(seen: BlockPass) -> float:
        mlp, x = seen.block.mlp, seen.into["mlp"]
        hidden = naive_product(x, mlp.up.weight, mlp.up.bias)
        if mlp.gate is None:
            hidden = _activated(name, hidden)
        else:
            hidden = _activated(name, naive_product(x, mlp.gate.weight, mlp.gate.bias)) * hidden
        out = naive_product(hidden, mlp.down.weight, mlp.down.bias)
        return furthest(seen.out["mlp"], out)

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


@torch.no_grad()
def _stack(twin: Twin) -> Evidence:
    """From embedding to norm: what each block reads, and that what is returned is what was made."""
    objective = stirred(twin.objective(), twin.seed)
    inputs, encoder = real(twin), finest(objective)
    embedding, states = encoder.embed(inputs.values), list[Tensor]()
    size = tuple(inputs.values.shape[2:])
    found = block_passes(encoder, lambda: states.extend(encoder.layers(embedding, size)))
    depth = twin.config.encoder.depth
    if not len(states) == depth + 2 == len(found) + 2:
        return within({"states, from depth + 2": (abs(len(states) - depth - 2), 0.0),
                       "blocks run, from depth": (abs(len(found) - depth), 0.0)})  # fmt: skip
    told = {"first state, from the embedding": (furthest(states[0], embedding), 0.0)}
    for n, seen in enumerate(found):
        gap = max(furthest(seen.before, states[n]), furthest(seen.after, states[n + 1]))
        told[f"block {n + 1}, from its states"] = (gap, 0.0)
    told["last state, from the norm"] = (furthest(states[-1], _normed(encoder.norm, states[-2])),
                                         EXACT)  # fmt: skip
    if isinstance(objective, Jepa):
        _follow_levels(objective, inputs, told)
    return within(told)


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, nn.LayerNorm)
    return naive_norm(x, norm.weight, norm.bias, norm.eps)


def _follow_levels(objective: Jepa, inputs: Inputs, told: dict[str, tuple[float, float]]) -> None:
    """The same of coarser levels and predictors, in a step of the objective."""
    stacks = {f"student.coarser.{n}": m for n, m in enumerate(objective.student.coarser)}
    stacks |= {f"predictors.{n}": m for n, m in enumerate(objective.predictors)}
    tokens: list[list[Tensor]] = []

    def keep(module: nn.Module, args: object, out: object) -> None:
        said = out.values if isinstance(out, Tokens) else out
        assert isinstance(said, Tensor)
        tokens[list(stacks.values()).index(module)].append(said)

    tokens.extend([] for _ in stacks)
    handles = [module.register_forward_hook(keep) for module in stacks.values()]
    found = evaluated(objective, inputs)
    for handle in handles:
        handle.remove()
    for (name, module), outs in zip(stacks.items(), tokens, strict=True):
        own = [seen for seen in found if seen.name.startswith(f"{name}.")]
        if not own:  # a level without blocks
            continue
        gaps = [furthest(after.before, before.after) for before, after in pairwise(own)]
        told[f"{name}, one block after the other"] = (max([0.0, *gaps]), 0.0)
        out, expected = outs[0], _normed(module.get_submodule("norm"), own[-1].after)
        if name.startswith("predictors"):
            proj, asks = module.get_submodule("proj"), out.shape[2]
            assert isinstance(proj, nn.Linear)
            expected = naive_product(expected[:, -asks:], proj.weight, proj.bias).view_as(out)
        told[f"{name}, from the norm"] = (furthest(out, expected), EXACT)


def _epsilon(twin: Twin) -> Evidence:
    """A norm halves the mean square of what has a variance of epsilon: which epsilon is that?"""
    objective, expected = twin.objective().double(), twin.config.encoder.norm_eps
    worst, count, seen = 0.0, 0, expected
    for module in objective.modules():
        if not isinstance(module, nn.LayerNorm | QKNorm):
            continue
        width = module.head if isinstance(module, QKNorm) else module.normalized_shape[0]
        x = torch.ones(1, 1, width, dtype=torch.float64)
        x[..., ::2] = -1
        with torch.no_grad():
            square = float(module(x * math.sqrt(expected)).square().mean())
        measured = expected * (1 / square - 1) if square > 0 else math.inf
        if abs(measured / expected - 1) >= worst:
            worst, seen = abs(measured / expected - 1), measured
        count += 1
    told = {"relative difference": (worst, 1e-6)}
    return within(told, measured=seen, expected=expected, norms=count)


def _scale_initial(twin: Twin) -> Evidence:
    value = twin.recipe.encoder.layer_scale
    assert value is not None
    gaps, blocks = 0.0, 0
    passed = block_passes(
        objective := twin.objective(), lambda: objective(twin.inputs(), None)
    )
    for seen in passed:
        blocks += 1
        for scale in (seen.block.scale1, seen.block.scale2):
            if not isinstance(scale, LayerScale):
                return within({f"{seen.name}: branches without a gain": (1.0, 0.0)})
            gaps = max(gaps, float((scale.gain.detach() / value - 1).abs().max()))
        # And it is what the branch is multiplied with: against the branch as if its gain were 1.
        plain = seen.out["attention"] + seen.out["mlp"]
        change = (seen.after.double() - seen.before.double()).norm() / plain.double().norm()
        gaps = max(gaps, abs(float(change) / value - 1) - 0.05)
    return within({"relative difference": (gaps, 1e-6)}, blocks=blocks, value=value)


def _scale_place(twin: Twin) -> Evidence:
    """With gains of 0 a block is the identity, with one of them 0 it is the other branch."""
    told: dict[str, tuple[float, float]] = {}
    for name, first, second in (("both 0", 0, 0), ("first alone", 1, 0), ("second alone", 0, 1)):
        objective = stirred(twin.objective(), twin.seed)
        gains = torch.Generator().manual_seed(1)
        for part, on in (("scale1", first), ("scale2", second)):
            for module_name, module in objective.named_modules():
                if module_name.endswith(part) and isinstance(module, LayerScale):
                    drawn = torch.randn(len(module.gain), generator=gains, dtype=torch.float64)
                    module.gain.data.copy_(drawn * on)
        gaps = []
        for seen in evaluated(objective, real(twin, 2)):
            parts = seen.branches
            expected = seen.before + first * parts[0] + second * parts[1]
            gaps.append(furthest(seen.after, expected))
        told[name] = (max(gaps), 0.0 if name == "both 0" else EXACT)
    return within(told)


# -- patches ----------------------------------------------------------------------------------


@torch.no_grad()
def _patches(twin: Twin) -> Evidence:
    encoder = finest(stirred(twin.objective(), twin.seed))
    values = real(twin).values
    expected = naive_patches(encoder.patches, values)
    return within({"largest difference": (furthest(encoder.patches(values), expected), EXACT)},
                  patches=expected.shape[1])  # fmt: skip


@torch.no_grad()
def _patch_order(twin: Twin) -> Evidence:
    """Sample n has patch n changed, row-major: token n alone may differ, after the prefix."""
    encoder = finest(stirred(twin.objective(), twin.seed))
    size, patch = twin.config.input.size, twin.config.encoder.patch
    places = corners(size, patch)
    values = real(twin, 1).values.expand(len(places), *[-1] * (1 + len(size))).clone()
    was = encoder.embed(values)
    for sample, corner in enumerate(places):
        window(values[sample], corner, patch).add_(1.0)
    changed = (encoder.embed(values) - was).abs().amax(-1) > 0
    wrong = int((changed[:, encoder.prefix :] != torch.eye(len(places), dtype=torch.bool)).sum())
    before = int(changed[:, : encoder.prefix].sum())
    return within({"tokens that answer for another patch": (wrong + before, 0)},
                  patches=len(places))  # fmt: skip


def _layer_scale(twin: Twin) -> bool:
    return twin.config.encoder.layer_scale is not None


REFERENCE = "NEPA and I-JEPA reference code"
NEPA = "NEPA reference code, block"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "block.pre-norm", "Attention and MLP read the norm of the residual stream.",
        REFERENCE, _pre_norm,
    ),
    Claim(
        "block.residual", "A block adds its two branches to what it was given.",
        REFERENCE, _residual,
    ),
    Claim("mlp.product", "The MLP is down(act(up(x))) with biases.", REFERENCE, _mlp),
    Claim(
        "encoder.stack", "Blocks follow each other, and a norm follows the last.",
        REFERENCE, _stack,
    ),
    Claim("norm.epsilon", "Every norm adds its configured epsilon.", REFERENCE, _epsilon),
    Claim(
        "layer-scale.initial", "The gains of both branches begin at their configured value.",
        NEPA, _scale_initial, _layer_scale,
    ),
    Claim(
        "layer-scale.place", "The gains multiply both branches and nothing else.",
        NEPA, _scale_place, _layer_scale,
    ),
    Claim(
        "patches.product", "A patch's embedding is its values times the weights, plus the bias.",
        REFERENCE, _patches,
    ),
    Claim(
        "patches.order", "Token n is patch n, row-major, and knows no other.",
        REFERENCE, _patch_order,
    ),
)  # fmt: skip
