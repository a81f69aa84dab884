"""Attention and QK-norm in every block, against plain loops in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.nn.blocks import QKNorm
from latentcast.nn.hierarchy import Tokens
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.network import (
    EXACT,
    BlockPass,
    attention_calls,
    block_passes,
    corners,
    evaluated,
    finest,
    furthest,
    naive_attention,
    naive_norm,
    naive_product,
    outputs_of,
    passes_of,
    real,
    stirred,
    thirds,
    window,
    within,
    worst_of,
)
from latentcast.verification.observe.rotary import is_jepa, is_rotary, paired, stacks
from latentcast.verification.observe.twin import Twin


def _projections(twin: Twin) -> Evidence:
    turned = is_rotary(twin)

    def gap(seen: BlockPass) -> float:
        attention, call = seen.block.attention, seen.asked
        packed = naive_product(seen.into["attention"], attention.qkv.weight, attention.qkv.bias)
        q, k, v = thirds(packed, attention.heads)
        gaps = [furthest(seen.out["attention.qkv"], packed), furthest(call.v, v)]
        if not twin.config.encoder.qk_norm and (not turned or seen.in_predictor):
            gaps += [furthest(call.q, q), furthest(call.k, k)]
        joined = torch.cat([call.out[:, h] for h in range(attention.heads)], dim=-1)
        mixed = naive_product(joined, attention.proj.weight, attention.proj.bias)
        return max(*gaps, furthest(seen.out["attention"], mixed))

    return worst_of(passes_of(twin), gap)


@torch.no_grad()
def _bias(twin: Twin) -> Evidence:
    """Adding to a bias has to change q, k and v, each."""
    told: dict[str, tuple[float, float]] = {}
    for seen in passes_of(twin):
        attention, x, least = seen.block.attention, seen.into["attention"][:1], 0.0
        bias = attention.qkv.bias
        if isinstance(bias, Tensor):
            with attention_calls() as calls:
                attention(x)
                bias.add_(torch.linspace(1, 2, len(bias), dtype=bias.dtype))
                attention(x)
            was, now = calls
            pairs = ((now.q, was.q), (now.k, was.k), (now.v, was.v))
            least = min(furthest(*pair) for pair in pairs)
        told[f"{seen.name}: least change"] = (least, 1e-6)
    return within({}, told)


def _softmax(twin: Twin) -> Evidence:
    causal = twin.config.encoder.causal

    def gap(seen: BlockPass) -> float:
        call = seen.asked
        return furthest(call.out, naive_attention(call, causal and not seen.in_predictor))

    return worst_of(passes_of(twin), gap)


def _qk_norm_unit(twin: Twin) -> Evidence:
    """The mean square of each head of each token, with the affine part at 1 and 0."""
    objective = stirred(twin.objective(), twin.seed)
    for module in objective.modules():
        if isinstance(module, QKNorm):
            for name, parameter in module.named_parameters():
                parameter.data.fill_(1.0 if name == "weight" else 0.0)

    def gap(seen: BlockPass) -> float:
        call = seen.asked
        return max(float((x.square().mean(-1) - 1).abs().max()) for x in (call.q, call.k))

    found = evaluated(objective, real(twin))
    gaps = {seen.name: gap(seen) for seen in found}
    name = max(gaps, key=lambda n: gaps[n])
    # (variance of an already tiny head + 1e-12) is what keeps it from 1 exactly.
    return within({"mean square of a head, from 1": (gaps[name], 1e-5)}, where=name)


@torch.no_grad()
def _qk_norm_order(twin: Twin) -> Evidence:
    """q and k are the rotated norm, and not the norm of what was rotated.

    Once as configured, and once with an affine part, which tells the norm of q from that of k.
    """
    affine = {"encoder.qk_norm_affine": True, "encoder.qk_norm_bias": True}
    found = [_order_gaps(twin, changes) for changes in ({}, affine)]
    return within(
        {"difference from norm, then rotation": (max(right for right, _ in found), 5e-5)},
        {"difference from rotation, then norm": (min(wrong for _, wrong in found), 1e-3)},
    )


def _order_gaps(twin: Twin, changes: dict[str, bool]) -> tuple[float, float]:
    """How far q and k are from the right order, at most, and from the wrong one, at least."""
    objective = stirred(twin.objective(changes), twin.seed)
    right, wrong = 0.0, math.inf
    for stack in stacks(objective, twin.config.input.size):
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
                shape = (weight, bias, twin.config.encoder.norm_eps)
                seen, own = x[:, :, stack.prefix :], own[:, :, stack.prefix :]
                expected = paired(naive_norm(own, *shape)) * turns
                late = paired(naive_norm(_unpaired(paired(own) * turns), *shape))
                right = max(right, float((paired(seen) - expected).abs().max()))
                wrong = min(wrong, float((paired(seen) - late).abs().max()))
    return right, wrong


def _unpaired(z: Tensor) -> Tensor:
    return torch.cat([z.real, z.imag], dim=-1).unsqueeze(0)


def _both_directions(twin: Twin) -> Evidence:
    """Every patch reaches the output of every other: sample t has patch t changed."""
    encoder = finest(stirred(twin.objective(), twin.seed))
    size, patch = twin.config.input.size, twin.config.encoder.patch
    places = corners(size, patch)
    places = places[:: max(1, len(places) // 16)]
    values = real(twin, 1).values.expand(len(places), *[-1] * (1 + len(size))).clone()
    with torch.no_grad():
        was = encoder.transform(encoder.embed(values), size)
        for sample, corner in enumerate(places):
            window(values[sample], corner, patch).add_(1.0)
        gap = (encoder.transform(encoder.embed(values), size) - was).abs().amax(-1)
    return within({}, {"least change of any output by any patch": (float(gap.min()), 1e-9)})


def _padding(twin: Twin) -> Evidence:
    """What was not measured changes: nothing that was measured may notice."""
    objective = stirred(twin.objective(), twin.seed, wide=False)
    assert isinstance(objective, Jepa)
    size, patch = twin.config.input.size, twin.config.encoder.patch
    values = real(twin, 4).values.float()
    places = corners(size, patch)
    gone = torch.rand(4, len(places), generator=torch.Generator().manual_seed(2)) < 0.3
    gone[1, : len(places) // 2] = True  # so that whole cells of every level are not seen
    gone[3] = True  # nothing at all is measured of the last
    valid, other = torch.ones_like(values, dtype=torch.bool), values.clone()
    for sample in range(4):
        for number, corner in enumerate(places):
            if gone[sample, number]:
                window(valid[sample], corner, patch).fill_(False)
                window(other[sample], corner, patch).add_(3.0)
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
        assert isinstance(wide, Jepa)
        # Of the last sample nothing is seen, and it attends to everything: to the loop's numbers.
        levels = list[Tokens]()
        student, run = wide.student, values.double()
        found = block_passes(student, lambda: levels.extend(student(run, ~gone)))
        apart = max(furthest(p.asked.out, naive_attention(p.asked, causal=False)) for p in found)
        losses = [wide(Inputs(x.double(), valid), None).loss for x in (values, other)]
    told = {
        "change of what was measured": (worst, 0.0),
        "change of the loss": (furthest(losses[0], losses[1]), EXACT),
        "attention under padding, from the loop": (apart, EXACT),
        "attentions told to see something else": (sum(_misled(p, levels) for p in found), 0.0),
    }
    return within(told, {"outputs that are finite": (float(finite), 1.0)}, tokens=seen_tokens)


def _misled(seen: BlockPass, levels: list[Tokens]) -> bool:
    """Whether a block of ``finest`` or ``coarser.n`` looked at other tokens than its level's."""
    level = 0 if seen.name.startswith("finest") else 1 + int(seen.name.split(".")[1])
    told, expected = seen.asked.seen, levels[level].seen
    return told is None or expected is None or not torch.equal(told, expected)


def _qk_norm(twin: Twin) -> bool:
    return twin.config.encoder.qk_norm


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
)  # fmt: skip
