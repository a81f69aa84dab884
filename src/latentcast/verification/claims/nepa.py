"""NEPA: what is predicted from what, by which loss, and what its gradient leaves alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.engine.optimizer import adamw
from latentcast.objectives.nepa import Nepa
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.nepa import (
    again,
    draw_of,
    is_nepa,
    naive_cosine,
    naive_loss,
    one_pass,
    stirred_nepa,
    with_padding,
)
from latentcast.verification.observe.network import (
    EXACT,
    corners,
    finest,
    furthest,
    naive_patches,
    real,
    stirred,
    window,
    within,
)
from latentcast.verification.observe.twin import Twin


def _loss(twin: Twin) -> Evidence:
    found = one_pass(twin)
    expected, terms = naive_loss(found.h, found.z, 1)
    measured = float(found.output.loss.detach())
    return within(
        {"difference": (abs(measured - expected), EXACT),
         "difference of the weight": (abs(float(found.output.weight) - terms), 0.0)},
        loss=measured, expected=expected, terms=terms,
    )  # fmt: skip


def _shift(twin: Twin) -> Evidence:
    """Which target each output is pulled towards, by the gradient that it gets."""
    found = one_pass(twin)
    found.h.retain_grad()
    found.output.loss.backward()  # type: ignore[no-untyped-call]
    pulls = -_gradient(found.h)
    shifts, misfit = set(), 0.0
    for sample in range(len(pulls)):
        h, z = found.h[sample].detach(), found.z[sample]
        unit = h / h.norm(dim=-1, keepdim=True)
        for t in range(pulls.shape[1] - 1):
            pull = pulls[sample, t]
            across = z - (z @ unit[t])[:, None] * unit[t]  # a cosine has no gradient along h
            fits = (across @ pull) / (across.norm(dim=-1) * pull.norm()).clamp(min=1e-30)
            best = int(fits.argmax())
            shifts.add(best - t)
            misfit = max(misfit, 1 - float(fits[best]))
    last = float(pulls[:, -1].abs().max())
    losses = {n: round(naive_loss(found.h, found.z, n)[0], 6) for n in (0, 1, 2)}
    evidence = within({"direction, from that of the target": (misfit, 1e-6),
                       "gradient of the last output": (last, 0.0)})  # fmt: skip
    told = dict(evidence.numbers) | {"shifts found": str(sorted(shifts))}
    told |= {f"loss at shift {n}": loss for n, loss in losses.items()}
    return Evidence(evidence.holds and shifts == {1}, told)


def _gradient(x: Tensor) -> Tensor:
    """Zeros where none came."""
    return torch.zeros_like(x) if x.grad is None else x.grad.detach()


def _copy_last(twin: Twin) -> Evidence:
    gaps: dict[str, tuple[float, float]] = {}
    padded, told = with_padding(twin)
    for name, inputs, counted in (
        ("difference", real(twin), None),
        ("of padded samples", padded, [flags[1:] for flags in told]),
    ):
        found = one_pass(twin, inputs)
        expected, terms = naive_loss(found.z[:, 1:], found.z[:, 1:], 1, counted)
        measured = float(found.output.scalars["copy_last_loss"])
        gaps[name] = abs(measured - expected), EXACT
    return within(gaps, measured=measured, expected=expected, terms=terms)


def _surprise(twin: Twin) -> Evidence:
    """``1 − cos`` of each patch with what was said before it, as a report paints it."""
    inputs, told = with_padding(twin)
    found = one_pass(twin, inputs, trains=False)
    errors = found.objective.patch_errors(inputs, "student")
    worst, blank = 0.0, 0
    for sample, flags in enumerate(told):
        for t, measured in enumerate(flags):
            if not measured:
                blank += int(not bool(errors[sample, t].isnan()))
                continue
            wanted = 1 - naive_cosine(found.h[sample, t], found.z[sample, t + 1])
            worst = max(worst, abs(float(errors[sample, t]) - wanted))
    patches = sum(map(len, told))
    told_ = {"largest difference": (worst, EXACT), "patches told though not measured": (blank, 0)}
    return within(told_, patches=patches)


def _padding(twin: Twin) -> Evidence:
    inputs, told = with_padding(twin)
    found = one_pass(twin, inputs)
    expected, terms = naive_loss(found.h, found.z, 1, told)
    found.output.loss.backward()  # type: ignore[no-untyped-call]
    assert inputs.valid is not None
    other = Inputs(torch.where(inputs.valid, inputs.values, 2.5), inputs.valid)
    objective = stirred_nepa(twin)
    loss = objective(other, draw_of(twin, other)).loss
    loss.backward()
    moved = 0.0
    for (_, a), (_, b) in zip(
        found.objective.named_parameters(), objective.named_parameters(), strict=True
    ):
        if a.grad is not None and b.grad is not None:
            moved = max(moved, furthest(b.grad, a.grad))
    return within(
        {
            "difference from the loop over what was measured": (
                abs(float(found.output.loss.detach()) - expected), EXACT,
            ),
            "terms that count too much": (abs(float(found.output.weight) - terms), 0.0),
            "change of the loss with what stands in the padding": (
                furthest(loss, found.output.loss), EXACT,
            ),
            "change of the gradient": (moved, EXACT),
        },
        terms=terms,
    )  # fmt: skip


def _scale_free(twin: Twin) -> Evidence:
    """The last patch is a target and nothing else: its length must not matter, short or long."""
    inputs, losses = real(twin), []
    patch, size = twin.config.encoder.patch, twin.config.input.size
    corner = corners(size, patch)[-1]
    objective = stirred_nepa(twin)
    with torch.no_grad():
        objective.student.patches.bias.zero_()
        for factor in (1.0, 1e-9, 1e9):
            values = inputs.values.clone()
            window(values, corner, patch).mul_(factor)
            losses.append(float(objective(Inputs(values), draw_of(twin, inputs)).loss))
    gap = max(abs(loss - losses[0]) for loss in losses)
    return within({"change of the loss": (gap, 1e-6)}, factors="1e-9, 1e9")


def _target_gradient(twin: Twin) -> Evidence:
    """The last patch is only ever a target, so the loss has no gradient in its samples."""
    inputs = real(twin)
    values = inputs.values.clone().requires_grad_()
    found = again(stirred_nepa(twin), Inputs(values), draw_of(twin, inputs))
    found.output.loss.backward()  # type: ignore[no-untyped-call]
    gradient = _gradient(values)
    patch, size = twin.config.encoder.patch, twin.config.input.size
    sizes = []
    for corner in corners(size, patch):
        sizes.append(float(window(gradient, corner, patch).abs().max()))
    return within({"gradient in the last patch": (sizes[-1], 0.0)},
                  {"least gradient in another": (min(sizes[:-1]), 1e-12)})  # fmt: skip


def _finite_differences(twin: Twin) -> Evidence:
    """Of the loss whose target is held where it was, in random directions of the weights."""
    inputs = real(twin)
    found = one_pass(twin, inputs)
    objective, draw, target = found.objective, draw_of(twin, inputs), found.z
    found.output.loss.backward()  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(twin.seed)
    told: dict[str, tuple[float, float]] = {}
    moving: dict[str, float | int | str | bool] = {}
    student = objective.student
    parts = {
        "patch weights": "patches.weight",
        "patch bias": "patches.bias",
        "CLS": "cls",
        "first block": "blocks.0.attention.qkv.weight",
        "final norm": "norm.weight",
    }
    for name, path in parts.items():
        parameter = student.get_parameter(path)
        if not parameter.requires_grad:  # a fixed patch embedding
            continue
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        way, step = way / way.norm(), 1e-5
        held, free = [], []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.add_(way, alpha=sign * step)
                there = again(objective, inputs, draw)
                held.append(_mean_cosine(there.h[:, :-1], target[:, 1:]))
                free.append(_mean_cosine(there.h[:, :-1], there.z[:, 1:]))
                parameter.sub_(way, alpha=sign * step)
        measured = float((_gradient(parameter) * way).sum())
        expected = -(held[0] - held[1]) / (2 * step)
        told[f"{name}: difference"] = (abs(measured - expected), 1e-7 * max(1.0, abs(expected)))
        moving[f"{name}: derivative"] = measured
        moving[f"{name}: with a moving target"] = -(free[0] - free[1]) / (2 * step)
    return within(told, **moving)


def _mean_cosine(a: Tensor, b: Tensor) -> float:
    product = (a * b).sum(-1) / ((a * a).sum(-1).sqrt() * (b * b).sum(-1).sqrt())
    return float(product.double().mean())


@torch.no_grad()
def _causal(twin: Twin) -> Evidence:
    """Sample t has patch t changed: no output before that patch's token may change a bit."""
    objective = stirred(twin.objective(), twin.seed, wide=False)
    encoder = finest(objective)
    size, patch = twin.config.input.size, twin.config.encoder.patch
    places = corners(size, patch)
    start = real(twin, 1).values.float()
    values = start.expand(len(places), *start.shape[1:]).clone()
    was = encoder.layers(encoder.embed(values), size)
    for sample, corner in enumerate(places):
        window(values[sample], corner, patch).mul_(-1.5).add_(1.0)
    now = encoder.layers(encoder.embed(values), size)
    early, late, bits = 0.0, math.inf, 0
    for before, after in zip(was, now, strict=True):
        gap = (after - before).abs().amax(-1)  # (patch changed, token); patch t is token t + 1
        future = torch.ones_like(gap, dtype=torch.bool).triu(2)  # token j sees patches < j
        past = ~torch.ones_like(future).triu(1)
        early = max(early, float(gap[past].max()))
        bits += int((gap[past] > 0).sum())
        late = min(late, float(gap.diagonal(1).min()))
    reached = float(gap[future].min())
    return within({"change of an earlier output": (early, 0.0)},
                  {"change of the patch's own output": (late, 1e-6),
                   "least change of a later output": (reached, 1e-9)},
                  outputs=bits, patches=len(places))  # fmt: skip


