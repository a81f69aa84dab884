"""NEPA: what is predicted from what, by which loss, and what its gradient leaves alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from latentcast.batch import Inputs
from latentcast.engine.optimizer import build_optimizer
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest, true
from latentcast.verification.observe.config import has_linear_patches, is_sequence
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
    furthest,
    later_effect,
    naive_patches,
    real,
    sequence,
    stirred,
    window,
)
from latentcast.verification.observe.twin import Twin

NEEDS = is_sequence


def has_linear_targets(twin: Twin) -> bool:
    """Whether the targets are linear in the patches."""
    return is_nepa(twin) and has_linear_patches(twin)


LOSS = "NEPA, prediction_loss of the reference code"


@claim("nepa.cls-prepended", "CLS stands before the patches.", source=LOSS, about=is_nepa)
@torch.no_grad()
def cls_prepended(twin: Twin) -> Evidence:
    objective = stirred_nepa(twin)
    encoder, inputs = objective.student, real(twin)
    embedding = encoder.embed(inputs.values)
    patches = len(corners(twin.config.input.size, twin.config.encoder.patch))
    cls = encoder.get_parameter("cls").detach().expand(len(embedding), 1, -1)
    expected = naive_patches(sequence(objective).patches, inputs.values)
    return all_of(
        at_most("first token, from CLS", furthest(embedding[:, :1], cls), 0.0),
        at_most("the others, from the patches", furthest(embedding[:, 1:], expected), EXACT),
        equal("tokens", embedding.shape[1], 1 + patches),
    )


@claim("nepa.cls-trained", "CLS is trained, by predicting the first patch, and not decayed.",
       source=LOSS, about=is_nepa)  # fmt: skip
def cls_trained(twin: Twin) -> Evidence:
    objective = twin.objective()
    objective(twin.inputs(), None).loss.backward()
    cls = sequence(objective).get_parameter("cls")
    size = 0.0 if cls.grad is None else float(cls.grad.abs().max())
    groups = build_optimizer(objective, twin.config.optimizer).param_groups
    decayed = [group["decayed"] for group in groups if any(p is cls for p in group["params"])]
    return all_of(
        above("gradient", size, 1e-9),
        equal("optimizer groups that have it", len(decayed), 1),
        equal("that decay it", sum(decayed), 0),
    )


@claim("nepa.loss", "The loss is −mean cos(h_t, z_t+1), z the embedding before the transformer.",
       source=LOSS, about=is_nepa)  # fmt: skip
def loss(twin: Twin) -> Evidence:
    forward = one_pass(twin)
    expected, terms = naive_loss(forward.h, forward.z, 1)
    measured = float(forward.output.loss.detach())
    return all_of(
        at_most("difference", abs(measured - expected), EXACT),
        equal("terms", float(forward.output.weight), terms),
        loss=measured, expected=expected,
    )  # fmt: skip


@claim("nepa.shift", "Each output is pulled to the patch after it.", source=LOSS, about=is_nepa)
def shift(twin: Twin) -> Evidence:
    """Which target each output is pulled towards, by the gradient that it gets."""
    forward = one_pass(twin)
    forward.h.retain_grad()
    forward.output.loss.backward()  # type: ignore[no-untyped-call]
    pulls = -_gradient(forward.h)
    shifts, misfit = set(), 0.0
    for sample in range(len(pulls)):
        h, z = forward.h[sample].detach(), forward.z[sample]
        unit = h / h.norm(dim=-1, keepdim=True)
        for t in range(pulls.shape[1] - 1):
            pull = pulls[sample, t]
            across = z - (z @ unit[t])[:, None] * unit[t]  # a cosine has no gradient along h
            fits = (across @ pull) / (across.norm(dim=-1) * pull.norm()).clamp(min=1e-30)
            best = int(fits.argmax())
            shifts.add(best - t)
            misfit = greatest(misfit, 1 - float(fits[best]))
    return all_of(
        equal("shifts found", str(sorted(shifts)), "[1]"),
        at_most("direction, from that of the target", misfit, 1e-6),
        at_most("gradient of the last output", float(pulls[:, -1].abs().max()), 0.0),
        **{f"loss at shift {n}": naive_loss(forward.h, forward.z, n)[0] for n in (0, 1, 2)},
    )


def _gradient(x: Tensor) -> Tensor:
    """Zeros where none came."""
    return torch.zeros_like(x) if x.grad is None else x.grad.detach()


@claim("nepa.copy-last", "The baseline logged beside the loss copies the patch before.",
       source="our design", about=is_nepa)  # fmt: skip
def copy_last(twin: Twin) -> Evidence:
    padded, valid = with_padding(twin)
    parts = []
    for name, inputs, counted in (
        ("difference", real(twin), None),
        ("of padded samples", padded, [flags[1:] for flags in valid]),
    ):
        forward = one_pass(twin, inputs)
        expected, _ = naive_loss(forward.z[:, 1:], forward.z[:, 1:], 1, counted)
        measured = float(forward.output.scalars["copy_last_loss"])
        parts.append(at_most(name, abs(measured - expected), EXACT))
    return all_of(*parts, measured=measured, expected=expected)


@claim("nepa.surprise", "The error of a patch that is reported is 1 − cos with its prediction, "
       "and nothing where nothing was measured.", source="our design", about=is_nepa)  # fmt: skip
def surprise(twin: Twin) -> Evidence:
    """As a report paints it."""
    inputs, valid = with_padding(twin)
    forward = one_pass(twin, inputs, trains=False)
    errors = forward.objective.patch_errors(inputs, "student")
    worst, made_up = 0.0, 0
    for sample, flags in enumerate(valid):
        for t, measured in enumerate(flags):
            if not measured:
                made_up += int(not bool(errors[sample, t].isnan()))
                continue
            expected = 1 - naive_cosine(forward.h[sample, t], forward.z[sample, t + 1])
            worst = greatest(worst, abs(float(errors[sample, t]) - expected))
    return all_of(
        at_most("largest difference", worst, EXACT),
        equal("patches reported though not measured", made_up, 0),
        patches=sum(map(len, valid)),
    )


@claim("nepa.padding", "What was not measured contributes nothing to loss, weight and gradient.",
       source="our design; defect 14 of the ECG port", about=is_nepa)  # fmt: skip
def padding(twin: Twin) -> Evidence:
    inputs, valid = with_padding(twin)
    forward = one_pass(twin, inputs)
    expected, terms = naive_loss(forward.h, forward.z, 1, valid)
    forward.output.loss.backward()  # type: ignore[no-untyped-call]
    assert inputs.valid is not None
    other = Inputs(torch.where(inputs.valid, inputs.values, 2.5), inputs.valid)
    objective = stirred_nepa(twin)
    loss = objective(other, draw_of(twin, other)).loss
    loss.backward()
    pairs = zip(forward.objective.parameters(), objective.parameters(), strict=True)
    moved = greatest(*(furthest(_gradient(b), _gradient(a)) for a, b in pairs))
    return all_of(
        at_most("difference from the loop over what was measured",
                abs(float(forward.output.loss.detach()) - expected), EXACT),
        equal("terms", float(forward.output.weight), terms),
        at_most("change of the loss with what stands in the padding",
                furthest(loss, forward.output.loss), EXACT),
        at_most("change of the gradient", moved, EXACT),
    )  # fmt: skip


@claim("nepa.scale-free", "The length of a target does not matter.",
       source="NEPA reference code, epsilon 1e-12; defect 17 of the ECG port",
       about=has_linear_targets)  # fmt: skip
def scale_free(twin: Twin) -> Evidence:
    """The last patch is a target and nothing else: its length must not matter, short or long."""
    inputs, objective, losses = real(twin), stirred_nepa(twin), []
    patch = twin.config.encoder.patch
    corner = corners(twin.config.input.size, patch)[-1]
    with torch.no_grad():
        sequence(objective).get_parameter("patches.bias").zero_()
        for factor in (1.0, 1e-9, 1e9):
            values = inputs.values.clone()
            window(values, corner, patch).mul_(factor)
            losses.append(float(objective(Inputs(values), draw_of(twin, inputs)).loss))
    gap = greatest(*(abs(loss - losses[0]) for loss in losses))
    return all_of(at_most("change of the loss", gap, 1e-6), factors="1e-9, 1e9")


@claim("nepa.target-gradient", "No gradient reaches a target.", source=LOSS, about=is_nepa)
def target_gradient(twin: Twin) -> Evidence:
    """The last patch is only ever a target, so the loss has no gradient in its samples."""
    inputs = real(twin)
    values = inputs.values.clone().requires_grad_()
    forward = again(stirred_nepa(twin), Inputs(values), draw_of(twin, inputs))
    forward.output.loss.backward()  # type: ignore[no-untyped-call]
    gradient = _gradient(values)
    patch, size = twin.config.encoder.patch, twin.config.input.size
    *others, last = [float(window(gradient, corner, patch).abs().max())
                     for corner in corners(size, patch)]  # fmt: skip
    return all_of(
        at_most("gradient in the last patch", last, later_effect(twin)),
        above("least gradient in another", min(others), 1e-12),
    )


@claim("nepa.finite-differences", "The gradient is that of the loss whose target is held fixed.",
       source=LOSS, about=is_nepa)  # fmt: skip
def finite_differences(twin: Twin) -> Evidence:
    """In random directions of the weights."""
    forward = one_pass(twin)
    objective, inputs, target = forward.objective, forward.inputs, forward.z
    forward.output.loss.backward()  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(twin.seed)
    parts, context = list[Evidence](), dict[str, float]()
    for name in (
        *_patch_parameters(objective.student),
        "cls",
        _matrix(objective.student),
        "norm.weight",
    ):
        parameter = objective.student.get_parameter(name)
        if not parameter.requires_grad:  # a fixed patch embedding
            continue
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        way, step = way / way.norm(), 1e-5
        fixed, moving = list[float](), list[float]()
        with torch.no_grad():
            for sign in (1, -1):
                parameter.add_(way, alpha=sign * step)
                moved = again(objective, inputs, draw_of(twin, inputs))
                for losses, z in ((fixed, target), (moving, moved.z)):
                    losses.append(float(-cosine_similarity(moved.h[:, :-1], z[:, 1:], -1).mean()))
                parameter.sub_(way, alpha=sign * step)
        measured = float((_gradient(parameter) * way).sum())
        expected = (fixed[0] - fixed[1]) / (2 * step)
        bound = 1e-7 * max(1.0, abs(expected))
        parts.append(at_most(f"{name}: difference", abs(measured - expected), bound))
        context[f"{name}: derivative"] = measured
        context[f"{name}: with a moving target"] = (moving[0] - moving[1]) / (2 * step)
    return all_of(*parts, **context)


def _matrix(network: nn.Module) -> str:
    """The first matrix of the first block."""
    names = (name for name, p in network.named_parameters() if p.ndim > 1)
    return next(name for name in names if name.startswith("blocks.0."))


def _patch_parameters(network: nn.Module) -> list[str]:
    """The weights of the patch embedding, whatever it is made of."""
    names = [name for name, _ in network.named_parameters()]
    return [name for name in names if name.startswith("patches.")]


@claim("nepa.causal", "No output changes by a bit when a later patch changes; by no more than "
       "roundings of float64 where the network convolves by FFT.",
       source=LOSS, about=is_nepa)  # fmt: skip
@torch.no_grad()
def causal(twin: Twin) -> Evidence:
    """Sample t has patch t changed: no output before that patch's token may change a bit."""
    bound = later_effect(twin)
    encoder = sequence(stirred(twin.objective(), twin.seed, wide=bound > 0))
    size, patch = twin.config.input.size, twin.config.encoder.patch
    places = corners(size, patch)
    start = real(twin, 1).values.to(encoder.norm.weight.dtype)
    values = start.expand(len(places), *start.shape[1:]).clone()
    was = encoder.layers(encoder.embed(values), size)
    for sample, corner in enumerate(places):
        window(values[sample], corner, patch).mul_(-1.5).add_(1.0)
    now = encoder.layers(encoder.embed(values), size)
    early, own = 0.0, math.inf
    for before, after in zip(was, now, strict=True):
        gap = (after - before).abs().amax(-1)  # (patch changed, token); patch t is token t + 1
        future = torch.ones_like(gap, dtype=torch.bool).triu(2)  # token j sees patches < j
        past = ~torch.ones_like(future).triu(1)
        early = greatest(early, float(gap[past].max()))
        own = min(own, float(gap.diagonal(1).min()))
    return all_of(
        at_most("change of an earlier output", early, bound),
        above("change of the patch's own output", own, 1e-6),
        above("least change of a later output", float(gap[future].min()), 1e-9),
        patches=len(places),
    )


