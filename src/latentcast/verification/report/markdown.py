"""The report as Markdown: what a pull request, a README or a paper's appendix can hold."""

from __future__ import annotations

from collections.abc import Sequence

from latentcast.errors import printable
from latentcast.verification.report.lines import Report, Section

MARKS = {"holds": "✓", "broken": "✗ **broken**", "note": "note", "not measured": "– not measured"}


def markdown(report: Report) -> str:
    """The whole report."""
    parts = ["# latentcast verify\n", f"**{report.verdict}.**\n"]
    for section in report.sections:
        parts += _section(section)
    facts = [[name, f"`{it}`"] for name, it in report.environment.items() if it is not None]
    parts += ["## Environment\n", _table(["", ""], facts)]
    return printable("\n".join(parts).rstrip() + "\n")


def _section(section: Section) -> list[str]:
    facts = "; ".join(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
                      for name, value in section.facts.items())  # fmt: skip
    rows = [
        [f"`{line.id}`", line.sentence, line.source, line.text(), MARKS[line.verdict],
         f"{line.seconds:.2f} s"]
        for line in section.lines
    ]  # fmt: skip
    head = ["claim", "what", "source", "evidence", "verdict", "time"]
    return [
        f"## {section.name}\n",
        f"{section.summary} ({facts}; {section.seconds:.0f} s).\n",
        *(f"Most like {one}.\n" for one in section.most_like[:1]),
        _table(head, rows),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
