"""The report as files: one page that needs no network (its search is a script in the page, and
without scripts all is shown), Markdown, JSON, a badge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from markupsafe import Markup

from latentcast.errors import LatentcastError
from latentcast.files import write_text
from latentcast.report.templates import render
from latentcast.verification.report.badge import badge
from latentcast.verification.report.lines import Line, Report, Section, Verdict, plain
from latentcast.verification.report.markdown import markdown

VERDICTS: Final[tuple[Verdict, ...]] = ("broken", "note", "not measured", "holds")
"""What is bad first."""


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.html``, ``report.md``, ``report.json`` and ``badge.svg``; the page's path.

    Raises:
        LatentcastError: the folder cannot be written to.
    """
    files = {
        "report.html": html(report),
        "report.md": markdown(report),
        "report.json": json.dumps(report.as_json(), indent=1) + "\n",
        "badge.svg": badge(report),
    }
    with writing_to(folder):
        for name, text in files.items():
            write_text(folder / name, text)
    return folder / "report.html"


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """The folder exists; what cannot be written in it is an error with the fix."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as problem:
        raise LatentcastError(
            f"{folder}: cannot be written ({problem}); choose another --out"
        ) from None


def html(report: Report) -> str:
    """The page."""
    names = ", ".join(section.name for section in report.sections)
    return render(
        "verification.html", report=report, badge=Markup(badge(report)), areas=_areas, plain=plain,
        title=f"latentcast verify: {names if len(report.sections) < 4 else 'all recipes'}",
        broken=[
            (part.name, line)
            for part in report.sections
            for line in part.lines
            if line.verdict == "broken"
        ],
    )  # fmt: skip


def _areas(section: Section) -> list[tuple[str, Verdict, str, list[Line]]]:
    """Claims by area, the first part of their ids: its name, its worst verdict, how many there are
    of each, and its lines."""
    areas: dict[str, list[Line]] = {}
    for line in section.lines:
        areas.setdefault(line.id.partition(".")[0], []).append(line)
    found = []
    for name, lines in areas.items():
        counts = {
            verdict: n
            for verdict in VERDICTS
            if (n := sum(one.verdict == verdict for one in lines))
        }
        summary = ", ".join(
            f"{n} {'hold' if (verdict, n > 1) == ('holds', True) else verdict}"
            for verdict, n in counts.items()
        )
        found.append((name, next(iter(counts)), summary, lines))
    return found