@claim("nepa.patch-embedding", "A fixed patch embedding stays as it was drawn, a trained one is "
       "trained.", source="our design, docs/nepa-on-ecg.md", about=is_nepa)  # fmt: skip
def patch_embedding(twin: Twin) -> Evidence:
    """Three updates by the optimizer itself, with the patch embedding trained and with it fixed."""
    evidence, inputs = list[Evidence](), twin.inputs()
    for kind in ("trained", "fixed"):
        objective = twin.objective({"objective.patch_embedding": kind})
        optimizer = build_optimizer(objective, twin.config.optimizer)
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 0.01, 0.1
        names = (*_patch_parameters(sequence(objective)), "cls", _matrix(sequence(objective)))
        parts = {name: sequence(objective).get_parameter(name).detach() for name in names}
        before = {name: part.clone() for name, part in parts.items()}
        for _ in range(3):
            objective(inputs, None).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        for part, after in parts.items():
            name, change = f"{kind}: change of {part}", float((after - before[part]).abs().max())
            stays = kind == "fixed" and part.startswith("patches")
            evidence.append(at_most(name, change, 0.0) if stays else above(name, change, 1e-6))
    return all_of(*evidence)


@claim("nepa.teacher-apart", "The average of the weights takes no part in the loss.",
       source="NEPA reference code",
       about=lambda twin: is_nepa(twin) and twin.config.ema is not None)  # fmt: skip
def teacher_apart(twin: Twin) -> Evidence:
    inputs, objective, losses = real(twin), stirred_nepa(twin), []
    teacher = objective.teacher
    assert teacher is not None
    for offset in (0.0, 1.0):
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.add_(offset)
        losses.append(objective(inputs, draw_of(twin, inputs)).loss)
    losses[-1].backward()
    with_gradient = sum(p.grad is not None for p in teacher.parameters())
    return all_of(
        at_most("change of the loss", float((losses[0] - losses[1]).detach().abs()), 0.0),
        equal("its weights with a gradient", with_gradient, 0),
        true("it is read out", objective.encoder("teacher") is teacher),
    )
