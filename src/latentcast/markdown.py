"""Tables and text for Markdown: names come from files, and nothing in them is markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines, each cell escaped."""
    lines = [[escaped(str(cell)) for cell in row] for row in (heading, *rows)]
    lines.insert(1, ["---"] * len(heading))
    return [f"| {' | '.join(line)} |" for line in lines]


def escaped(value: str) -> str:
    """Text on one line, with what would be read as markup behind a backslash."""
    for mark in "\\`*_<>|#":
        value = value.replace(mark, f"\\{mark}")
    return value.replace("](", "]\\(").replace("\n", " ")
