"""Leads as tokens: whose token is which, what is hidden, and what a missing lead changes."""

from __future__ import annotations

import math

import torch

from latentcast.batch import Inputs
from latentcast.config import Config, EcgInput
from latentcast.data.fit import reading
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives.jepa import Jepa
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest
from latentcast.verification.observe.config import has_transformer, jepa_of
from latentcast.verification.observe.jepa import (
    MATTERS,
    ROUNDING,
    apart,
    changes,
    is_jepa,
    live,
    marked,
    noise,
    patch_flags,
    values,
    values_of,
)
from latentcast.verification.observe.masks import drawn_and_live
from latentcast.verification.observe.network import finest
from latentcast.verification.observe.twin import Twin

DESIGN = "our design, section 4: leads × time"


def has_lead_tokens(twin: Twin) -> bool:
    return twin.recipe.input.lead_rows is not None and is_jepa(twin)


def masks_time_alone(config: Config) -> bool:
    return jepa_of(config).mask_grids(config) != config.grids


NEEDS = has_lead_tokens


def _encoder(twin: Twin) -> PatchEncoder:
    return finest(live(twin))


@claim("leads.vectors", "Leads are lead by lead along the grid, each with a learned vector of its "
       "own beside its position in time: recordings with their leads and these vectors in another "
       "order give the tokens in that order.", source=DESIGN, about=has_transformer)  # fmt: skip
@torch.no_grad()
def vectors(twin: Twin) -> Evidence:
    encoder, x = _encoder(twin), values(twin)
    size = tuple(x.shape[2:])
    rows, times = encoder.grid(size)
    order = noise((rows,)).argsort()
    moved = (order[:, None] * times + torch.arange(times)).flatten()
    before = encoder.layers(encoder.embed(x), size)
    leads_alone = encoder.layers(encoder.embed(x[:, order]), size)[-1]
    vectors = encoder.get_parameter("leads.weight")
    vectors.copy_(vectors[order])
    after = encoder.layers(encoder.embed(x[:, order]), size)
    expected = [layer[:, moved] for layer in before]
    # Attention adds up in another order.
    return all_of(
        at_most("largest difference", max(changes(expected, after)), ROUNDING),
        above("without their vectors", apart(expected[-1], leads_alone), MATTERS),
    )


@claim("leads.hidden", "A span of time is hidden in all leads at once, and shown in all leads, "
       "unless the masks are of some leads.", source=DESIGN,
       about=lambda twin: masks_time_alone(twin.recipe))  # fmt: skip
def hidden(twin: Twin) -> Evidence:
    """Drawn, and met in the forward pass: the times of context and targets in each lead."""
    uneven = spans = 0
    for masks, grids in drawn_and_live(twin):
        blocks = [(masks.context, grids[0])]
        for targets, grid in zip(masks.targets, grids, strict=True):
            blocks += [(block, grid) for block in targets]
        for places, grid in blocks:
            shown = marked(places, math.prod(grid)).view(-1, *grid)
            uneven += int((shown != shown[:, :1]).sum())
            spans += int(shown[:, 0].sum())
    return all_of(equal("cells unlike those of the first lead", uneven, 0), times=spans)


@claim("leads.missing", "A missing lead changes nothing but that its tokens are not there: the "
       "others are what an encoder gives that never had them, at every level.",
       source=DESIGN)  # fmt: skip
@torch.no_grad()
def missing(twin: Twin) -> Evidence:
    """Leads that are not valid, whatever is in them, against tokens that are dropped."""
    objective, x = live(twin).eval(), values(twin)
    student, parts = objective.student, list[Evidence]()
    rows, times = student.grid(tuple(x.shape[2:]))
    recorded = noise((rows,), 3) > 0
    recorded[0] = True
    cells = recorded.repeat_interleave(times)
    flags = cells.expand(len(x), -1)
    kept = cells.nonzero().squeeze(1).expand(len(x), -1)
    without = student(x, None, kept)
    noisy = torch.where(patch_flags(twin, flags), x, 3 * noise(x.shape, 9))
    for name, read in (("zeros", torch.where(patch_flags(twin, flags), x, 0.0)), ("noise", noisy)):
        masked = student(read, student.valid(patch_flags(twin, flags)))
        first = masked[0].values[:, cells]
        pairs = [(without[0].values, first), *zip(values_of(without)[1:], values_of(masked)[1:],
                                                 strict=True)]  # fmt: skip
        worst = greatest(*(apart(a, b) for a, b in pairs))
        parts.append(at_most(f"difference with {name} in their place", worst, ROUNDING))
    complete = apart(student(x)[0].values[:, cells], without[0].values)
    return all_of(*parts, above("change of the others by having them", complete, MATTERS))


@claim("leads.dropped", "A lead that training drops has no valid token, in the context, among the "
       "targets and in the loss; evaluation drops none.", source=DESIGN)  # fmt: skip
@torch.no_grad()
def dropped(twin: Twin) -> Evidence:
    """With a share of 0.5, whatever the recipe's."""
    config = twin.config.updated({"input.drop_leads": 0.5, "train.micro_batches": 1})
    assert isinstance(config.input, EcgInput)
    _, preprocess = reading(twin.store, config)
    batch, objective = twin.batch(), live(twin)
    inputs, evaluated = preprocess(batch.samples, twin.draw()), preprocess(batch.samples)
    assert inputs.valid is not None and evaluated.valid is not None
    kept = inputs.valid.any(-1)
    flags = inputs.valid
    read = Inputs(inputs.values.double(), flags)
    other = torch.where(flags, read.values, 3 * noise(read.values.shape))
    losses = [objective(Inputs(x, flags), twin.draw()).loss for x in (read.values, other)]
    assert isinstance(objective, Jepa)
    tokens = objective.student.valid(flags).view(len(kept), config.grids[0][0], -1)
    return all_of(
        equal("tokens valid of dropped leads", int(tokens[~kept].sum()), 0),
        above("leads dropped", int((~kept).sum()), 0),
        above("least leads left of a sample", int(kept.sum(1).min()), 0),
        at_most("change of the loss by what is in them", abs(float(losses[0] - losses[1])), 0.0),
        equal("leads dropped in evaluation", int((~evaluated.valid.any(-1)).sum()), 0),
    )
