"""Drawings as markup: of a figure, and small ones of our own for the cells of a table."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import markupsafe
from markupsafe import Markup

from latentcast.errors import printable
from latentcast.evaluation.estimate import Estimate
from latentcast.report.style import LIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def escape(text: str) -> Markup:
    """As text of an element or a quoted attribute, which templates make of it by themselves."""
    return markupsafe.escape(printable(text))


def of_figure(figure: Figure, name: str, description: str, *, recolour: bool) -> Markup:
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
    return Markup(f'{opening} role="img" aria-label="{escape(description)}">{rest.strip()}')


def interval_bar(estimate: Estimate, reach: tuple[float, float], *, strong: bool) -> Markup:
    """A dot with its interval on the scale ``reach``; the numbers stand in the cell beside it."""
    low, high = reach
    if not math.isfinite(estimate.value) or high <= low:
        return Markup("")

    def x(value: float) -> float:
        return 4.0 + 152.0 * (value - low) / (high - low)

    centre, kind = x(estimate.value), "strong" if strong else "plain"
    ends = [x(end) if math.isfinite(end) else centre for end in (estimate.low, estimate.high)]
    return Markup(
        f'<svg class="bar {kind}" viewBox="0 0 160 14" aria-hidden="true">'
        f'<line class="track" x1="0" y1="7" x2="160" y2="7"/>'
        f'<line x1="{ends[0]:.1f}" y1="7" x2="{ends[1]:.1f}" y2="7"/>'
        f'<circle cx="{centre:.1f}" cy="7" r="4"/></svg>'
    )


def timeline(spans: Sequence[tuple[float, float]], until: float) -> Markup:
    """Where on the way from 0 to ``until`` something was so; the numbers stand beside it."""
    if until <= 0:
        return Markup("")
    bars = []
    for start, stop in spans:
        x, end = (4.0 + 152.0 * min(max(step, 0.0), until) / until for step in (start, stop))
        # A single moment is wide enough to be seen.
        bars.append(f'<rect x="{x:.1f}" y="3" width="{max(end - x, 1.5):.1f}" height="8"/>')
    return Markup(
        '<svg class="bar timeline" viewBox="0 0 160 14" aria-hidden="true">'
        f'<line class="track" x1="0" y1="7" x2="160" y2="7"/>{"".join(bars)}</svg>'
    )
