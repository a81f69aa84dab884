"""What a look at foreign code gives back."""

from __future__ import annotations

from dataclasses import dataclass

from latentcast.verification.evidence import Evidence, Number, all_of
from latentcast.verification.report.lines import Line


@dataclass(frozen=True)
class Verified:
    """What a look at foreign code found."""

    lines: tuple[Line, ...]

    @property
    def holds(self) -> bool:
        return all(line.verdict != "broken" for line in self.lines)

    @property
    def broken(self) -> tuple[str, ...]:
        return tuple(line.id for line in self.lines if line.verdict == "broken")

    def __str__(self) -> str:
        marks = {"holds": "holds ", "broken": "BROKEN", "not measured": "  –   "}
        return "\n".join(
            f"{marks[line.verdict]}  {line.id}: {line.sentence} [{line.text()}]"
            for line in self.lines
        )


class Lines(list[Line]):
    def add(self, id: str, sentence: str, *parts: Evidence, **context: Number) -> None:
        evidence = all_of(*parts, **context)
        self.append(Line.of(id, sentence, "latentcast.verification.foreign", evidence))
