"""The report as files: one page that needs no network and no script, Markdown, JSON, a badge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latentcast.errors import LatentcastError
from latentcast.files import write_text
from latentcast.report.markup import Html, escape, facts, section, table
from latentcast.report.style import stylesheet
from latentcast.verification.fault import Fault
from latentcast.verification.matrix import Matrix, Row, area, raised
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
.claims th code,.faults th code{white-space:nowrap}
.source{color:var(--muted);font-size:13px;display:block}
.evidence{font-size:13px;margin:0;padding:0;list-style:none}
.evidence li{margin:0}
.evidence b{font-weight:600;overflow-wrap:anywhere;display:inline-block;max-width:100%}
.claims summary{font-size:13px;margin:0}
.matrix table{width:auto;font-size:12px;margin-bottom:6px}
.matrix th,.matrix td{padding:1px 0;border-bottom:1px solid var(--rule)}
.matrix thead th{height:auto}
.matrix thead th.claim{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;
  padding:4px 1px;font-size:11px;line-height:14px;white-space:nowrap;border-bottom:0}
.matrix thead th.area{font-size:11px;padding:0 4px 4px;border-left:1px solid var(--rule)}
.matrix td{width:16px;min-width:16px;text-align:center;color:var(--faint)}
.matrix .first{border-left:1px solid var(--rule)}
.matrix tbody th{padding-right:12px;position:sticky;left:0;background:var(--page);
  font-weight:400;white-space:nowrap}
.matrix .red{color:var(--model);font-weight:700}
.matrix .also{color:var(--model)}
.matrix .missed{color:#fff;background:var(--alarm);font-weight:700}
.legend{color:var(--muted);font-size:14px}
"""


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.html``, ``report.md``, ``report.json`` and ``badge.svg``; the page's path.

    Raises:
        LatentcastError: the folder cannot be written to.
    """
    files = {
        "report.html": html(report),
        "report.md": markdown(report),
        "report.json": json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n",
        "badge.svg": badge(report),
    }
    with writing_to(folder):
        for name, text in files.items():
            write_text(folder / name, text)
    return folder / "report.html"


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """The folder is there; what cannot be written in it is told with the mend."""
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
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{stylesheet()}{STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{escape(title)}</h1>\n<p class="verdict">{escape(report.verdict)}</p>\n'
        f'<div class="badge">{badge(report)}</div>\n{_broken(report)}{_overview(report)}</header>\n'
        f"<main>\n{body}{_environment(report.environment)}</main>\n"
        "<footer>Measured by latentcast verify on live code, not read from configurations. "
        "Not a medical device.</footer>\n</body>\n</html>\n"
    )


def _broken(report: Report) -> str:
    """What broke, first of all, with its numbers; then faults that nobody noticed."""
    items = [
        f"<li>{escape(part.name)}: <b>{escape(line.id)}</b> {escape(line.sentence)} "
        f"{escape(line.told())}</li>\n"
        for part in report.sections
        for line in part.lines
        if line.verdict == "broken"
    ]
    items += [
        f"<li>{escape(part.name)}: fault <b>{escape(row.fault.id)}</b> {escape(row.problem)}</li>\n"
        for part in report.sections
        if part.matrix
        for row in part.matrix.missed
    ]
    if not items:
        return ""
    return f'<div class="notice" role="note"><ul>\n{"".join(items)}</ul></div>\n'


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
    told = ", ".join(f"{name} {plain(value)}" for name, value in part.facts.items())
    caption = f"{part.summary}. {told[:1].upper()}{told[1:]}; {part.seconds:.0f} s."
    head = ["claim", "what", "evidence", "verdict", "time"]
    held = f'<div class="claims">{table(caption, head, rows, numeric=(4,))}</div>\n'
    return section(part.name, held, _matrix(part.matrix) if part.matrix else "")


def _what(told: Line | Fault) -> Html:
    return Html(f'{escape(told.sentence)}<span class="source">{escape(told.source)}</span>')


def _evidence(line: Line) -> Html:
    """The first numbers; the rest folded away, unless the claim is broken."""
    items = [f"<li>{escape(name)} <b>{escape(value)}</b></li>" for name, value in line.shown()]
    most = len(items) if line.verdict == "broken" else FIRST
    first, rest = items[:most], items[most:]
    folded = ""
    if rest:
        held = f'<ul class="evidence">{"".join(rest)}</ul>'
        folded = f"<details><summary>{len(rest)} more</summary>{held}</details>"
    return Html(f'<ul class="evidence">{"".join(first)}</ul>{folded}')


def _verdict(verdict: str) -> Html:
    kind = verdict if verdict in ("holds", "broken") else "open"
    return Html(f'<span class="{kind}">{escape(verdict)}</span>')


def _matrix(matrix: Matrix) -> str:
    """Faults down, claims across in their areas; and a table of who caught what in words."""
    by_area = {place: [n for n in matrix.claims if area(n) == place] for place in matrix.areas}
    areas = "".join(
        f'<th class="area" scope="colgroup" colspan="{len(names)}">{escape(place)}</th>'
        for place, names in by_area.items()
    )
    claims = "".join(
        f'<th class="claim" scope="col">{escape(name.partition(".")[2])}</th>'
        for names in by_area.values()
        for name in names
    )
    rows = "".join(
        f'<tr><th scope="row" title="{escape(row.fault.sentence)}"><code>{escape(row.fault.id)}'
        f"</code></th>{_cells(row, by_area)}</tr>\n"
        for row in matrix.rows
    )
    words = [
        [Html(f"<code>{escape(row.fault.id)}</code>"),
         _what(row.fault), _caught(row)]
        for row in matrix.rows
    ]  # fmt: skip
    head = ["fault", "what is wrong", "caught by"]
    catalogue = table("Claims that must notice a fault come first.", head, words, numeric=())
    unproven = ""
    if matrix.unproven:
        named = ", ".join(f"<code>{escape(name)}</code>" for name in matrix.unproven)
        count = len(matrix.unproven)
        unproven = (
            f"<details><summary>{count} claim{'s' * (count != 1)} unproven: no fault turned "
            f"{'them' if count != 1 else 'it'} red</summary><p>{named}</p></details>\n"
        )
    return (
        "<h3>Faults × claims</h3>\n"
        f"<p>{escape(matrix.summary)}. {escape(matrix.how)}</p>\n{unproven}"
        '<p class="legend">● turned red as it must · ○ red as well · ! fell over instead of '
        "measuring · × overlooked · small dot: held · empty: not measured under this fault</p>\n"
        '<div class="scroll matrix"><table>\n'
        f"<thead><tr><th></th>{claims}</tr><tr><th></th>{areas}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody></table></div>\n"
        '<details class="faults"><summary>The catalogue, and who caught what</summary>'
        f"{catalogue}</details>\n"
    )


def _cells(row: Row, by_area: Mapping[str, Sequence[str]]) -> str:
    """A cell a claim; of neighbouring areas in which nothing was measured one for them all."""
    cells, empty = [], 0
    for names in by_area.values():
        if not any(name in row.ran for name in names):
            empty += len(names)
            continue
        cells.append(_empty(empty))
        cells += [_cell(row, name, name == names[0]) for name in names]
        empty = 0
    return "".join((*cells, _empty(empty)))


def _empty(count: int) -> str:
    return f'<td class="first" colspan="{count}"></td>' if count else ""


def _cell(row: Row, name: str, first: bool) -> str:
    kind, mark = "", "·"
    if name in row.red:
        kind, mark = ("red", "●") if name in row.wanted else ("also", "○")
        mark = "!" if raised(row.red[name]) else mark
    elif name in row.wanted:
        kind, mark = "missed", "×"
    elif name not in row.ran:
        mark = ""
    told = f' title="{escape(name)}"' if kind else ""
    both = f"{kind} first".strip() if first else kind
    return f'<td class="{both}"{told}>{mark}</td>' if both else f"<td>{mark}</td>"


def _caught(row: Row) -> Html:
    if not row.caught:
        return Html(f'<span class="broken">{escape(row.problem)}</span>')
    wanted = [f"<b>{escape(name)}</b>" for name in row.wanted]
    return Html(", ".join([*wanted, *(escape(n) for n in row.red if n not in row.wanted)]))


def _environment(environment: Mapping[str, Any]) -> str:
    return section("Environment", facts(environment))