@torch.no_grad()
def _cls_prepended(twin: Twin) -> Evidence:
    objective = stirred_nepa(twin)
    encoder, inputs = objective.student, real(twin)
    embedding = encoder.embed(inputs.values)
    patches = len(corners(twin.config.input.size, twin.config.encoder.patch))
    cls = encoder.get_parameter("cls").detach()
    gap = furthest(embedding[:, :1], cls.expand(len(embedding), 1, -1))
    rest = furthest(embedding[:, 1:], naive_patches(encoder.patches, inputs.values))
    tokens = embedding.shape[1]
    return within(
        {
            "first token, from CLS": (gap, 0.0),
            "the others, from the patches": (rest, EXACT),
            "tokens more than 1 + patches": (abs(tokens - 1 - patches), 0.0),
        },
        tokens=tokens,
    )


def _cls_initial(twin: Twin) -> Evidence:
    """In standard errors; unit variance, the defect of the ECG port, is more than a hundred."""
    cls = finest(twin.objective()).get_parameter("cls").detach().double()
    n, std = cls.numel(), float(cls.square().mean().sqrt())
    off = abs(std / 0.02 - 1) * math.sqrt(2 * n)
    drawn = float((cls - cls.mean()).abs().max())
    return within({"standard errors from 0.02": (off, 6.5)}, {"spread": (drawn, 1e-4)}, std=std)


