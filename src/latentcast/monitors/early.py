"""Does a run go wrong in its first tenth? Read off the rows of its log; where it does, it is named.

The thresholds of :mod:`latentcast.monitors.collapse` say that a representation is dead. Here also
counts that it is on its way there: a run that goes wrong seldom comes back, and nine tenths of its
time can be saved.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from latentcast.monitors import rows as columns
from latentcast.monitors.rows import number

SHARE: Final = 10
"""The first of so many parts of a training is looked at."""
LEAST_OF_RANK: Final = 1 / 3
"""Share of its first effective rank that a level may be left with."""
MOST_ABOVE: Final = 0.05
"""By so much of its own size a loss may stand above where it began: the median of the last third of
the rows, as a small batch has a noisy one."""
FAR_ABOVE: Final = 10.0
"""Sizes of the first loss that none of the others comes to in a sound run."""
MOST_SKIPPED: Final = 0.01
"""Share of the updates."""


def end_of_first_tenth(steps: int) -> int:
    """The step after which a training of so many is judged."""
    return max(1, steps // SHARE)


def warnings(rows: Sequence[Mapping[str, Any]], steps: int) -> tuple[str, ...]:
    """What goes wrong in the first tenth of a training, a phrase each; nothing of a sound one.

    Args:
        rows: of the log, later ones are not looked at.
        steps: of the training in all.
    """
    end = end_of_first_tenth(steps)
    early = [row for row in rows if row["step"] <= end]
    if not early:
        return ()
    first, last = early[0], early[-1]
    found = [str(name) for name in last.get("alarms", ())]
    losses = [loss for row in early if (loss := number(row.get("loss"))) is not None]
    if len(losses) < len(early):
        found.append("the loss is not finite")
    else:
        before, now = losses[0], statistics.median(losses[-max(1, len(losses) // 3) :])
        if now > before + MOST_ABOVE * abs(before):
            found.append(f"the loss has risen from {before:.3g} to {now:.3g}")
        elif max(losses) > FAR_ABOVE * abs(before):
            found.append(f"the loss began at {before:.3g} and came to {max(losses):.3g}")
    ranks = zip(columns.ranks(first), columns.ranks(last), strict=False)
    for level, (began, rank) in enumerate(ranks):
        if rank < LEAST_OF_RANK * began:
            found.append(f"the rank of level {level} has fallen from {began:.1f} to {rank:.1f}")
    if (skipped := int(last.get("skipped", 0))) > MOST_SKIPPED * end:
        found.append(f"{skipped} of {end} updates were skipped")
    return tuple(found)


def merit(rows: Sequence[Mapping[str, Any]], steps: int) -> tuple[float, ...]:
    """By which sound runs of one configuration are compared at the end of their first tenth: the
    online linear probe, where the store has labels, then the effective rank of the finest level;
    the loss is none, for a collapse has the best one."""
    early = [row for row in rows if row["step"] <= end_of_first_tenth(steps)]
    scores = [number(row.get("online_linear")) for row in early]
    scored = [score for score in scores if score is not None]
    ranks = columns.ranks(early[-1]) if early else ()
    return (scored[-1] if len(scored) > 1 else 0.0, ranks[0] if ranks else 0.0)
