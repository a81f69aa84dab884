"""A promise, and what measuring it found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from latentcast.verification.observe.twin import Subject

Number = float | int | str | bool


@dataclass(frozen=True)
class Evidence:
    """What a probe measured.

    Attributes:
        holds: the verdict.
        numbers: what was seen, by name, with what it was held against.
    """

    holds: bool
    numbers: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One sentence about a recipe, and the probe that measures it on the live library.

    Attributes:
        id: ``area.name``, as ``ema.after-step``.
        sentence: the promise.
        source: who says so: paper section, reference code, our design.
        probe: measures it; never by reading the configuration alone.
        about: whether it is a claim about this subject at all (a NEPA has no mask).
    """

    id: str
    sentence: str
    source: str
    probe: Callable[[Subject], Evidence]
    about: Callable[[Subject], bool] = lambda subject: True


@dataclass(frozen=True)
class Finding:
    """A claim and what became of it."""

    claim: Claim
    evidence: Evidence
    seconds: float

    @property
    def holds(self) -> bool:
        return self.evidence.holds


def measure(claim: Claim, subject: Subject) -> Finding:
    """Run the probe of a claim; a probe that fails is a claim that does not hold."""
    start = time.perf_counter()
    try:
        evidence = claim.probe(subject)
    except Exception as problem:  # a broken library may break anywhere: that is a finding, too
        evidence = Evidence(False, {"raised": f"{type(problem).__name__}: {problem}"[:300]})
    # Where a subject lies is of this machine, and its folder is gone when the report is read.
    numbers = {
        name: told.replace(str(subject.folder), "SUBJECT") if isinstance(told, str) else told
        for name, told in evidence.numbers.items()
    }
    return Finding(claim, Evidence(evidence.holds, numbers), time.perf_counter() - start)


def below(measured: float, bound: float, what: str = "largest difference") -> Evidence:
    """Holds when a difference stays within its bound; NaN never does."""
    return Evidence(math.isfinite(measured) and measured <= bound, {what: measured, "bound": bound})
