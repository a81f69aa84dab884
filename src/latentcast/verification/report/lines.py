"""What a verification found: lines in sections in a report, the same for recipe, run and parity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latentcast.verification.claim import Finding
from latentcast.verification.evidence import ABOVE, AT_MOST, EXPECTED, Evidence, Number
from latentcast.verification.report.likeness import Likeness, most_like

Verdict = Literal["holds", "broken", "note", "not measured"]
Kind = Literal["recipe", "run", "parity", "training"]

SIGNS = {AT_MOST: " ≤ ", ABOVE: " > "}


@dataclass(frozen=True)
class Line:
    """A promise, who made it, and what became of it.

    Attributes:
        verdict: ``not measured`` where something needed is not at hand, with the reason among the
            numbers; it is no failure and no success. Neither is a ``note``: what may be as it is
            meant to be.
    """

    id: str
    sentence: str
    source: str
    verdict: Verdict
    numbers: Mapping[str, Number] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def of(
        cls, id: str, sentence: str, source: str, evidence: Evidence, seconds: float = 0.0
    ) -> Line:
        verdict: Verdict = "holds" if evidence.holds else "broken"
        return cls(id, sentence, source, verdict, evidence.numbers, seconds)

    def text(self, most: int | None = None) -> str:
        """The numbers as one line; the first ``most`` of them, all by default."""
        return ", ".join(f"{name} {value}".strip() for name, value in self.measurements()[:most])

    def measurements(self) -> list[tuple[str, str]]:
        """Each number as people read it, together with what it was held against."""
        if self.verdict == "not measured":
            return [("", str(value)) for value in self.numbers.values()]
        shown: dict[str, str] = {}
        for name, value in self.numbers.items():
            what, _, relation = name.rpartition(": ")
            if what in shown and relation in SIGNS:
                shown[what] += SIGNS[relation] + plain(value)
            elif what in shown and relation == EXPECTED:
                if self.numbers[what] != value:
                    shown[what] += f" (expected {plain(value)})"
            else:
                shown[name] = plain(value)
        return list(shown.items())


def line_of(findings: Mapping[int, Finding]) -> Line:
    """One claim over seeds: it holds when it does with each; shown is the first that broke it."""
    broken = [seed for seed, finding in findings.items() if not finding.holds]
    shown = findings[broken[0]] if broken else next(iter(findings.values()))
    numbers = dict(shown.evidence.numbers)
    if len(findings) > 1:
        seeds = ", ".join(map(str, broken))
        numbers["seeds"] = f"broken with {seeds} of {len(findings)}" if broken else len(findings)
    claim, seconds = shown.claim, sum(finding.seconds for finding in findings.values())
    return Line.of(claim.id, claim.sentence, claim.source, Evidence(not broken, numbers), seconds)


@dataclass(frozen=True)
class Section:
    """What was verified together: a recipe, a run folder, a parity file.

    Attributes:
        name: recipe, or path as it was given.
        facts: what a reader needs to know of it: seeds, parameters, steps.
    """

    name: str
    kind: Kind
    lines: tuple[Line, ...]
    facts: Mapping[str, Number] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Nothing is broken, and something holds."""
        verdicts = {line.verdict for line in self.lines}
        return "broken" not in verdicts and "holds" in verdicts

    @property
    def most_like(self) -> list[Likeness]:
        """Known faults that turn the claims red that are red here."""
        red = [line.id for line in self.lines if line.verdict == "broken"]
        return most_like(red) if self.kind == "recipe" else []

    def count(self, verdict: Verdict) -> int:
        return sum(line.verdict == verdict for line in self.lines)

    @property
    def measured(self) -> int:
        return self.count("holds") + self.count("broken")

    @property
    def summary(self) -> str:
        """One sentence, the one that decides."""
        what = {"parity": "quantities agree", "run": "checks hold", "training": "checks hold"}.get(
            self.kind, "claims hold"
        )
        text = f"{self.count('holds')} of {self.measured} {what}"
        if unmeasured := self.count("not measured"):
            text += f", {unmeasured} not measured"
        if notes := self.count("note"):
            text += f", {notes} to note"
        return text


@dataclass(frozen=True)
class Report:
    """All sections, and under what they were measured."""

    sections: tuple[Section, ...]
    environment: Mapping[str, Any]

    @property
    def holds(self) -> bool:
        return all(section.holds for section in self.sections)

    @property
    def verdict(self) -> str:
        """The headline."""
        lines = [line for section in self.sections for line in section.lines]
        broken = [line.id for line in lines if line.verdict == "broken"]
        if broken:
            more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
            return f"Broken: {', '.join(broken[:3])}{more}"
        unproven = [section.name for section in self.sections if not section.holds]
        if unproven:
            return f"Not proven: {', '.join(unproven)}"
        measured = sum(section.measured for section in self.sections)
        unmeasured = sum(line.verdict == "not measured" for line in lines)
        text = f"Every claim holds: {measured} measured"
        return text + (f", {unmeasured} not measured" if unmeasured else "")

    def as_json(self) -> dict[str, Any]:
        return {
            "holds": self.holds,
            "verdict": self.verdict,
            "environment": dict(self.environment),
            "sections": [
                {
                    "name": section.name,
                    "kind": section.kind,
                    "holds": section.holds,
                    "summary": section.summary,
                    "most_like": [vars(one) for one in section.most_like],
                    "facts": dict(section.facts),
                    "seconds": round(section.seconds, 2),
                    "claims": [
                        {
                            **vars(line),
                            "numbers": {n: _json(v) for n, v in line.numbers.items()},
                            "seconds": round(line.seconds, 3),
                        }
                        for line in section.lines
                    ],
                }
                for section in self.sections
            ],
        }


def plain(value: Number) -> str:
    """A number as people read it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _json(value: Number) -> Number:
    """JSON has no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
