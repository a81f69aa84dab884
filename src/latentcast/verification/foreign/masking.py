"""A sampler of JEPA masks, draw by draw."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentcast.errors import LatentcastError
from latentcast.verification.evidence import at_most, equal
from latentcast.verification.foreign.mask_statistics import (
    add_context,
    add_grid,
    repeats,
    shared_targets,
)
from latentcast.verification.foreign.verified import Lines, Verified

Sampler = Callable[[int], tuple[Tensor, Sequence[Tensor]]]
SOURCE = "I-JEPA (Assran et al. 2023), section 3 and masks/multiblock.py"


class _Draws:
    """Counts over draws, taken in a thread of its own, which can be left."""

    def __init__(self, sampler: Sampler, patches: int, draws: int) -> None:
        self.sampler, self.patches, self.draws = sampler, patches, draws
        self.context = torch.zeros(draws, patches, dtype=torch.bool)
        self.hidden = torch.zeros(draws, patches, dtype=torch.bool)
        self.targets = list[list[Tensor]]()
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
        lists = [torch.as_tensor(t).flatten().long() for t in targets]
        hidden = torch.cat(lists)
        every = torch.cat([context, hidden])
        self.empty += not len(context) or not all(map(len, lists))
        self.outside += int(((every < 0) | (every >= patches)).sum())
        self.twice += repeats(context) + sum(map(repeats, lists))
        self.shared += int(torch.isin(context, hidden).sum())
        self.context[draw, context.clamp(0, patches - 1)] = True
        self.hidden[draw, hidden.clamp(0, patches - 1)] = True
        self.targets.append(lists)

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
    sampler: Sampler, patches: int, draws: int = 500, seconds: float = 60.0,
    size: tuple[int, int] | None = None,
) -> Verified:  # fmt: skip
    """Look at a sampler of JEPA masks: is a target ever visible, is every patch ever either?

    Args:
        sampler: given the number of a draw, the indices of the context and those of each target.
        patches: of the grid.
        seconds: for all draws; a sampler that has not come back for half of it is stuck.
        size: rows and columns of the grid, where it has two axes, is counted row by row and
            context may lie anywhere: then rows, columns and the shapes of blocks are looked at.
    """
    if size is not None and size[0] * size[1] != patches:
        raise LatentcastError(
            f"verify_masks: size {size} has {size[0] * size[1]} patches, and patches is {patches}; "
            "give rows and columns of the same grid"
        )
    lines, found = Lines(SOURCE), _Draws(sampler, patches, draws)
    returns, waited = found.within(seconds), time.monotonic() - found.begun
    if not returns:
        lines.add("masks.returns", "The sampler returns.",
                  at_most("seconds without an answer", waited, seconds / 2),
                  draw=found.done)  # fmt: skip
        return Verified(tuple(lines))
    context, hidden = found.context[: found.done], found.hidden[: found.done]
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
        equal("never context", int((~context.any(0)).sum()), 0),
        equal("never target", int((~hidden.any(0)).sum()), 0),
        draws=found.done,
        rarest_target=float(hidden.double().mean(0).min()),
        commonest_target=float(hidden.double().mean(0).max()),
    )
    add_context(lines, context, hidden)
    if size is not None:
        add_grid(lines, context, found.targets[: found.done], size)
    lines.add("masks.same-again", "The same draw gives the same masks.",
              equal("changed", found.changed, 0))  # fmt: skip
    lines.note(
        "masks.shares", "Shares of the grid, and of the hidden patches those in several targets.",
        context=float(context.double().mean()), hidden=float(hidden.double().mean()),
        in_several_targets=shared_targets(found.targets[: found.done]),
    )  # fmt: skip
    return Verified(tuple(lines))
