"""A sampler of JEPA masks, draw by draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentcast.verification.evidence import equal
from latentcast.verification.foreign.verified import Lines, Verified

Sampler = Callable[[int], tuple[Tensor, Sequence[Tensor]]]


def verify_masks(sampler: Sampler, patches: int, draws: int = 500) -> Verified:
    """Look at a sampler of JEPA masks: is a target ever visible, is every patch ever either?

    Args:
        sampler: given the number of a draw, the indices of the context and those of each target.
        patches: of the grid.
    """
    lines = Lines()
    as_context, as_target = torch.zeros(patches), torch.zeros(patches)
    shared = outside = empty = twice = changed = 0
    for draw in range(draws):
        places, targets = sampler(draw)
        again, _ = sampler(draw)
        changed += not torch.equal(torch.as_tensor(places), torch.as_tensor(again))
        context = torch.as_tensor(places).flatten().long()
        hidden = torch.cat([torch.as_tensor(t).flatten().long() for t in targets])
        every = torch.cat([context, hidden])
        empty += not len(context) or any(not len(torch.as_tensor(t)) for t in targets)
        outside += int(((every < 0) | (every >= patches)).sum())
        twice += len(context) - len(context.unique())  # type: ignore[no-untyped-call]
        shared += int(torch.isin(context, hidden).sum())
        as_context[context.clamp(0, patches - 1)] += 1
        as_target[hidden.clamp(0, patches - 1)] += 1
    lines.add("masks.disjoint", "No patch is context and target at once.",
              equal("shared", shared, 0), draws=draws)  # fmt: skip
    lines.add(
        "masks.whole",
        "No mask is empty, leaves the grid or names a patch twice.",
        equal("empty", empty, 0),
        equal("outside", outside, 0),
        equal("twice", twice, 0),
    )
    lines.add(
        "masks.cover",
        "Every patch is context once, and target once.",
        equal("never context", int((as_context == 0).sum()), 0),
        equal("never target", int((as_target == 0).sum()), 0),
        draws=draws,
    )
    lines.add("masks.same-again", "The same draw gives the same masks.",
              equal("changed", changed, 0))  # fmt: skip
    return Verified(tuple(lines))
