"""A sampler of JEPA masks, asked draw by draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentcast.verification.foreign.verified import Lines, Verified

Sampler = Callable[[int], tuple[Tensor, Sequence[Tensor]]]


def verify_masks(sampler: Sampler, patches: int, draws: int = 500) -> Verified:
    """Ask a sampler of JEPA masks: is a target ever visible, is every patch ever either?

    Args:
        sampler: given the number of a draw, the indices of the context and those of each target.
        patches: of the grid.
    """
    lines = Lines()
    as_context, as_target = torch.zeros(patches), torch.zeros(patches)
    shared = outside = empty = twice = changed = 0
    for draw in range(draws):
        context, targets = sampler(draw)
        again, _ = sampler(draw)
        changed += not torch.equal(torch.as_tensor(context), torch.as_tensor(again))
        seen = torch.as_tensor(context).flatten().long()
        hidden = torch.cat([torch.as_tensor(t).flatten().long() for t in targets])
        every = torch.cat([seen, hidden])
        empty += not len(seen) or any(not len(torch.as_tensor(t)) for t in targets)
        outside += int(((every < 0) | (every >= patches)).sum())
        twice += len(seen) - len(seen.unique())  # type: ignore[no-untyped-call]
        shared += int(torch.isin(seen, hidden).sum())
        as_context[seen.clamp(0, patches - 1)] += 1
        as_target[hidden.clamp(0, patches - 1)] += 1
    lines.add(
        "masks.disjoint",
        "No patch is context and target at once.",
        not shared,
        draws=draws,
        shared=shared,
    )
    lines.add(
        "masks.whole",
        "No mask is empty, leaves the grid or names a patch twice.",
        not (empty or outside or twice),
        empty=empty,
        outside=outside,
        twice=twice,
    )
    never = int((as_context == 0).sum()), int((as_target == 0).sum())
    lines.add(
        "masks.cover",
        "Every patch is context once, and target once.",
        not any(never),
        draws=draws,
        never_context=never[0],
        never_target=never[1],
    )
    lines.add(
        "masks.same-again", "The same draw gives the same masks.", not changed, changed=changed
    )
    return Verified(tuple(lines))
