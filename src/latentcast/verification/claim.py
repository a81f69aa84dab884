"""A promise, and what measuring it found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from latentcast.verification.evidence import Evidence
from latentcast.verification.observe.twin import Twin

Probe = Callable[[Twin], Evidence]
RAISED = "raised"


def any_recipe(twin: Twin) -> bool:
    """What a claim is about unless it says otherwise."""
    return True


@dataclass(frozen=True)
class Claim:
    """One sentence about a recipe, and the probe that measures it on the live library.

    Attributes:
        id: ``area.name``, as ``ema.after-step``.
        sentence: the promise.
        source: who says so: paper section, reference code, our design.
        probe: measures it; never by reading the configuration alone.
        about: whether it is a claim about this twin at all (a NEPA has no mask).
    """

    id: str
    sentence: str
    source: str
    probe: Probe
    about: Callable[[Twin], bool] = any_recipe

    @property
    def area(self) -> str:
        """What it is about: the first part of its id."""
        return self.id.partition(".")[0]

    def concerns(self, twin: Twin) -> bool:
        """Whether it is about a twin; where even that cannot be found out, it is."""
        try:
            return self.about(twin)
        except Exception:  # a broken library may break anywhere
            return True


def claim(
    id: str, sentence: str, *, source: str, about: Callable[[Twin], bool] = any_recipe
) -> Callable[[Probe], Claim]:
    """Make a probe a claim; in a file of ``claims/`` that is all there is to do."""
    return lambda probe: Claim(id, sentence, source, probe, about)


@dataclass(frozen=True)
class Finding:
    """A claim and what became of it."""

    claim: Claim
    evidence: Evidence
    seconds: float

    @property
    def holds(self) -> bool:
        return self.evidence.holds

    @property
    def raised(self) -> bool:
        """Whether the probe failed instead of measuring, which proves nothing."""
        return set(self.evidence.numbers) == {RAISED}


def measure(claim: Claim, twin: Twin) -> Finding:
    """Run the probe of a claim; a probe that fails is a claim that does not hold."""
    start = time.perf_counter()
    try:
        evidence = claim.probe(twin)
    except Exception as problem:  # a broken library may break anywhere: that is a finding, too
        evidence = failure(problem)
    # Where a twin lies is of this machine, and its folder is gone when the report is read.
    numbers = {
        name: number.replace(str(twin.folder), "TWIN") if isinstance(number, str) else number
        for name, number in evidence.numbers.items()
    }
    return Finding(claim, Evidence(evidence.holds, numbers), time.perf_counter() - start)


def failure(problem: Exception) -> Evidence:
    """The evidence of a probe that failed instead of measuring."""
    return Evidence(False, {RAISED: f"{type(problem).__name__}: {problem}"[:300]})
