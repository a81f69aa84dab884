"""A sampler of JEPA masks, draw by draw."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentcast.verification.evidence import at_most, equal
from latentcast.verification.foreign.verified import Lines, Verified

Sampler = Callable[[int], tuple[Tensor, Sequence[Tensor]]]
SOURCE = "I-JEPA (Assran et al. 2023), section 3 and masks/multiblock.py"


class _Draws:
    """Counts over draws, taken in a thread of its own, which can be left."""

    def __init__(self, sampler: Sampler, patches: int, draws: int) -> None:
        self.sampler, self.patches, self.draws = sampler, patches, draws
        self.as_context, self.as_target = torch.zeros(patches), torch.zeros(patches)
        self.done = self.shared = self.outside = self.empty = self.twice = self.changed = 0
        self.begun = time.monotonic()
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            for draw in range(self.draws):
                self.begun = time.monotonic()
                self._count(draw)
                self.done += 1
        except Exception as problem:
            self.problem = problem
        except SystemExit:  # the draw that took too long was ended
            pass

    def _count(self, draw: int) -> None:
        places, targets = self.sampler(draw)
        again, _ = self.sampler(draw)
        patches = self.patches
        self.changed += not torch.equal(torch.as_tensor(places), torch.as_tensor(again))
        context = torch.as_tensor(places).flatten().long()
        hidden = torch.cat([torch.as_tensor(t).flatten().long() for t in targets])
        every = torch.cat([context, hidden])
        self.empty += not len(context) or any(not len(torch.as_tensor(t)) for t in targets)
        self.outside += int(((every < 0) | (every >= patches)).sum())
        self.twice += len(context) - len(context.unique())  # type: ignore[no-untyped-call]
        self.shared += int(torch.isin(context, hidden).sum())
        self.as_context[context.clamp(0, patches - 1)] += 1
        self.as_target[hidden.clamp(0, patches - 1)] += 1

    def within(self, seconds: float) -> bool:
        """Run; whether the sampler came back within the time, if not with all draws."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        thread.join(seconds)
        if not thread.is_alive():
            if self.problem is not None:
                raise self.problem
            return True
        stuck = time.monotonic() - self.begun > seconds / 2
        # The only way to end a thread: at its next line it raises what ends it.
        ident, end = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, end)
        return not stuck


def verify_masks(
    sampler: Sampler, patches: int, draws: int = 500, seconds: float = 60.0
) -> Verified:
    """Look at a sampler of JEPA masks: is a target ever visible, is every patch ever either?

    Args:
        sampler: given the number of a draw, the indices of the context and those of each target.
        patches: of the grid.
        seconds: for all draws; a sampler that has not come back for half of it is stuck.
    """
    lines, found = Lines(SOURCE), _Draws(sampler, patches, draws)
    returns, waited = found.within(seconds), time.monotonic() - found.begun
    if not returns:
        lines.add("masks.returns", "The sampler returns.",
                  at_most("seconds without an answer", waited, seconds / 2),
                  draw=found.done)  # fmt: skip
        return Verified(tuple(lines))
    lines.add("masks.disjoint", "No patch is context and target at once.",
              equal("shared", found.shared, 0), draws=found.done)  # fmt: skip
    lines.add(
        "masks.whole",
        "No mask is empty, leaves the grid or names a patch twice.",
        equal("empty", found.empty, 0),
        equal("outside", found.outside, 0),
        equal("twice", found.twice, 0),
    )
    lines.add(
        "masks.cover",
        "Every patch is context once, and target once.",
        equal("never context", int((found.as_context == 0).sum()), 0),
        equal("never target", int((found.as_target == 0).sum()), 0),
        draws=found.done,
        rarest_target=float(found.as_target.min() / max(1, found.done)),
        commonest_target=float(found.as_target.max() / max(1, found.done)),
    )
    lines.add("masks.same-again", "The same draw gives the same masks.",
              equal("changed", found.changed, 0))  # fmt: skip
    return Verified(tuple(lines))