def _cls_trained(twin: Twin) -> Evidence:
    """CLS predicts the first patch, so it has a gradient; it is in the optimizer, undecayed."""
    objective = twin.objective()
    objective(twin.inputs(), None).loss.backward()
    cls = finest(objective).get_parameter("cls")
    size = 0.0 if cls.grad is None else float(cls.grad.abs().max())
    optimizer = adamw(objective, twin.config.optimizer)
    held = [g["decayed"] for g in optimizer.param_groups if any(p is cls for p in g["params"])]
    return within({"groups that decay it": (sum(held), 0.0)},
                  {"gradient": (size, 1e-9), "optimizer groups": (len(held), 1.0)})  # fmt: skip


def _patches_trained(twin: Twin) -> Evidence:
    """Three updates by the optimizer itself, with the patch embedding trained and with it fixed."""
    told: dict[str, tuple[float, float]] = {}
    moved: dict[str, tuple[float, float]] = {}
    for kind in ("trained", "fixed"):
        objective = twin.objective({"objective.patch_embedding": kind})
        assert isinstance(objective, Nepa)
        for part, change in _three_updates(twin, objective).items():
            if kind == "fixed" and part.startswith("patches"):
                told[f"{kind}: change of {part}"] = (change, 0.0)
            else:
                moved[f"{kind}: change of {part}"] = (change, 1e-6)
    return within(told, moved)


