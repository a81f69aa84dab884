"""``python tests/verification/alarms.py``: red lines of right trainings, and of faulty ones.

A red line of a right training is a false alarm. Of a faulty one the line that it is named by is
true by its making; what else is red is listed, as only a reader can say whose it is.
"""

from __future__ import annotations

import os

from other_trainings import BEGIN, TRAININGS
from trainings import FAULTS, VARIANTS, momentum, script

from latentcast.verification.foreign import Verified, watched
from latentcast.verification.foreign.average import Momentum


def watch(source: str, expected: Momentum | None = None) -> Verified:
    """As rank 0; one that asks for its rank is run as rank 1 before."""
    ranks = ("1", "0") if "RANK" in source else ("0",)
    for rank in ranks:
        os.environ.update(RANK=rank, WORLD_SIZE=str(len(ranks)))
        with watched(momentum=expected, total=200) as found:
            exec(compile(source, "training", "exec"), {"__name__": "__main__"})
    return found.verified


def main() -> None:
    right = {name: script(name) for name in VARIANTS}
    right |= {name: BEGIN + source for name, source in TRAININGS.items()}
    lines = alarms = named = beside = 0
    for name, source in right.items():
        found = watch(source, momentum if name in VARIANTS else None)
        lines += sum(line.verdict in ("holds", "broken") for line in found.lines)
        alarms += len(found.broken)
        for line in found.broken:
            print(f"right, {name}: {line}", flush=True)
    for name, fault in FAULTS.items():
        broken = watch(script(fault.variant, fault.edits), momentum).broken
        named += fault.line in broken
        others = [line for line in broken if line != fault.line]
        beside += len(others)
        if others or fault.line not in broken:
            print(f"{name}: {fault.line in broken} {fault.line}, beside it {others}", flush=True)
    print(f"{len(right)} right trainings, {lines} lines measured, {alarms} red")
    print(f"{len(FAULTS)} faults, {named} named, {beside} red lines beside")


if __name__ == "__main__":
    main()
