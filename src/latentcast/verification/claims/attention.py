"""Attention and QK-norm in every block, against plain loops in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.nn.blocks import QKNorm
from latentcast.nn.hierarchy import Tokens
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest, true
from latentcast.verification.observe.config import has_transformer, transformer_of
from latentcast.verification.observe.jepa import is_jepa
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
    worst_of,
)
from latentcast.verification.observe.rotary import is_rotary, paired, stacks
from latentcast.verification.observe.twin import Twin

NEEDS = has_transformer

REFERENCE = "NEPA and I-JEPA reference code"
NEPA = "NEPA reference code, block"


@claim("attention.projections", "q, k and v are the thirds of one product with bias, cut into "
       "heads; heads are joined and projected with bias.", source=REFERENCE)  # fmt: skip
def projections(twin: Twin) -> Evidence:
    turned = is_rotary(twin)

    def gap(block: BlockPass) -> float:
        attention, call = block.module.attention, block.attention
        packed = naive_product(block.into["attention"], attention.qkv.weight, attention.qkv.bias)
        q, k, v = thirds(packed, attention.heads)
        gaps = [furthest(block.out["attention.qkv"], packed), furthest(call.v, v)]
        if not transformer_of(twin.config).qk_norm and (not turned or block.in_predictor):
            gaps += [furthest(call.q, q), furthest(call.k, k)]
        joined = torch.cat([call.out[:, h] for h in range(attention.heads)], dim=-1)
        mixed = naive_product(joined, attention.proj.weight, attention.proj.bias)
        return max(*gaps, furthest(block.out["attention"], mixed))

    return worst_of(passes_of(twin), gap)


@claim("attention.qkv-bias", "The bias of the packed product reaches q, k and v.",
       source="published table",
       about=lambda twin: transformer_of(twin.config).qkv_bias)  # fmt: skip
@torch.no_grad()
def qkv_bias(twin: Twin) -> Evidence:
    """Adding to a bias has to change q, k and v, each."""
    parts = []
    for block in passes_of(twin):
        attention, x, least = block.module.attention, block.into["attention"][:1], 0.0
        bias = attention.qkv.bias
        if isinstance(bias, Tensor):
            with attention_calls() as calls:
                attention(x)
                bias.add_(torch.linspace(1, 2, len(bias), dtype=bias.dtype))
                attention(x)
            was, now = calls
            least = min(furthest(getattr(now, x), getattr(was, x)) for x in "qkv")
        parts.append(above(f"{block.name}: least change", least, 1e-6))
    return all_of(*parts)


@claim("attention.softmax", "Attention is softmax(q · k / √head) v, once, over the keys.",
       source="Vaswani et al. 2017")  # fmt: skip
def softmax(twin: Twin) -> Evidence:
    causal = twin.config.encoder.causal

    def gap(block: BlockPass) -> float:
        call = block.attention
        return furthest(call.out, naive_attention(call, causal and not block.in_predictor))

    return worst_of(passes_of(twin), gap)


@claim("attention.both-directions", "A JEPA encoder reads in both directions.",
       source="I-JEPA reference code",
       about=lambda twin: not twin.config.encoder.causal)  # fmt: skip
def both_directions(twin: Twin) -> Evidence:
    """Every patch reaches the output of every other: sample t has patch t changed."""
    encoder = finest(stirred(twin.objective(), twin.seed))
    size, patch = twin.config.input.size, twin.config.encoder.patch
    leads = twin.config.input.lead_rows
    places = corners(size, patch, leads)
    places = places[:: max(1, len(places) // 16)]
    values = real(twin, 1).values.expand(len(places), *[-1] * (1 + len(size))).clone()
    with torch.no_grad():
        was = encoder.transform(encoder.embed(values), size)
        for sample, corner in enumerate(places):
            window(values[sample], corner, patch, leads).add_(1.0)
        gap = (encoder.transform(encoder.embed(values), size) - was).abs().amax(-1)
    return above("least change of any output by any patch", float(gap.min()), 1e-9)


@claim("attention.padding", "What was not measured is attended to by nothing that was.",
       source="our design; H-JEPA defects D11, D14", about=is_jepa)  # fmt: skip
def padding(twin: Twin) -> Evidence:
    """What was not measured changes: nothing that was measured may notice."""
    objective = stirred(twin.objective(), twin.seed, wide=False)
    assert isinstance(objective, Jepa)
    size, patch = twin.config.input.size, twin.config.encoder.patch
    values = real(twin, 4).values.float()
    leads = twin.config.input.lead_rows
    places = corners(size, patch, leads)
    gone = torch.rand(4, len(places), generator=torch.Generator().manual_seed(2)) < 0.3
    gone[1, : len(places) // 2] = True  # so that whole cells of every level are not valid
    gone[3] = True  # nothing at all is measured of the last
    valid, other = torch.ones_like(values, dtype=torch.bool), values.clone()
    for sample in range(4):
        for number, corner in enumerate(places):
            if gone[sample, number]:
                window(valid[sample], corner, patch, leads).fill_(False)
                window(other[sample], corner, patch, leads).add_(3.0)
    half = torch.arange(0, len(places), 2).expand(4, -1)
    worst, finite, tokens = 0.0, True, 0
    with torch.no_grad():
        for kept in (None, half):
            pairs = [objective.student(x, ~gone, kept) for x in (values, other)]
            for a, b in zip(*pairs, strict=True):
                finite = finite and bool(a.values.isfinite().all())
                if a.valid is None:
                    return true("tokens come with their validity", False)
                measured = a.valid.clone()
                measured[3] = False
                tokens += int(measured.sum())
                worst = greatest(worst, float((a.values - b.values)[measured].abs().max()))
        wide = objective.double()
        assert isinstance(wide, Jepa)
        # Of the last sample nothing is valid, and it attends to everything: to the loop's numbers.
        levels = list[Tokens]()
        student, run = wide.student, values.double()
        blocks = block_passes(student, lambda: levels.extend(student(run, ~gone)))
        calls = [block.attention for block in blocks]
        apart = greatest(
            *(furthest(call.out, naive_attention(call, causal=False)) for call in calls)
        )
        losses = [wide(Inputs(x.double(), valid), None).loss for x in (values, other)]
    return all_of(
        at_most("change of what was measured", worst, 0.0),
        at_most("change of the loss", furthest(losses[0], losses[1]), EXACT),
        at_most("attention under padding, from the loop", apart, EXACT),
        equal("attentions over other tokens than their level's",
              sum(_misled(block, levels) for block in blocks), 0),
        true("outputs are finite", finite),
        tokens=tokens,
    )  # fmt: skip


def _misled(block: BlockPass, levels: list[Tokens]) -> bool:
    """Whether a block of ``finest`` or ``coarser.n`` looked at other tokens than its level's."""
    level = 0 if block.name.startswith("finest") else 1 + int(block.name.split(".")[1])
    valid, expected = block.attention.valid, levels[level].valid
    return valid is None or expected is None or not torch.equal(valid, expected)


