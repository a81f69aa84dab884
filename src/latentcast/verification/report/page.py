"""The report as files: one page that needs no network and no script, Markdown, JSON, a badge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentcast.errors import LatentcastError
from latentcast.files import write_text
from latentcast.report.markup import Html, document, escape, facts, notice, section, table
from latentcast.verification.report.badge import badge
from latentcast.verification.report.lines import Line, Report, Section, plain
from latentcast.verification.report.markdown import markdown

FIRST = 3
"""Numbers of a claim that are shown at once."""
STYLE = """\
.holds{color:var(--class-3);font-weight:600}
.broken{color:var(--alarm);font-weight:700}
.open{color:var(--muted)}
.badge svg{display:block;margin:0 0 14px;max-width:100%;height:auto}
.claims td:nth-child(2){min-width:230px}
.claims th code{white-space:nowrap}
.source{color:var(--muted);font-size:13px;display:block}
.evidence{font-size:13px;margin:0;padding:0;list-style:none}
.evidence li{margin:0}
.evidence b{font-weight:600;overflow-wrap:anywhere;display:inline-block;max-width:100%}
.claims summary{font-size:13px;margin:0}
@media (max-width:600px){
  .claims thead{display:none}
  .claims tr{display:block;padding:10px 0;border-bottom:1px solid var(--rule)}
  .claims th,.claims td{display:block;padding:0 0 4px;border:0;text-align:left}
}
"""


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
    body = "".join(_section(part) for part in report.sections)
    body += section("Environment", facts(report.environment))
    header = (
        f'<p class="verdict">{escape(report.verdict)}</p>\n'
        f'<div class="badge">{badge(report)}</div>\n{_broken(report)}{_overview(report)}'
    )
    footer = (
        "Measured by latentcast verify on live code, not read from configurations. "
        "Not a medical device."
    )
    return document(title, title, STYLE, header, body, footer)


def _broken(report: Report) -> str:
    """What broke, first of all, with its numbers."""
    return notice(
        [
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


def _section(part: Section) -> str:
    rows = [
        [Html(f"<code>{escape(line.id)}</code>"), _what(line), _evidence(line),
         _verdict(line.verdict), f"{line.seconds:.2f} s"]
        for line in part.lines
    ]  # fmt: skip
    about = ", ".join(f"{name} {plain(value)}" for name, value in part.facts.items())
    caption = f"{part.summary}. {about[:1].upper()}{about[1:]}; {part.seconds:.0f} s."
    head = ["claim", "what", "evidence", "verdict", "time"]
    claims = f'<div class="claims">{table(caption, head, rows, numeric=(4,))}</div>\n'
    return section(part.name, claims)


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


def _verdict(verdict: str) -> Html:
    kind = verdict if verdict in ("holds", "broken") else "open"
    return Html(f'<span class="{kind}">{escape(verdict)}</span>')
