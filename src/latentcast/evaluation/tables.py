"""The result of a probe as tables for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from rich.table import Table

from latentcast.evaluation.estimate import LISTED, SUPPORT, UNDEFINED, Subgroup, number
from latentcast.evaluation.results import OWN, ProbeReport
from latentcast.evaluation.summaries import averages, groupings
from latentcast.terminal import Terminal, plain_table


def print_probe(report: ProbeReport, console: Terminal) -> None:
    """Print leaks, the table of sources, the differences and the table of labels.

    Every line fits 80 columns, and no number is broken over two.
    """
    for finding in report.leaks:
        style = "bold white on red" if finding.severity == "error" else "bold yellow"
        console.print(
            f"LEAK ({finding.severity}): {finding.kind}, {finding.count} cases "
            f"({', '.join(finding.examples)}): {finding.message}",
            style=style,
        )
    if report.too_few:
        console.print(f"{report.too_few}.", style="bold yellow")
    tables = [_sources(report), *([_differences(report)] if report.differences else [])]
    if averages(report):
        tables.append(_averages(report))
    if report.kind == "multi-label" or 0 < len(report.labels) <= LISTED:
        tables.append(_labels(report))
    if 0 < len(report.readings()[0].score.points) <= LISTED:
        tables.append(_points(report))
    tables += [_subgroups(report, by) for by in groupings(report)]
    for place, table in enumerate(tables):
        if place:
            console.print()
        console.print(table)
    if report.class_sizes:
        console.print(f"\n{report.class_sizes}")
    if report.left_out:
        reasons = "; ".join(f"{name} ({why})" for name, why in report.left_out.items())
        console.print(f"In no average: {reasons}")


def _sources(report: ProbeReport) -> Table:
    counts = " / ".join(f"{count:,}" for count in report.records.values())
    caption = f"{counts} {report.noun}s; {report.rows[0].pooling} over tokens"
    if not report.too_few:
        caption += (
            f"; intervals from {report.bootstrap['resamples']:,} resamples of "
            f"{report.bootstrap['units']:,} test {report.bootstrap['unit']}s"
        )
    test = f"test {report.metric}\n[{report.level} interval]"
    head = ["head"] * (len(report.heads) > 1)
    cells = [
        (
            row.name,
            *[row.head] * len(head),
            row.layer if row.choice in (OWN, "named") else f"{row.layer} ({row.choice})",
            "" if row.penalty is None else f"{row.penalty:g}",
            number(row.validation),
            row.score.main.text(),
        )
        for row in report.rows
    ]
    table = _table(
        report.protocol,
        ["features", *head, "layer"],
        ["C", "validation", test],
        cells,
        "; ".join((caption, *report.remarks)),
    )
    return _unbroken(table)


def _differences(report: ProbeReport) -> Table:
    head = ["head"] * (len(report.heads) > 1)
    cells = [
        (gap.reference, *[gap.head] * len(head), gap.choice,
         gap.estimate.text(signed=True), number(gap.holm), gap.estimate.outcome)
        for gap in report.differences
    ]  # fmt: skip
    tested = report.rows[0].name
    title = f"{tested} minus the others, test {report.metric}, paired [{report.level} interval]"
    caption = None
    if any(math.isfinite(gap.holm) for gap in report.differences):
        caption = f"p: two-sided, corrected for {len(cells)} comparisons (Holm)"
    numbers = ["difference", "p", ""]
    return _unbroken(_table(title, ["features", *head, "layer"], numbers, cells, caption))


def _averages(report: ProbeReport) -> Table:
    """A line for each further score; its interval for the first source alone, as of labels."""
    cells = []
    for name, scores in averages(report).items():
        found = [scores.get(row.name, UNDEFINED) for row in report.readings()]
        cells.append((name, found[0].text(), *(number(score.value) for score in found[1:])))
    title = f"Further scores on the test fold [{report.level} interval]"
    return _table(title, [""], _headings(report), cells)


def _points(report: ProbeReport) -> Table:
    """Each label of the first source at its threshold, without intervals, which are in the file."""
    row = report.readings()[0]
    precision = {label.name: label.average_precision.value for label in row.score.labels}
    cells = [
        (point.name, number(precision[point.name]), number(point.threshold),
         *(number(rate.value) for rate in (point.sensitivity, point.specificity, point.ppv,
                                           point.f1)))
        for point in row.score.points
    ]  # fmt: skip
    title = f"{row.name}: average precision, and the test fold at thresholds of validation"
    numbers = ["AP", "threshold", "sensitivity", "specificity", "PPV", "F1"]
    return _table(title, ["label"], numbers, cells)


def _subgroups(report: ProbeReport, by: str) -> Table:
    cells = []
    for groups in groupings(report)[by]:
        first = groups[0]
        counts = [f"{first.records:,}", *_positives(first)]
        scores = [first.main.text(), *(number(group.main.value) for group in groups[1:])]
        cells.append((first.name + " *" * bool(first.too_few), *counts, *scores))
    reasons = " or ".join(sorted({g[0].too_few for g in groupings(report)[by]} - {""}))
    numbers = [f"{report.noun}s", *(["positives"] if report.kind == "multi-label" else [])]
    title = f"Test {report.metric} by {by} [{report.level} interval]"
    return _table(title, [by], [*numbers, *_headings(report)], cells, reasons and f"* {reasons}")


def _positives(group: Subgroup) -> list[str]:
    return [] if group.positives is None else [f"{group.positives:,}"]


def _headings(report: ProbeReport) -> list[str]:
    """The sources, broken: a heading would otherwise be cut, or push the numbers off the line."""
    names = [row.name for row in report.readings()]
    return ["\n".join(textwrap.wrap(n, 14 if place else 20)) for place, n in enumerate(names)]


def _labels(report: ProbeReport) -> Table:
    rows = report.readings() if report.kind == "multi-label" else ()
    title = f"{report.noun.capitalize()}s of each class"
    if rows:
        title = f"Positives, and test AUROC of each label (* fewer than {SUPPORT} positives)"
    wrapped = _headings(report) if rows else []
    areas = [{label.name: label for label in row.score.labels} for row in rows]
    cells = []
    for label in report.labels:
        scores = [by_name.get(label.name) for by_name in areas]
        rare = "*" if rows and label.positives["test"] < SUPPORT else ""
        counts = [f"{count:,}" for count in label.positives.values()]
        others = [number(score.auroc.value if score else None) for score in scores[1:]]
        text = [
            number(score.auroc.value) if score.positives == 1 else score.auroc.text()
            for score in scores[:1]
            if score
        ] or ["–"] * len(scores[:1])
        cells.append((label.name + rare, *counts, *text, *others))
    name = "label" if rows else "class"
    one = rows and any(label.positives["test"] == 1 for label in report.labels)
    caption = "1 positive: no interval" if one else None
    return _table(title, [name], ["train", "val", "test", *wrapped], cells, caption)


def _unbroken(table: Table) -> Table:
    """A long name is broken, a usual one is not; of the rest only the layer may be."""
    names = table.columns[0]
    names.no_wrap = max(len(str(name)) for name in names.cells) <= 20
    return table


def _table(
    title: str,
    names: Sequence[str],
    numbers: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str | None = None,
) -> Table:
    """Columns that may be broken, and columns of numbers that may not."""
    table = plain_table(title, caption)
    for heading in names:
        table.add_column(heading, overflow="fold", no_wrap=heading == "head")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