def _three_updates(twin: Twin, objective: Nepa) -> dict[str, float]:
    parts = {"patches.weight", "patches.bias", "cls", "blocks.0.mlp.up.weight"}
    before = {name: objective.student.get_parameter(name).detach().clone() for name in parts}
    optimizer = adamw(objective, twin.config.optimizer)
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.01, 0.1
    inputs = twin.inputs()
    for _ in range(3):
        objective(inputs, None).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = {name: objective.student.get_parameter(name).detach() for name in sorted(parts)}
    return {name: float((after[name] - before[name]).abs().max()) for name in after}


def _teacher(twin: Twin) -> Evidence:
    """The average of the weights is read out and takes no part in the loss."""
    inputs, losses = real(twin), []
    objective = stirred_nepa(twin)
    teacher = objective.teacher
    assert teacher is not None
    for shift in (0.0, 1.0):
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.add_(shift)
        losses.append(objective(inputs, draw_of(twin, inputs)).loss)
    losses[-1].backward()
    with_gradient = sum(p.grad is not None for p in teacher.parameters())
    return within({"change of the loss": (float((losses[0] - losses[1]).detach().abs()), 0.0),
                   "its weights with a gradient": (with_gradient, 0.0)},
                  read_out=objective.encoder("teacher") is teacher)  # fmt: skip


LOSS = "NEPA, prediction_loss of the reference code"

CLAIMS: tuple[Claim, ...] = (
    Claim("nepa.cls-prepended", "CLS stands before the patches.", LOSS, _cls_prepended, is_nepa),
    Claim(
        "nepa.cls-initial", "CLS begins at standard deviation 0.02 and not at unit variance.",
        "NEPA reference code; defect 16 of the ECG port", _cls_initial, is_nepa,
    ),
    Claim(
        "nepa.cls-trained", "CLS is trained, by predicting the first patch, and not decayed.",
        LOSS, _cls_trained, is_nepa,
    ),
    Claim(
        "nepa.causal", "No output changes by a bit when a later patch changes.",
        LOSS, _causal, is_nepa,
    ),
    Claim(
        "nepa.loss", "The loss is −mean cos(h_t, z_t+1), z the embedding before the transformer.",
        LOSS, _loss, is_nepa,
    ),
    Claim("nepa.surprise", "The error of a patch that is reported is 1 − cos with its prediction, "
          "and nothing where nothing was measured.", "our design", _surprise, is_nepa),
    Claim("nepa.shift", "Each output is pulled to the patch after it.", LOSS, _shift, is_nepa),
    Claim(
        "nepa.scale-free", "The length of a target does not matter.",
        "NEPA reference code, epsilon 1e-12; defect 17 of the ECG port", _scale_free, is_nepa,
    ),
    Claim(
        "nepa.padding", "What was not measured contributes nothing to loss, weight and gradient.",
        "our design; defect 14 of the ECG port", _padding, is_nepa,
    ),
    Claim(
        "nepa.target-gradient", "No gradient reaches a target.", LOSS, _target_gradient, is_nepa,
    ),
    Claim(
        "nepa.finite-differences",
        "The gradient is that of the loss whose target is held fixed.",
        LOSS, _finite_differences, is_nepa,
    ),
    Claim(
        "nepa.copy-last", "The baseline told beside the loss copies the patch before.",
        "our design", _copy_last, is_nepa,
    ),
    Claim(
        "nepa.patch-embedding",
        "A fixed patch embedding stays as it was drawn, a trained one is trained.",
        "our design, docs/nepa-on-ecg.md", _patches_trained, is_nepa,
    ),
    Claim(
        "nepa.teacher-apart", "The average of the weights takes no part in the loss.",
        "NEPA reference code", _teacher,
        lambda s: is_nepa(s) and s.config.ema is not None,
    ),
)  # fmt: skip
