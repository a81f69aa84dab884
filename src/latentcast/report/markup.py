"""Pieces of HTML: everything that comes from outside is escaped here, and only here."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentcast.errors import printable
from latentcast.evaluation.estimate import Estimate
from latentcast.report.style import LIGHT
from latentcast.report.templates import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Html:
    """Text that is markup already; any other value is escaped before it enters a page."""

    text: str

    def __html__(self) -> str:
        """What templates take as it is."""
        return self.text


def escape(value: Any) -> str:
    """A value as text of an HTML element or a quoted attribute."""
    if isinstance(value, Html):
        return value.text
    return html.escape(printable(str(value)), quote=True)


def section(title: str, *parts: str) -> str:
    """A part of the page; ``parts`` are markup already."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    numeric: Sequence[int],
    stacked: bool = False,
) -> str:
    """A table whose first column names the rows; ``numeric`` columns are set flush right.

    A ``stacked`` one becomes a list of named values on a phone.
    """
    right = dict.fromkeys(numeric, ' class="number"')
    names = [f' data-name="{escape(name)}"' if stacked else "" for name in head]
    header = "".join(
        f'<th scope="col"{right.get(i, "")}>{escape(name)}</th>' for i, name in enumerate(head)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{escape(cell)}</th>'
            if i == 0
            else f"<td{right.get(i, '')}{names[i]}>{escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    kind = ' class="stacked"' if stacked else ""
    named = f"<caption><span>{escape(caption)}</span></caption>" if caption else ""
    return (
        f'<div class="scroll"><table{kind}>{named}\n'
        f"<thead><tr>{header}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def document(title: str, heading: str, header: str, body: str, footer: str) -> str:
    """The whole page; all but ``title`` and ``heading`` is markup."""
    return render(
        "page.html", title=title, heading=heading, header=Html(header), body=Html(body),
        footer=Html(footer),
    )  # fmt: skip


def notice(items: Sequence[str], opening: str = "") -> str:
    """A list that must not be overlooked, of markup; nothing where it has no item."""
    if not items:
        return ""
    listed = "".join(f"<li>{item}</li>\n" for item in items)
    return f'<div class="notice" role="note">{opening}<ul>\n{listed}</ul></div>\n'


def card(name: str, value: str, note: str, *, tested: bool) -> str:
    """A number as an item of ``<ul class="cards">``; ``tested`` is what the page is about."""
    return (
        f'<li class="{"tested" if tested else "floor"}"><span>{escape(name)}</span>'
        f"<b>{escape(value)}</b><span>{escape(note)}</span></li>"
    )


def facts(pairs: Mapping[str, Any]) -> str:
    """A list of names and values; mappings inside mappings are written ``outer.inner``."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n"
        for name, value in _flat(pairs)
    )
    return f"<dl>\n{items}</dl>\n"


def _flat(pairs: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in pairs.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            flat.append((prefix + str(name), ", ".join(str(item) for item in value)))
        elif value is not None:
            flat.append((prefix + str(name), value))
    return flat


def picture(
    figure: Figure, name: str, description: str, caption: str, *, paper: bool, narrow: bool = False
) -> str:
    """A figure as inline SVG with a description for those who cannot see it.

    Its colours become CSS variables and so follow the reader's light or dark setting; ``paper``
    keeps them, because clinical paper is pink by day and by night. A ``narrow`` one fits a phone.
    """
    # Paper is shown no larger than it is: on a wide window 25 mm/s are 25 CSS millimetres.
    kind, width = "chart narrow" if narrow else "chart", "none"
    if paper:
        kind, width = "paper", f"{figure.get_figwidth() * 25.4:.1f}mm"
    return (
        f'<figure class="{kind}"><div class="scroll">'
        f'<div class="canvas" style="max-width:{width}">'
        f"{svg(figure, name, description, recolour=not paper)}</div></div>\n"
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def svg(figure: Figure, name: str, description: str, *, recolour: bool) -> str:
    """The figure's ``<svg>`` element, free of ids that another picture on the page could have."""
    from matplotlib import rc_context

    drawn = io.StringIO()
    # Text stays text: it takes the page's typeface, can be searched, and weighs little. The salt
    # makes the ids of clip paths, which are random by default, the same in every run.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", metadata={"Date": None}, dpi=72)
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    # A style element inside an SVG would rule the whole page; the page's own sheet has its rules.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))

    def rewritten(tag: re.Match[str]) -> str:
        """Tags alone: a label that looks like an id is a label."""
        found = re.sub(
            r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag[0]
        )
        found = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", found)
        for role, colour in LIGHT.items() if recolour else ():
            found = found.replace(colour, f"var(--{role})")
        return found

    text = re.sub(r"<[^>]*>", rewritten, text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (width|height|version|xmlns)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{escape(description)}">{rest.strip()}'


def interval_bar(estimate: Estimate, reach: tuple[float, float], *, strong: bool) -> Html:
    """A dot with its interval on the scale ``reach``; the numbers stand in the cell beside it."""
    low, high = reach
    if not math.isfinite(estimate.value) or high <= low:
        return Html("")

    def x(value: float) -> float:
        return 4.0 + 152.0 * (value - low) / (high - low)

    centre, kind = x(estimate.value), "strong" if strong else "plain"
    ends = [x(end) if math.isfinite(end) else centre for end in (estimate.low, estimate.high)]
    return Html(
        f'<svg class="bar {kind}" viewBox="0 0 160 14" aria-hidden="true">'
        f'<line class="track" x1="0" y1="7" x2="160" y2="7"/>'
        f'<line x1="{ends[0]:.1f}" y1="7" x2="{ends[1]:.1f}" y2="7"/>'
        f'<circle cx="{centre:.1f}" cy="7" r="4"/></svg>'
    )


def timeline(spans: Sequence[tuple[float, float]], until: float) -> Html:
    """Where on the way from 0 to ``until`` something was so; the numbers stand beside it."""
    if until <= 0:
        return Html("")
    bars = []
    for start, stop in spans:
        x, end = (4.0 + 152.0 * min(max(step, 0.0), until) / until for step in (start, stop))
        # A single moment is wide enough to be seen.
        bars.append(f'<rect x="{x:.1f}" y="3" width="{max(end - x, 1.5):.1f}" height="8"/>')
    return Html(
        '<svg class="bar timeline" viewBox="0 0 160 14" aria-hidden="true">'
        f'<line class="track" x1="0" y1="7" x2="160" y2="7"/>{"".join(bars)}</svg>'
    )
