"""A badge as SVG: whether every claim holds, and how many there are."""

from __future__ import annotations

from html import escape

from latentcast.verification.report.lines import Report

GOOD, BAD, GREY = "#1a7f37", "#c0152f", "#3b434b"
LETTER = 6.6
"""Width of one at 11 px, on average and generously."""


def words(report: Report) -> str:
    """What stands on the coloured side."""
    holding = sum(section.count("holds") for section in report.sections)
    measured = sum(section.measured for section in report.sections)
    return f"{holding} of {measured} hold" if holding < measured else f"{holding} claims hold"


def badge(report: Report) -> str:
    """The ``<svg>`` element, of the height of the usual badges; its text is selectable."""
    left, right = "latentcast verify", words(report)
    widths = [round(LETTER * len(text)) + 12 for text in (left, right)]
    middles = widths[0] / 2, widths[0] + widths[1] / 2
    colour = GOOD if report.holds else BAD
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{sum(widths)}" height="20" '
        f'viewBox="0 0 {sum(widths)} 20" role="img" '
        f'aria-label="{escape(left)}: {escape(right)}">'
        f'<clipPath id="round"><rect width="{sum(widths)}" height="20" rx="3"/></clipPath>'
        f'<g clip-path="url(#round)"><rect width="{widths[0]}" height="20" fill="{GREY}"/>'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="20" fill="{colour}"/></g>'
        '<g fill="#fff" text-anchor="middle" '
        'font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11">'
        f'<text x="{middles[0]:g}" y="14" textLength="{widths[0] - 12}">{escape(left)}</text>'
        f'<text x="{middles[1]:g}" y="14" textLength="{widths[1] - 12}">{escape(right)}</text>'
        "</g></svg>\n"
    )
