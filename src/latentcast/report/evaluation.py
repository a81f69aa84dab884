"""The page of an evaluation: one file that needs no network, no script and no second file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from latentcast.evaluation.estimate import number
from latentcast.evaluation.evaluation import Cohort, Evaluation, Row
from latentcast.evaluation.evaluation_tables import (
    NOTE,
    about,
    blocks,
    columns,
    subgroup_columns,
    title,
)
from latentcast.report.svg import escape
from latentcast.report.templates import Table, render

WIDE = 400.0
"""Units of a forest plot, about as many pixels as a phone is wide."""
NAME = 36
"""Letters of the name of a row."""
LINE = 40.0
"""Units from one row to the next: a line of text and a line of marks."""


def page(evaluation: Evaluation) -> str:
    """A forest plot and a table for each cohort and amount of labels, and how they were made."""
    made = {
        **evaluation.provenance, **evaluation.bootstrap, "reference": evaluation.reference,
        "layer": evaluation.layer, "pooling": evaluation.pooling, "windows": evaluation.windows,
    }  # fmt: skip
    sources = {
        f"{source.name} ({source.kind}) {n}": ", ".join(f"{k} {v}" for k, v in run.items())
        for source in evaluation.sources
        for n, run in enumerate(source.runs, 1)
        if run
    }
    data = {cohort.path: ", ".join(cohort.shards.values()) for cohort in evaluation.cohorts}
    return render(
        "evaluation.html", headline=_headline(evaluation), leaks=evaluation.leaks,
        remarks=evaluation.remarks, note=NOTE,
        blocks=[_block(evaluation, *block) for block in blocks(evaluation)],
        origin={"How this was made": made, "Sources": sources, "Data, by sha256": data},
    )  # fmt: skip


def _headline(evaluation: Evaluation) -> str:
    tasks = {cohort.task for cohort in evaluation.cohorts}
    stores = {cohort.path for cohort in evaluation.cohorts}
    counts = ((len(evaluation.sources), "source"), (len(tasks), "task"), (len(stores), "store"))
    return ", ".join(f"{n} {noun}" + "s" * (n > 1) for n, noun in counts)


def _block(
    evaluation: Evaluation, cohort: Cohort, amount: str, rows: list[Row]
) -> tuple[str, Markup, list[Table]]:
    """Heading, forest plot, and the tables: of all records and of subgroups."""
    heading, cells = columns(evaluation, cohort, rows)
    caption = "; ".join(about(cohort, rows)) + "."
    numeric = [place for place in range(2, len(heading)) if heading[place] != "layer"]
    groups = [
        Table(f"Test {cohort.metric} by {by}.", names, lines, range(2, len(names)), "wide")
        for by, names, lines in subgroup_columns(rows)
    ]
    tables = [Table(caption, heading, cells, numeric, "wide"), *groups]
    return title(cohort, amount), forest(evaluation, cohort, rows), tables


def forest(evaluation: Evaluation, cohort: Cohort, rows: Sequence[Row]) -> Markup:
    """An SVG: a dot and the interval over patients for each row, a small stroke for each seed or
    draw, and a broken line at the best row of the reference."""
    values = [
        value
        for row in rows
        for value in (row.main.low, row.main.value, row.main.high, *_strokes(row))
        if math.isfinite(value)
    ]
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def x(value: float) -> str:
        return f"{6 + (WIDE - 12) * (value - low) / (high - low):.1f}"

    height, parts = LINE * len(rows) + 22, list[str]()
    of_reference = [row.main.value for row in rows if row.source == evaluation.reference]
    floors = [value for value in of_reference if math.isfinite(value)]
    for place, row in enumerate(rows):
        parts.append(_marks(row, LINE * place, x))
        if floors:  # beside the marks alone, so that no number is crossed out
            at, top = x(max(floors)), LINE * place + 19
            parts.append(f'<line class="floor" x1="{at}" x2="{at}" y1="{top}" y2="{top + 16}"/>')
    bottom = height - 16
    parts.append(f'<g class="axis"><line class="rule" x1="0" x2="{WIDE:.0f}" y1="{bottom}" '
                 f'y2="{bottom}"/>')  # fmt: skip
    for value, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        at = {"start": "0", "middle": f"{WIDE / 2:.0f}", "end": f"{WIDE:.0f}"}[anchor]
        parts.append(f'<text x="{at}" y="{height - 3:.0f}" text-anchor="{anchor}">'
                     f"{number(value)}</text>")  # fmt: skip
    parts.append("</g>")
    described = "; ".join(f"{row.source}, {row.head}: {row.main.text()}" for row in rows)
    return Markup(
        f'<svg class="forest" viewBox="0 0 {WIDE:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(f"{cohort.metric}: {described}")}">{"".join(parts)}</svg>'
    )


def _marks(row: Row, top: float, x: Callable[[float], str]) -> str:
    """The text of a row and, below it, its marks."""
    name = f"{row.source}, {row.head}"
    room = NAME - len(row.head) - 2  # the end is what tells rows of one source apart
    source = row.source if len(row.source) <= room else row.source[: room - 1] + "…"
    middle = top + 27
    parts = [
        f'<g class="{escape(row.kind.replace(" ", "-"))}"><title>{escape(name)}</title>'
        f'<text x="0" y="{top + 15:.0f}">{escape(f"{source}, {row.head}")}</text>'
        f'<text x="{WIDE:.0f}" y="{top + 15:.0f}" text-anchor="end">'
        f"{escape(row.main.text())}</text>"
        f'<line class="rule" x1="0" x2="{WIDE:.0f}" y1="{middle}" y2="{middle}"/>'
    ]
    if math.isfinite(row.main.low) and math.isfinite(row.main.high):
        parts.append(f'<line x1="{x(row.main.low)}" x2="{x(row.main.high)}" y1="{middle}" '
                     f'y2="{middle}"/>')  # fmt: skip
    for value in _strokes(row):
        parts.append(f'<line class="seed" x1="{x(value)}" x2="{x(value)}" y1="{middle - 6}" '
                     f'y2="{middle + 6}"/>')  # fmt: skip
    if math.isfinite(row.main.value):
        parts.append(f'<circle cx="{x(row.main.value)}" cy="{middle}" r="4"/>')
    return "".join(parts) + "</g>"


def _strokes(row: Row) -> list[float]:
    """The value of each reading, where there are several."""
    values = [reading.score.main.value for reading in row.readings]
    return [value for value in values if math.isfinite(value)] if len(values) > 1 else []
