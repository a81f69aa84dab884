"""The transformer: products, attention, norms and branches of every block, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.nn.blocks import LayerScale, QKNorm
from latentcast.objectives.base import Objective
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.claims.positions import is_jepa, is_rotary, paired, stacks
from latentcast.verification.observing import (
    EXACT,
    AttentionCall,
    BlockPass,
    attention_calls,
    block_passes,
    corners,
    finest,
    furthest,
    naive_attention,
    naive_norm,
    naive_patches,
    naive_product,
    outputs_of,
    real,
    stirred,
    thirds,
    within,
)
from latentcast.verification.subject import Subject


def _passes(subject: Subject) -> list[BlockPass]:
    """Every block of the stirred objective, teacher and predictors included, on real inputs."""
    objective = stirred(subject.objective(), subject.seed)
    return _run(objective, real(subject))


def _run(objective: Objective, inputs: Inputs) -> list[BlockPass]:
    found = block_passes(objective, lambda: objective(inputs, None))
    if not found:
        raise ValueError("no block was run")
    return found


def _worst(found: list[BlockPass], gap: Callable[[BlockPass], float]) -> Evidence:
    gaps = {seen.name: gap(seen) for seen in found}
    name = max(gaps, key=lambda n: math.inf if math.isnan(gaps[n]) else gaps[n])
    return within({"largest difference": (gaps[name], EXACT)}, where=name, blocks=len(gaps))


def _call(seen: BlockPass) -> AttentionCall:
    if seen.call is None:
        raise ValueError(f"{seen.name}: computed no attention")
    return seen.call


def _in_predictor(seen: BlockPass) -> bool:
    return seen.name.startswith("predictors")


# -- attention --------------------------------------------------------------------------------


def _projections(subject: Subject) -> Evidence:
    turned = is_rotary(subject)

    def gap(seen: BlockPass) -> float:
        attention, call = seen.block.attention, _call(seen)
        packed = naive_product(seen.into["attention"], attention.qkv.weight, attention.qkv.bias)
        q, k, v = thirds(packed, attention.heads)
        gaps = [furthest(seen.out["attention.qkv"], packed), furthest(call.v, v)]
        if not subject.config.encoder.qk_norm and (not turned or _in_predictor(seen)):
            gaps += [furthest(call.q, q), furthest(call.k, k)]
        joined = torch.cat([call.out[:, h] for h in range(attention.heads)], dim=-1)
        mixed = naive_product(joined, attention.proj.weight, attention.proj.bias)
        return max(*gaps, furthest(seen.out["attention"], mixed))

    return _worst(_passes(subject), gap)


@torch.no_grad()
def _bias(subject: Subject) -> Evidence:
    """Adding to a bias has to change q, k and v, each."""
    told: dict[str, tuple[float, float]] = {}
    for seen in _passes(subject):
        attention, x, least = seen.block.attention, seen.into["attention"][:1], 0.0
        bias = attention.qkv.bias
        if isinstance(bias, Tensor):
            with attention_calls() as calls:
                attention(x)
                bias += torch.linspace(1, 2, len(bias), dtype=bias.dtype)
                attention(x)
            was, now = calls
            pairs = ((now.q, was.q), (now.k, was.k), (now.v, was.v))
            least = min(furthest(*pair) for pair in pairs)
        told[f"{seen.name}: least change"] = (least, 1e-6)
    return within({}, told)


def _softmax(subject: Subject) -> Evidence:
    causal = subject.config.encoder.causal

    def gap(seen: BlockPass) -> float:
        call = _call(seen)
        return furthest(call.out, naive_attention(call, causal and not _in_predictor(seen)))

    return _worst(_passes(subject), gap)


def _qk_norm_unit(subject: Subject) -> Evidence:
    """The mean square of each head of each token, with the affine part at 1 and 0."""
    objective = stirred(subject.objective(), subject.seed)
    for module in objective.modules():
        if isinstance(module, QKNorm):
            for name, parameter in module.named_parameters():
                parameter.data.fill_(1.0 if name == "weight" else 0.0)

    def gap(seen: BlockPass) -> float:
        call = _call(seen)
        return max(float((x.square().mean(-1) - 1).abs().max()) for x in (call.q, call.k))

    found = _run(objective, real(subject))
    gaps = {seen.name: gap(seen) for seen in found}
    name = max(gaps, key=lambda n: gaps[n])
    # (variance of an already tiny head + 1e-12) is what keeps it from 1 exactly.
    return within({"mean square of a head, from 1": (gaps[name], 1e-5)}, where=name)


@torch.no_grad()
def _qk_norm_order(subject: Subject) -> Evidence:
    """q and k are the rotated norm, and not the norm of what was rotated."""
    objective = stirred(subject.objective(), subject.seed)
    right, wrong = 0.0, math.inf
    for stack in stacks(objective, subject.config.input.size):
        products = [block.get_submodule("attention.qkv") for block in stack.blocks]
        with attention_calls() as calls, outputs_of(*products) as packed:
            stack.run(None)
        turns = stack.turns()
        for block, call, raw in zip(stack.blocks, calls, packed, strict=True):
            plain = thirds(raw[0].double(), stack.config.heads)
            norms = (block.get_submodule("attention.q_norm"),
                     block.get_submodule("attention.k_norm"))  # fmt: skip
            for x, own, norm in zip((call.q, call.k), plain, norms, strict=False):
                weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
                shape = (weight, bias, subject.config.encoder.norm_eps)
                seen, own = x[:, :, stack.prefix :], own[:, :, stack.prefix :]
                expected = paired(naive_norm(own, *shape)) * turns
                late = paired(naive_norm(_unpaired(paired(own) * turns), *shape))
                right = max(right, float((paired(seen) - expected).abs().max()))
                wrong = min(wrong, float((paired(seen) - late).abs().max()))
    return within({"difference from norm, then rotation": (right, 5e-5)},
                  {"difference from rotation, then norm": (wrong, 1e-3)})  # fmt: skip


def _unpaired(z: Tensor) -> Tensor:
    return torch.cat([z.real, z.imag], dim=-1).unsqueeze(0)


def _both_directions(subject: Subject) -> Evidence:
    """Every patch reaches the output of every other: sample t has patch t changed."""
    encoder = finest(stirred(subject.objective(), subject.seed))
    size, patch = subject.config.input.size, subject.config.encoder.patch
    places = corners(size, patch)
    places = places[:: max(1, len(places) // 16)]
    values = real(subject, 1).values.expand(len(places), *[-1] * (1 + len(size))).clone()
    with torch.no_grad():
        was = encoder.transform(encoder.embed(values), size)
        for sample, corner in enumerate(places):
            at = (sample, slice(None), *(slice(c, c + patch) for c in corner))
            values[at] += 1.0
        gap = (encoder.transform(encoder.embed(values), size) - was).abs().amax(-1)
    return within({}, {"least change of any output by any patch": (float(gap.min()), 1e-9)})


def _padding(subject: Subject) -> Evidence:
    """What was not measured changes: nothing that was measured may notice."""
    objective = stirred(subject.objective(), subject.seed, wide=False)
    assert isinstance(objective, Jepa)
    size, patch = subject.config.input.size, subject.config.encoder.patch
    values = real(subject, 4).values.float()
    places = corners(size, patch)
    gone = torch.rand(4, len(places), generator=torch.Generator().manual_seed(2)) < 0.3
    gone[3] = True  # nothing at all is measured of the last
    valid, other = torch.ones_like(values, dtype=torch.bool), values.clone()
    for sample in range(4):
        for number, corner in enumerate(places):
            if gone[sample, number]:
                at = (sample, slice(None), *(slice(c, c + patch) for c in corner))
                valid[at], other[at] = False, other[at] + 3.0
    kept = torch.arange(0, len(places), 2).expand(4, -1)
    worst, finite, seen_tokens = 0.0, True, 0
    with torch.no_grad():
        for chosen in (None, kept):
            pairs = [objective.student(x, ~gone, chosen) for x in (values, other)]
            for a, b in zip(*pairs, strict=True):
                finite = finite and bool(a.values.isfinite().all())
                if a.seen is None:
                    raise ValueError("which tokens are seen is not told")
                counts = a.seen.clone()
                counts[3] = False
                seen_tokens += int(counts.sum())
                worst = max(worst, float((a.values - b.values)[counts].abs().max()))
        wide = objective.double()
        losses = [wide(Inputs(x.double(), valid), None).loss for x in (values, other)]
    told = {
        "change of what was measured": (worst, 0.0),
        "change of the loss": (furthest(losses[0], losses[1]), EXACT),
    }
    return within(told, {"outputs that are finite": (float(finite), 1.0)}, tokens=seen_tokens)


# -- blocks -----------------------------------------------------------------------------------


def _pre_norm(subject: Subject) -> Evidence:
    def gap(seen: BlockPass) -> float:
        first, second = seen.block.norm1, seen.block.norm2
        x = seen.before.double()
        attended = naive_norm(x, first.weight, first.bias, first.eps)
        between = x + seen.branches[0]
        mixed = naive_norm(between, second.weight, second.bias, second.eps)
        return max(
            furthest(seen.into["attention"], attended), furthest(seen.into["mlp"], mixed)
        )

    return _worst(_passes(subject), gap)


def _residual(subject: Subject) -> Evidence:
    return _worst(
        _passes(subject), lambda seen: furthest(seen.after, seen.before + sum(seen.branches))
    )


def _mlp(subject: Subject) -> Evidence:
    name = subject.config.encoder.activation

    def gap(seen: BlockPass) -> float:
        mlp, x = seen.block.mlp, seen.into["mlp"]
        hidden = naive_product(x, mlp.up.weight, mlp.up.bias)
        if mlp.gate is None:
            hidden = _activated(name, hidden)
        else:
            hidden = _activated(name, naive_product(x, mlp.gate.weight, mlp.gate.bias)) * hidden
        out = naive_product(hidden, mlp.down.weight, mlp.down.bias)
        return furthest(seen.out["mlp"], out)

    return _worst(_passes(subject), gap)


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


def _stack(subject: Subject) -> Evidence:
    """Each block reads what the one before it gave, and the last norm reads the last block."""
    objective = stirred(subject.objective(), subject.seed)
    inputs, names = real(subject), dict(objective.named_modules())
    ends = {name: m for name, m in names.items()
            if isinstance(m, nn.LayerNorm) and f"{name[:-4]}blocks.0" in names}  # fmt: skip
    with torch.no_grad(), outputs_of(*ends.values()) as normed:
        found = {seen.name: seen for seen in _run(objective, inputs)}
    told: dict[str, tuple[float, float]] = {}
    for (name, norm), outs in zip(ends.items(), normed, strict=True):
        parent = name.removesuffix("norm")
        if not outs:  # an average that takes no part in the loss
            continue
        held = [found[own] for own in names
                if own.startswith(f"{parent}blocks.") and own.count(".") == name.count(".") + 1]  # fmt: skip
        gaps = [furthest(after.before, before.after) for before, after in pairwise(held)]
        last = held[-1].after
        wide = naive_norm(last, norm.weight, norm.bias, norm.eps)[:, -outs[0].shape[1] :]
        told[f"{parent}blocks"] = (max([0.0, *gaps]), 0.0)
        told[name] = (furthest(outs[0], wide), EXACT)
    depth = subject.config.encoder.depth
    return within(told, {"blocks of the encoder that ran": (_ran(found, objective), depth)})


def _ran(found: dict[str, BlockPass], objective: Objective) -> int:
    own = {id(block) for block in finest(objective).blocks}
    return sum(id(seen.block) in own for seen in found.values())


def _epsilon(subject: Subject) -> Evidence:
    """A norm halves the mean square of what has a variance of epsilon: which epsilon is that?"""
    objective, expected = subject.objective().double(), subject.config.encoder.norm_eps
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


def _scale_initial(subject: Subject) -> Evidence:
    value = subject.recipe.encoder.layer_scale
    assert value is not None
    gaps, blocks = 0.0, 0
    passed = block_passes(objective := subject.objective(), lambda: objective(subject.inputs(), None))
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


def _scale_place(subject: Subject) -> Evidence:
    """With gains of 0 a block is the identity, with one of them 0 it is the other branch."""
    told: dict[str, tuple[float, float]] = {}
    for name, first, second in (("both 0", 0, 0), ("first alone", 1, 0), ("second alone", 0, 1)):
        objective = stirred(subject.objective(), subject.seed)
        gains = torch.Generator().manual_seed(1)
        for part, on in (("scale1", first), ("scale2", second)):
            for module_name, module in objective.named_modules():
                if module_name.endswith(part) and isinstance(module, LayerScale):
                    drawn = torch.randn(len(module.gain), generator=gains, dtype=torch.float64)
                    module.gain.data.copy_(drawn * on)
        gaps = []
        for seen in _run(objective, real(subject, 2)):
            parts = seen.branches
            expected = seen.before + first * parts[0] + second * parts[1]
            gaps.append(furthest(seen.after, expected))
        told[name] = (max(gaps), 0.0 if name == "both 0" else EXACT)
    return within(told)


# -- patches ----------------------------------------------------------------------------------


@torch.no_grad()
def _patches(subject: Subject) -> Evidence:
    encoder = finest(stirred(subject.objective(), subject.seed))
    values = real(subject).values
    expected = naive_patches(encoder.patches, values)
    return within({"largest difference": (furthest(encoder.patches(values), expected), EXACT)},
                  patches=expected.shape[1])  # fmt: skip


@torch.no_grad()
def _patch_order(subject: Subject) -> Evidence:
    """Sample n has patch n changed, row-major: token n alone may differ, after the prefix."""
    encoder = finest(stirred(subject.objective(), subject.seed))
    size, patch = subject.config.input.size, subject.config.encoder.patch
    places = corners(size, patch)
    values = real(subject, 1).values.expand(len(places), *[-1] * (1 + len(size))).clone()
    was = encoder.embed(values)
    for sample, corner in enumerate(places):
        values[(sample, slice(None), *(slice(c, c + patch) for c in corner))] += 1.0
    changed = (encoder.embed(values) - was).abs().amax(-1) > 0
    wrong = int((changed[:, encoder.prefix :] != torch.eye(len(places), dtype=torch.bool)).sum())
    before = int(changed[:, : encoder.prefix].sum())
    return within({"tokens that answer for another patch": (wrong + before, 0)},
                  patches=len(places))  # fmt: skip


def _qk_norm(subject: Subject) -> bool:
    return subject.config.encoder.qk_norm


def _layer_scale(subject: Subject) -> bool:
    return subject.config.encoder.layer_scale is not None


REFERENCE = "NEPA and I-JEPA reference code"
NEPA = "NEPA reference code, block"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "attention.projections",
        "q, k and v are the thirds of one product with bias, cut into heads; heads are joined "
        "and projected with bias.",
        REFERENCE, _projections,
    ),
    Claim(
        "attention.qkv-bias", "The bias of the packed product reaches q, k and v.",
        "published table", _bias, lambda s: s.config.encoder.qkv_bias,
    ),
    Claim(
        "attention.softmax", "Attention is softmax(q · k / √head) v, once, over the keys.",
        "Vaswani et al. 2017", _softmax,
    ),
    Claim(
        "attention.both-directions", "A JEPA encoder reads in both directions.",
        "I-JEPA reference code", _both_directions, lambda s: not s.config.encoder.causal,
    ),
    Claim(
        "attention.padding", "What was not measured is attended to by nothing that was.",
        "our design; H-JEPA defects D11, D14", _padding, is_jepa,
    ),
    Claim(
        "qk-norm.per-head", "Queries and keys have unit mean square in each head of each token.",
        NEPA, _qk_norm_unit, _qk_norm,
    ),
    Claim(
        "qk-norm.before-rotation", "QK-norm comes before the rotation.",
        NEPA, _qk_norm_order, lambda s: _qk_norm(s) and is_rotary(s),
    ),
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