# QK-norm


def _has_qk_norm(twin: Twin) -> bool:
    return transformer_of(twin.config).qk_norm


@claim("qk-norm.per-head", "Queries and keys have unit mean square in each head of each token.",
       source=NEPA, about=_has_qk_norm)  # fmt: skip
def per_head(twin: Twin) -> Evidence:
    """With the affine part at 1 and 0; of a head of variance v it is v / (v + epsilon)."""
    objective = stirred(twin.objective(), twin.seed)
    for module in objective.modules():
        if isinstance(module, QKNorm):
            for name, parameter in module.named_parameters():
                parameter.data.fill_(1.0 if name == "weight" else 0.0)

    def gap(block: BlockPass) -> float:
        call, heads = block.attention, block.module.attention.heads
        gaps, packed = [], thirds(block.out["attention.qkv"], heads)
        for x, raw in zip((call.q, call.k), packed, strict=False):
            variance = raw.double().var(-1, unbiased=False)
            unit = variance / (variance + transformer_of(twin.config).norm_eps)
            gaps.append(float((x.double().square().mean(-1) - unit).abs().max()))
        return greatest(*gaps)

    return worst_of(evaluated(objective, real(twin)), gap, 1e-6, "mean square of a head, from 1")


@claim("qk-norm.before-rotation", "QK-norm comes before the rotation.",
       source=NEPA, about=lambda twin: _has_qk_norm(twin) and is_rotary(twin))  # fmt: skip
@torch.no_grad()
def before_rotation(twin: Twin) -> Evidence:
    """q and k are the rotated norm, and not the norm of what was rotated.

    Once as configured, and once with an affine part, which tells the norm of q from that of k.
    """
    affine = {"encoder.qk_norm_affine": True, "encoder.qk_norm_bias": True}
    gaps = [_order_gaps(twin, changes) for changes in ({}, affine)]
    return all_of(
        at_most("difference from norm, then rotation", max(right for right, _ in gaps), 5e-5),
        above("difference from rotation, then norm", min(wrong for _, wrong in gaps), 1e-3),
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
            norms = [block.get_submodule(f"attention.{name}_norm") for name in "qk"]
            for x, own, norm in zip((call.q, call.k), plain, norms, strict=False):
                weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
                affine = (weight, bias, transformer_of(twin.config).norm_eps)
                turned, own = x[:, :, stack.prefix :], own[:, :, stack.prefix :]
                expected = paired(naive_norm(own, *affine)) * turns
                first = paired(own) * turns
                first = torch.cat([first.real, first.imag], dim=-1).unsqueeze(0)
                late = paired(naive_norm(first, *affine))
                right = greatest(right, float((paired(turned) - expected).abs().max()))
                wrong = min(wrong, float((paired(turned) - late).abs().max()))
    return right, wrong
