"""Faults × claims: each bug of the catalogue put into the live library, and who noticed.

A claim that no injected fault turns red has proved nothing yet, and a fault that its claims do not
notice is a hole in the claims. Both are told.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentcast.config import Config
from latentcast.verification.claim import Claim, Evidence, Finding, measure
from latentcast.verification.fault import Fault
from latentcast.verification.observe.twin import Subject


@dataclass(frozen=True)
class Row:
    """What a fault did to the claims.

    Attributes:
        wanted: the claims that it must turn red and that concern the recipe.
        ran: all that were measured under it.
        red: those that did not hold, with what was measured.
        failed: why it could not be injected, if so.
    """

    fault: Fault
    wanted: tuple[str, ...]
    ran: tuple[str, ...]
    red: Mapping[str, Finding]
    seconds: float
    failed: str = ""

    @property
    def overlooked(self) -> tuple[str, ...]:
        """Claims that should have noticed and did not."""
        return tuple(name for name in self.wanted if name not in self.red)

    @property
    def fallen(self) -> tuple[str, ...]:
        """Claims that should have measured it and fell over, which proves nothing."""
        return tuple(name for name in self.wanted if name in self.red and raised(self.red[name]))

    @property
    def caught(self) -> bool:
        return bool(self.wanted) and not (self.overlooked or self.fallen or self.failed)

    @property
    def problem(self) -> str:
        """Why it does not count as caught."""
        if self.caught:
            return ""
        if self.failed:
            return f"could not be injected: {self.failed}"
        if not self.wanted:
            return "none of the claims that are to catch it concerns this recipe"
        told = {"overlooked by": self.overlooked, "not measured but fallen over by": self.fallen}
        return "; ".join(f"{how} {', '.join(names)}" for how, names in told.items() if names)


@dataclass(frozen=True)
class Matrix:
    """All faults that a recipe can have, against its claims.

    Attributes:
        claims: ids of the claims that concern the recipe and hold without a fault.
        full: each fault was held against all claims, and not only against those of its areas.
        lasting: claims that no longer held after the last fault was taken out again.
    """

    claims: tuple[str, ...]
    rows: tuple[Row, ...]
    full: bool
    lasting: tuple[str, ...] = ()

    @property
    def missed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.caught)

    @property
    def unproven(self) -> tuple[str, ...]:
        """Claims that no fault turned red by a number; falling over proves nothing."""
        proven = {name for row in self.rows for name, f in row.red.items() if not raised(f)}
        return tuple(name for name in self.claims if name not in proven)

    @property
    def holds(self) -> bool:
        return not self.missed and not self.lasting

    @property
    def summary(self) -> str:
        told = f"{len(self.rows) - len(self.missed)} of {len(self.rows)} faults caught"
        if self.unproven:
            told += f", {len(self.unproven)} claims unproven"
        if self.lasting:
            told += f", broken still after the last fault: {', '.join(self.lasting)}"
        return told

    @property
    def how(self) -> str:
        """What was measured, in a sentence for the report."""
        if self.full:
            return "Each fault was held against all claims that concern the recipe."
        return (
            "Each fault was held against the claims of its areas (its own and those of the claims "
            "it must turn red); --full holds it against all."
        )

    @property
    def areas(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(area, self.claims)))

    def as_json(self) -> dict[str, Any]:
        return {
            "full": self.full,
            "summary": self.summary,
            "unproven": list(self.unproven),
            "lasting": list(self.lasting),
            "rows": [
                {
                    "id": row.fault.id,
                    "sentence": row.fault.sentence,
                    "source": row.fault.source,
                    "reddens": list(row.wanted),
                    "caught": row.caught,
                    "problem": row.problem,
                    "caught_by": sorted(row.red),
                    "raised": sorted(name for name, f in row.red.items() if raised(f)),
                    "measured": len(row.ran),
                    "seconds": round(row.seconds, 2),
                }
                for row in self.rows
            ],
        }


def against(
    recipe: Config,
    claims: Sequence[Claim],
    faults: Sequence[Fault],
    seed: int = 0,
    full: bool = False,
    told: Callable[[Row], object] = lambda row: None,
) -> Matrix:
    """Inject each fault that concerns a recipe and measure.

    Args:
        claims: those that concern the recipe and hold: a claim that is broken anyway catches
            nothing.
        full: measure all claims under each fault.
        told: called after each.
    """
    with contextlib.closing(Subject(recipe, seed)) as healthy:
        possible = [fault for fault in faults if concerns(fault, healthy)]
    rows = []
    for fault in possible:
        rows.append(_row(recipe, claims, fault, seed, full))
        told(rows[-1])
    lasting = []
    if rows:
        after = measured(recipe, claims, seed)
        lasting = [finding.claim.id for finding in after if not finding.holds]
    return Matrix(tuple(claim.id for claim in claims), tuple(rows), full, tuple(lasting))


def measured(recipe: Config, claims: Sequence[Claim], seed: int = 0) -> Iterator[Finding]:
    """Measure the claims that concern a subject, on one of their own.

    A subject that cannot be built breaks all of them.
    """
    start = time.perf_counter()
    try:
        subject = Subject(recipe, seed)
    except Exception as problem:  # a broken library may break anywhere
        told = {"raised": f"{type(problem).__name__}: {problem}"[:300]}
        seconds = (time.perf_counter() - start) / max(1, len(claims))
        yield from (Finding(claim, Evidence(False, told), seconds) for claim in claims)
        return
    with contextlib.closing(subject):
        yield from (measure(claim, subject) for claim in claims if concerns(claim, subject))


def concerns(what: Claim | Fault, subject: Subject) -> bool:
    """Whether a claim or fault is about a subject; where even that cannot be told, it is."""
    try:
        return what.about(subject)
    except Exception:
        return True


def _row(recipe: Config, claims: Sequence[Claim], fault: Fault, seed: int, full: bool) -> Row:
    areas = {area(fault.id), *map(area, fault.reddens)}
    chosen = [claim for claim in claims if full or area(claim.id) in areas]
    wanted = tuple(claim.id for claim in claims if claim.id in fault.reddens)
    start, findings, failed = time.perf_counter(), list[Finding](), ""
    try:
        with fault.inject():
            findings = list(measured(recipe, chosen, seed))
    except Exception as problem:  # of a library that is broken already it may not fit any more
        failed = f"{type(problem).__name__}: {problem}"[:300]
    return Row(
        fault,
        wanted,
        ran=tuple(claim.id for claim in chosen),
        red={finding.claim.id: finding for finding in findings if not finding.holds},
        seconds=time.perf_counter() - start,
        failed=failed,
    )


def raised(finding: Finding) -> bool:
    """Whether the probe fell over instead of measuring."""
    return set(finding.evidence.numbers) == {"raised"}


def area(name: str) -> str:
    """The part of an id that names what it is about."""
    return name.partition(".")[0]
