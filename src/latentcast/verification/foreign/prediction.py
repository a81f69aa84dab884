"""A predictor of the next embedding, asked: does it see what it predicts?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentcast.errors import LatentcastError
from latentcast.verification.foreign.verified import Lines, Verified

Predict = Callable[[Tensor], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def verify_nepa(
    model: Predict, values: Tensor, loss: Loss | None = None, places: int = 8
) -> Verified:
    """Ask a causal predictor of embeddings: does it see what it predicts, and predict the next?

    Args:
        model: maps values to (embeddings, predictions), both ``(B, N, width)``; prediction ``i``
            is of embedding ``i + 1``. A module is asked in evaluation mode.
        values: a batch, as the model takes it.
        loss: of (embeddings, predictions), as training computes it.
        places: at which the values are disturbed, evenly over them, the last ones included.
    """
    lines = Lines()
    was = model.training if isinstance(model, nn.Module) else None
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with torch.no_grad():
            _causal(lines, model, values, places)
            z, h = model(values)
    finally:
        if isinstance(model, nn.Module) and was:
            model.train()
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
    seen_early, largest, blind, touches = 0, 0.0, 0, 0
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
            seen_early += 1
            largest = max(largest, float(before.max()))
        blind += bool((h2[:, first:] == h[:, first:]).all())
    lines.add(
        "nepa.local",
        "An embedding is of its own patch alone.",
        touches == 1,
        patches_that_one_value_touches=touches,
    )
    lines.add(
        "nepa.causal",
        "No output sees a later patch, bit for bit.",
        not seen_early,
        places=places,
        seen_too_early=seen_early,
        largest_change=largest,
    )
    lines.add("nepa.sees", "An output sees its own patch.", not blind, blind_to=blind)


def _loss(lines: Lines, loss: Loss, z: Tensor, h: Tensor) -> None:
    """The cosine of each prediction with the next embedding, and no gradient into the target."""
    target, output = z.clone().requires_grad_(), h.clone().requires_grad_()
    value = loss(target, output)
    into_target, into_output = torch.autograd.grad(value, (target, output), allow_unused=True)
    leak = 0.0 if into_target is None else float(into_target.abs().max())
    lines.add("nepa.stop-gradient", "The target gets no gradient.", leak == 0.0, largest=leak)
    last = float("nan") if into_output is None else float(into_output[:, -1].abs().max())
    found = {shift: _cosine(z, h, shift) for shift in (0, 1, 2)}
    gaps = {shift: abs(float(value.detach()) - wanted) for shift, wanted in found.items()}
    best = min(gaps, key=lambda shift: gaps[shift])
    lines.add(
        "nepa.shift",
        "Prediction i is held against embedding i + 1, the last one against nothing.",
        last == 0.0 and (gaps[best] > 1e-4 or best == 1),
        gradient_of_the_last_output=last,
        shift_that_fits_best=best,
    )
    lines.add(
        "nepa.loss",
        "It is −mean cos(prediction, next embedding), in float64.",
        gaps[1] <= 1e-5,
        loss=float(value.detach()),
        formula=found[1],
        bound=1e-5,
    )


def _cosine(z: Tensor, h: Tensor, shift: int) -> float:
    a, b = h[:, : h.shape[1] - shift].double(), z[:, shift:].double()
    return -float(((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean())
