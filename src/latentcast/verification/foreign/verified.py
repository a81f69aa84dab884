"""What a look at foreign code gives back."""

from __future__ import annotations

from dataclasses import dataclass

from latentcast.verification.evidence import Evidence, Number, all_of
from latentcast.verification.report.lines import Line

MARKS = {"holds": "holds ", "broken": "BROKEN", "note": "note  ", "not measured": "  –   "}


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
        return "\n".join(
            f"{MARKS[line.verdict]}  {line.id}: {line.sentence} [{line.text()}]"
            for line in self.lines
        )


class Lines(list[Line]):
    """Lines of one source."""

    def __init__(self, source: str = "latentcast.verification.foreign") -> None:
        super().__init__()
        self.source = source

    def add(self, id: str, sentence: str, *parts: Evidence, **context: Number) -> None:
        """A promise, held against its numbers."""
        self.append(Line.of(id, sentence, self.source, all_of(*parts, **context)))

    def note(self, id: str, sentence: str, **numbers: Number) -> None:
        """What a reader should know and may be as it is meant to be."""
        beside = {name.replace("_", " "): value for name, value in numbers.items()}
        self.append(Line(id, sentence, self.source, "note", beside))

    def unmeasured(self, id: str, sentence: str, reason: str) -> None:
        self.append(Line(id, sentence, self.source, "not measured", {"reason": reason}))
