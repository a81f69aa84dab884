"""What a verification found: lines in sections in a report, the same for recipe, run and parity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latentcast.verification.claim import Evidence, Finding, Number
from latentcast.verification.matrix import Matrix

Verdict = Literal["holds", "broken", "not measured"]
Kind = Literal["recipe", "run", "parity"]

RELATIONS = {"at most": "≤", "at least": "≥"}


@dataclass(frozen=True)
class Line:
    """A promise, who made it, and what became of it.

    Attributes:
        verdict: ``not measured`` is said where something needed is not at hand, with the reason
            among the numbers; it is no failure and no success.
    """

    id: str
    sentence: str
    source: str
    verdict: Verdict
    numbers: Mapping[str, Number] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def of(cls, id: str, sentence: str, source: str, evidence: Evidence, seconds: float) -> Line:
        verdict: Verdict = "holds" if evidence.holds else "broken"
        return cls(id, sentence, source, verdict, evidence.numbers, seconds)

    def told(self, most: int | None = None) -> str:
        """The numbers as one line; the first ``most`` of them, all by default."""
        return ", ".join(f"{name} {value}".strip() for name, value in self.shown()[:most])

    def shown(self) -> list[tuple[str, str]]:
        """Each number as people read it, one beside its bound (``x: at most``) as one."""
        if self.verdict == "not measured":
            return [("", str(value)) for value in self.numbers.values()]
        told: list[tuple[str, str]] = []
        for name, value in self.numbers.items():
            what, _, relation = name.rpartition(": ")
            if told and what == told[-1][0] and relation in RELATIONS:
                told[-1] = what, f"{told[-1][1]} {RELATIONS[relation]} {plain(value)}"
            else:
                told.append((name, plain(value)))
        return told


def line_of(findings: Mapping[int, Finding]) -> Line:
    """One claim over seeds: it holds when it does with each; shown is the first that broke it."""
    broken = [seed for seed, finding in findings.items() if not finding.holds]
    shown = findings[broken[0]] if broken else next(iter(findings.values()))
    numbers = dict(shown.evidence.numbers)
    if len(findings) > 1:
        told = ", ".join(map(str, broken))
        numbers["seeds"] = f"broken with {told} of {len(findings)}" if broken else len(findings)
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
    matrix: Matrix | None = None
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Nothing is broken, something holds, and every fault was caught."""
        verdicts = {line.verdict for line in self.lines}
        caught = self.matrix is None or self.matrix.holds
        return "broken" not in verdicts and "holds" in verdicts and caught

    def count(self, verdict: Verdict) -> int:
        return sum(line.verdict == verdict for line in self.lines)

    @property
    def summary(self) -> str:
        """One sentence, the one that decides."""
        whole = len(self.lines) - self.count("not measured")
        what = {"parity": "quantities agree", "run": "checks hold"}.get(self.kind, "claims hold")
        told = f"{self.count('holds')} of {whole} {what}"
        if unmeasured := self.count("not measured"):
            told += f", {unmeasured} not measured"
        return told + (f"; {self.matrix.summary}" if self.matrix else "")


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
        broken = [section for section in self.sections if not section.holds]
        lines = [line for section in self.sections for line in section.lines]
        if not broken:
            open_ = sum(line.verdict == "not measured" for line in lines)
            told = f"Every claim holds: {len(lines) - open_} measured"
            told += f", {open_} not measured" if open_ else ""
            faults = sum(len(section.matrix.rows) for section in self.sections if section.matrix)
            return told + (f"; {faults} faults caught" if faults else "")
        names = [line.id for line in lines if line.verdict == "broken"]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return f"Broken: {', '.join(names[:3])}{more}"
        missed = [row.fault.id for s in broken if s.matrix for row in s.matrix.missed]
        if missed:
            return f"Every claim holds, and a fault was not caught: {', '.join(missed[:3])}"
        return f"Not proven: {', '.join(section.name for section in broken)}"

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
                    "facts": dict(section.facts),
                    "seconds": round(section.seconds, 2),
                    "claims": [
                        {
                            "id": line.id,
                            "sentence": line.sentence,
                            "source": line.source,
                            "verdict": line.verdict,
                            "numbers": {n: _json(v) for n, v in line.numbers.items()},
                            "seconds": round(line.seconds, 3),
                        }
                        for line in section.lines
                    ],
                    "faults": section.matrix.as_json() if section.matrix else None,
                }
                for section in self.sections
            ],
        }


def stable(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a report's JSON what no machine changes: promises, sources, verdicts, who caught what."""
    return [
        {
            "name": section["name"],
            "kind": section["kind"],
            "holds": section["holds"],
            "claims": [
                {key: claim[key] for key in ("id", "sentence", "source", "verdict")}
                for claim in section["claims"]
            ],
            "faults": {
                "full": section["faults"]["full"],
                "unproven": section["faults"]["unproven"],
                "rows": [
                    {key: row[key] for key in ("id", "sentence", "source", "reddens", "caught_by")}
                    for row in section["faults"]["rows"]
                ],
            }
            if section["faults"]
            else None,
        }
        for section in report["sections"]
    ]


def plain(value: Number) -> str:
    """A number as people read it."""
    if isinstance(value, bool) or not isinstance(value, float):
        return (
            f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        )
    return f"{value:.4g}"


def _json(value: Number) -> Number:
    """JSON has no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
