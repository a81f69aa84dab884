"""A predictor of the next embedding, from outside: does it see what it predicts?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentcast.errors import LatentcastError
from latentcast.verification.evidence import at_most, equal
from latentcast.verification.foreign.networks import evaluated, in_double
from latentcast.verification.foreign.verified import Lines, Verified

SOURCE = "NEPA, modeling_vit_nepa.py: next-embedding prediction, prediction_loss"
SAME = 1e-6
"""Relative difference of outputs in float64 that are summed in another order."""
Predict = Callable[[Tensor], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def verify_nepa(
    model: Predict, values: Tensor, loss: Loss | None = None, places: int = 8,
    shorter: bool = False,
) -> Verified:  # fmt: skip
    """Look at a causal predictor of embeddings: does it see what it predicts, and predict the next?

    Args:
        model: maps values to (embeddings, predictions), both ``(B, N, width)``; prediction ``i``
            is of embedding ``i + 1``. The modules in it are run in evaluation mode, and disturbed
            in float64 with every LayerScale at 1: one of 1e-5 hides attention from float32.
        values: a batch, as the model takes it.
        loss: of (embeddings, predictions), as training computes it.
        places: at which the values are disturbed, evenly over them, the last ones included.
        shorter: the model is meant to read signals of several lengths on one time scale: the first
            half is also given alone. Images, and NEPA as it is published, have positions that are
            shares of the input, so for them this is no promise.
    """
    lines = Lines(SOURCE)
    with evaluated(model) as networks, torch.no_grad():
        with in_double(networks):
            kind = next((p.dtype for m in networks for p in m.parameters()), values.dtype)
            _causal(lines, model, values.to(kind), places)
            if shorter:
                _time_scale(lines, model, values.to(kind))
        z, h = model(values)
    if loss is not None:
        _loss(lines, loss, z.detach(), h.detach())
    return Verified(tuple(lines))


def _causal(lines: Lines, model: Predict, values: Tensor, places: int) -> None:
    """Which embeddings a disturbed value changes says which patch it lies in."""
    z, h = model(values)
    if z.shape != h.shape:
        raise LatentcastError(
            f"verify_nepa: embeddings {tuple(z.shape)} and predictions {tuple(h.shape)} must have "
            "one shape, (B, N, width)"
        )
    sample = values[0].numel()
    early, largest, blind, touches = 0, 0.0, 0, 0
    for place in torch.linspace(0, sample - 1, places).long().tolist():
        other = values.clone()
        other.view(len(values), -1)[:, place] += 3.0 + values.abs().max()
        z2, h2 = model(other)
        touched = (z2 != z).flatten(2).any(2).any(0).nonzero().flatten()
        if not len(touched):
            continue
        first = int(touched[0])
        touches = max(touches, len(touched))
        before = (h2[:, :first] - h[:, :first]).abs()
        if before.numel() and bool((before != 0).any()):
            early += 1
            largest = max(largest, float(before.max()))
        blind += bool((h2[:, first:] == h[:, first:]).all())
    lines.add(
        "nepa.local",
        "An embedding is of its own patch alone.",
        equal("patches that one value touches", touches, 1),
    )
    lines.add(
        "nepa.causal",
        "No output sees a later patch, bit for bit.",
        equal("seen too early", early, 0),
        places=places,
        largest_change=largest,
    )
    lines.add("nepa.sees", "An output sees its own patch.", equal("blind to", blind, 0))


def _time_scale(lines: Lines, model: Predict, values: Tensor) -> None:
    """A causal model has read nothing else of a signal's first half than of the half alone."""
    name = "nepa.time-scale"
    sentence = "A shorter signal has the same time scale: its outputs are those of the longer one."
    try:
        _, alone = model(values[..., : values.shape[-1] // 2])
    except Exception as problem:
        lines.unmeasured(name, sentence, f"half of the samples are refused: {problem}")
        return
    _, h = model(values)
    alone = alone[:, :-1]  # its last patch may be cut
    first = h[:, : alone.shape[1]]
    gap = float((alone - first).norm()) / max(float(first.norm()), 1e-300)
    lines.add(name, sentence, at_most("relative difference", gap, SAME))


def _loss(lines: Lines, loss: Loss, z: Tensor, h: Tensor) -> None:
    """The cosine of each prediction with the next embedding, and no gradient into the target."""
    target, output = z.clone().requires_grad_(), h.clone().requires_grad_()
    value = loss(target, output)
    into_target, into_output = torch.autograd.grad(value, (target, output), allow_unused=True)
    leak = 0.0 if into_target is None else float(into_target.abs().max())
    lines.add("nepa.stop-gradient", "The target gets no gradient.", at_most("largest", leak, 0.0))
    last = float("nan") if into_output is None else float(into_output[:, -1].abs().max())
    cosines = {shift: _cosine(z, h, shift) for shift in (0, 1, 2)}
    gaps = {shift: abs(float(value.detach()) - cosine) for shift, cosine in cosines.items()}
    best = min(gaps, key=lambda shift: gaps[shift])
    # Where none fits, the loss is another function, and the next line says so.
    fit = [equal("shift that fits best", best, 1)] if gaps[best] <= 1e-4 else []
    lines.add(
        "nepa.shift",
        "Prediction i is held against embedding i + 1, the last one against nothing.",
        at_most("gradient of the last output", last, 0.0),
        *fit,
    )
    lines.add(
        "nepa.loss",
        "It is −mean cos(prediction, next embedding), in float64.",
        at_most("difference", gaps[1], 1e-5),
        loss=float(value.detach()),
        formula=cosines[1],
    )


def _cosine(z: Tensor, h: Tensor, shift: int) -> float:
    a, b = h[:, : h.shape[1] - shift].double(), z[:, shift:].double()
    return -float(((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean())
