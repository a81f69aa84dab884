"""The report as files: one page that needs no network (its search is a script in the page, and
without scripts all is shown), Markdown, JSON, a badge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from latentcast.errors import LatentcastError
from latentcast.files import write_text
from latentcast.report.markup import Html, escape, facts, notice, section, table
from latentcast.report.templates import render
from latentcast.verification.report.badge import badge
from latentcast.verification.report.lines import Line, Report, Section, plain
from latentcast.verification.report.markdown import markdown

FIRST = 3
"""Numbers of a claim that are shown at once."""
VERDICTS: Final = ("broken", "note", "not measured", "holds")
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
    title = f"latentcast verify: {names if len(report.sections) < 4 else 'all recipes'}"
    header = (
        f'<p class="verdict">{escape(report.verdict)}</p>\n'
        f'<div class="badge">{badge(report)}</div>\n{_broken(report)}{_overview(report)}'
    )
    footer = (
        "Measured by latentcast verify on live code, not read from configurations. "
        "Not a medical device."
    )
    return render(
        "verification.html", title=title, heading=title, header=Html(header), footer=footer,
        sections=[_section(part) for part in report.sections],
        body=Html(section("Environment", facts(report.environment))),
    )  # fmt: skip


def _broken(report: Report) -> str:
    """What broke, first of all, with its numbers."""
    return notice(
        [
            f"{escape(part.name)}: most like <b>{escape(one.fault)}</b> {escape(one.sentence)}"
            for part in report.sections
            for one in part.most_like[:1]
        ]
        + [
            f"{escape(part.name)}: <b>{escape(line.id)}</b> {escape(line.sentence)} "
            f"{escape(line.text())}"
            for part in report.sections
            for line in part.lines
            if line.verdict == "broken"
        ]
    )


def _overview(report: Report) -> str:
    if len(report.sections) < 2:
        return ""
    rows = [
        [part.name, _verdict("holds" if part.holds else "broken"), part.summary,
         f"{part.seconds:.0f} s"]
        for part in report.sections
    ]  # fmt: skip
    return table("What was verified.", ["name", "verdict", "found", "time"], rows, numeric=(3,))


def _section(part: Section) -> dict[str, Any]:
    """Claims by area, the first part of their ids."""
    about = ", ".join(f"{name} {plain(value)}" for name, value in part.facts.items())
    lines: dict[str, list[Line]] = {}
    for line in part.lines:
        lines.setdefault(line.id.partition(".")[0], []).append(line)
    return {
        "name": part.name,
        "about": f"{part.summary}. {about[:1].upper()}{about[1:]}; {part.seconds:.0f} s.",
        "areas": [_area(name, found) for name, found in lines.items()],
    }


def _area(name: str, lines: list[Line]) -> dict[str, Any]:
    rows = [
        [Html(f"<code>{escape(line.id)}</code>"), _what(line), _evidence(line),
         _verdict(line.verdict), f"{line.seconds:.2f} s"]
        for line in lines
    ]  # fmt: skip
    counts = {verdict: sum(line.verdict == verdict for line in lines) for verdict in VERDICTS}
    head = ["claim", "what", "evidence", "verdict", "time"]
    return {
        "name": name,
        "summary": ", ".join(
            f"{n} {'hold' if (verdict, n > 1) == ('holds', True) else verdict}"
            for verdict, n in counts.items()
            if n
        ),
        "kind": next(_kind(verdict) for verdict, n in counts.items() if n),
        "table": Html(table("", head, rows, numeric=(4,))),
    }


def _what(line: Line) -> Html:
    return Html(f'{escape(line.sentence)}<span class="source">{escape(line.source)}</span>')


def _evidence(line: Line) -> Html:
    """The first numbers; the rest folded away, unless the claim is broken."""
    items = [
        f"<li>{escape(name)} <b>{escape(value)}</b></li>" for name, value in line.measurements()
    ]
    most = len(items) if line.verdict == "broken" else FIRST
    first, rest = items[:most], items[most:]
    folded = ""
    if rest:
        more = f'<ul class="evidence">{"".join(rest)}</ul>'
        folded = f"<details><summary>{len(rest)} more</summary>{more}</details>"
    return Html(f'<ul class="evidence">{"".join(first)}</ul>{folded}')


def _kind(verdict: str) -> str:
    return verdict if verdict in ("holds", "broken") else "open"


def _verdict(verdict: str) -> Html:
    return Html(f'<span class="{_kind(verdict)}">{escape(verdict)}</span>')
