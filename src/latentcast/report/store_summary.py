"""The summary of a store, to be signed: Markdown, or one HTML page."""

from __future__ import annotations

from pathlib import Path

from latentcast import markdown
from latentcast.data.summary import Summary
from latentcast.errors import LatentcastError
from latentcast.files import write_text
from latentcast.report.templates import Table, render

SUFFIXES = (".md", ".html")
SIGNED = "Checked by: ____________________  Date: ____________________"


def write_summary(path: Path, summary: Summary) -> None:
    """Write ``path``, whole or not at all.

    Raises:
        LatentcastError: its ending is neither ``.md`` nor ``.html``, or it cannot be written.
    """
    check_suffix(path)
    text = _written(summary, path.suffix.lower())
    try:
        write_text(path, text)
    except OSError as error:
        raise LatentcastError(
            f"{path}: cannot be written ({error}); name a file in a folder that is writable"
        ) from error


def check_suffix(path: Path) -> None:
    """Raises LatentcastError: a summary cannot have this ending."""
    if path.suffix.lower() not in SUFFIXES:
        raise LatentcastError(
            f"--summary {path}: is neither Markdown nor HTML; write --summary summary.html"
        )


def _written(summary: Summary, suffix: str) -> str:
    if suffix == ".md":
        return markdown.render(__package__, "store_summary.md", summary=summary, signed=SIGNED)
    tables = {
        part.title: Table("", part.head, part.rows, _numeric(part.rows))
        for part in summary.sections
    }
    return render("store_summary.html", title=summary.path, tables=tables, signed=SIGNED)


def _numeric(rows: tuple[tuple[str, ...], ...]) -> list[int]:
    """The columns of numbers."""
    return [
        column
        for column in range(1, len(rows[0]))
        if all(row[column].strip("-%, ").replace(",", "").replace(".", "").isdigit()
               for row in rows)
    ]  # fmt: skip
