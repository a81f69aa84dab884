"""Masked latent prediction: who sees what, and what the loss is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.objectives.masked import Masked, MaskedConfig
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most
from latentcast.verification.observe.hooks import hooked
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    apart,
    move,
    noise,
    patch_flags,
    some_valid,
    values,
)
from latentcast.verification.observe.twin import Twin


def _is_masked(twin: Twin) -> bool:
    return isinstance(twin.recipe.objective, MaskedConfig)


NEEDS = _is_masked
SOURCE = "our design, docs/masked.md; data2vec (Baevski et al. 2022)"


class _Pass:
    """A forward pass: the loss, what the predictor reads and what it predicts."""

    def __init__(self, objective: Masked, twin: Twin, inputs: Inputs) -> None:
        calls: list[tuple[Any, ...]] = []
        hook = objective.predictor.register_forward_hook(
            lambda module, args, out: calls.append((*args, out))
        )
        with hooked([hook]):
            self.loss = objective(inputs, twin.draw()).loss
        ((self.tokens, self.masked, _, _, self.prediction),) = calls


def _live(twin: Twin) -> Masked:
    """In float64, teacher and student apart."""
    objective = twin.objective()
    assert isinstance(objective, Masked)
    objective.double()
    move(objective.teacher)
    return objective


@claim("masked.blind", "What stands in masked patches reaches neither the student's tokens nor a "
       "prediction, not one bit of it, and the loss does not answer to it: no gradient runs into "
       "a target.", source=SOURCE)  # fmt: skip
def blind(twin: Twin) -> Evidence:
    """Other content in the masked patches, then in the visible ones; the loss's gradient."""
    objective, x = _live(twin), values(twin).requires_grad_()
    before = _Pass(objective, twin, Inputs(x))
    before.loss.backward()
    assert x.grad is not None
    flags, other = patch_flags(twin, before.masked), 3 * noise(x.shape)
    hidden, visible = (
        _Pass(objective, twin, Inputs(torch.where(where, other, x.detach())))
        for where in (flags, ~flags)
    )
    return all_of(
        at_most("tokens, other content masked", apart(hidden.tokens, before.tokens), 0.0),
        at_most("predictions", apart(hidden.prediction, before.prediction), 0.0),
        at_most("gradient at masked patches", float(x.grad[flags].abs().max()), 0.0),
        above("tokens, other content visible", apart(visible.tokens, before.tokens), MATTERS),
        above("share of patches masked", float(before.masked.double().mean()), 0.05),
    )


@claim("masked.loss", "The loss is the weighted mean of smooth-L1 between predictions and the "
       "teacher's tokens of the input, each channel standardised over the valid tokens of the "
       "batch; tokens that are not valid count for nothing.", source=SOURCE)  # fmt: skip
def loss(twin: Twin) -> Evidence:
    """By its formula, from what the predictor predicted; then with other content where nothing is
    valid."""
    objective, x = _live(twin), values(twin)
    valid = some_valid(twin, len(x))
    measured = patch_flags(twin, valid)
    x = torch.where(measured, x, 0)
    found = _Pass(objective, twin, Inputs(x, measured))
    settings = objective.config
    with torch.no_grad():
        rows = objective.teacher.encode(x, valid)[valid]
    centred = rows - rows.mean(0)
    target = centred / (centred.square().mean(0).sqrt() + 1e-3)
    error = (found.prediction[valid] - target).abs()
    terms = torch.where(error < 1, error.square() / 2, error - 0.5).mean(-1)
    weight = torch.where(found.masked[valid], 1.0, settings.visible_weight).double()
    expected: Tensor = (terms * weight).sum() / weight.sum()
    return all_of(
        at_most("difference", apart(found.loss, expected), ROUNDING),
        above("of both kinds", float(found.masked[valid].double().std()), 0.1),
        loss=float(found.loss.detach()),
    )
