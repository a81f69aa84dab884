"""The result of an evaluation as tables: of a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from latentcast.evaluation.estimate import number
from latentcast.evaluation.evaluation import Cohort, CrossValidated, Evaluation, Row
from latentcast.markdown import escaped, table
from latentcast.terminal import Terminal, plain_table

NOTE = (
    "Intervals are over test patients (the same resamples for all rows); ± is the standard "
    "deviation over training seeds or over draws of labelled patients, with the range and the "
    "number. Neither holds the other. p is two-sided and corrected for all rows of a table (Holm)."
)
WIDE = 110
"""Columns of a terminal from which on it shows a second metric; the files have it always."""


def blocks(evaluation: Evaluation) -> Iterator[tuple[Cohort, str, list[Row]]]:
    """The rows that are compared with each other: of one cohort and one amount of labels."""
    for cohort in evaluation.cohorts:
        for amount in evaluation.amounts(cohort):
            if rows := evaluation.of(cohort, amount):
                yield cohort, amount, rows


def title(cohort: Cohort, amount: str) -> str:
    """As in ``rhythm, fitted and tested on store, 0.1 of the labels``."""
    where = f"external test on {cohort.store}" if cohort.external else f"on {cohort.store}"
    labels = "" if amount == "1" else f", {amount}" + " of the labels" * ("shot" not in amount)
    return f"{cohort.task}, {where}{labels}"


def about(cohort: Cohort, rows: list[Row]) -> list[str]:
    """Sentences on the records: how many, the floor, and what is in no number."""
    counts = ", ".join(f"{n:,} {split}" for split, n in cohort.records.items())
    found = [f"{counts} records; {cohort.units:,} test {cohort.unit}s"]
    floors = ", ".join(f"{name} {number(value)}" for name, value in cohort.floors.items())
    found.append(f"always the same prediction: {floors}")
    for what, missing in (("label", cohort.without_target), ("valid token", cohort.without_token)):
        if total := sum(missing.values()):
            found.append(f"{total:,} records without a {what} left out")
    left_out = {label.name: label.left_out for label in cohort.labels if label.left_out}
    fewer = {name for row in rows for reading in row.readings for name in reading.left_out}
    fewer -= left_out.keys()
    if left_out:
        reasons = "; ".join(f"{name} ({why})" for name, why in left_out.items())
        found.append(f"in no average: {reasons}")
    if fewer:
        found.append(f"not in the average of every draw: {', '.join(sorted(fewer))}")
    found += cohort.unused
    if cohort.cross_validation and any(row.cross_validated for row in rows):
        found.append(cohort.cross_validation)
    trained = sorted({reading.records for row in rows for reading in row.readings})
    if trained != [cohort.records.get("train")] and not cohort.external:
        span = f"{trained[0]:,} to {trained[-1]:,}" if len(trained) > 1 else f"{trained[0]:,}"
        found.append(f"fitted on {span} records")
    return found


def columns(
    evaluation: Evaluation, cohort: Cohort, rows: list[Row]
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, everything that is known of a row; spreads where there are any."""
    seeds, draws = any(row.seeds for row in rows), any(row.draws for row in rows)
    within = any(row.cross_validated for row in rows)
    second = second_metric(rows)
    minus = f"minus {evaluation.reference} [{evaluation.level}]"
    heading = [
        "source", "head", f"test {cohort.metric} [{evaluation.level}]",
        *([f"test {second}"] * bool(second)), *(["seeds"] * seeds), *(["draws"] * draws),
        minus, "p (Holm)", "layer", *(["CV", f"CV {minus}", "CV p (Holm)"] * within),
        "validation", "seconds: features, fit",
    ]  # fmt: skip
    cells = [
        [
            row.source, row.head, row.main.text(),
            *([number(row.further(second))] if second else []),
            *([row.seeds.text() if row.seeds else ""] * seeds),
            *([row.draws.text() if row.draws else ""] * draws),
            *_compared(row), row.layers,
            *([*_within(row.cross_validated)] if within else []), number(row.validation),
            f"{row.seconds['features']:.1f}, {row.seconds['fit']:.1f}",
        ]
        for row in rows
    ]  # fmt: skip
    return heading, cells


def second_metric(rows: list[Row]) -> str:
    """The name of the first metric beside the one that rows are compared by; "" of none."""
    return next(iter(rows[0].readings[0].score.others), "")


def subgroup_columns(rows: list[Row]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """For each key of the metadata its name, headings and cells: the score of each source in each
    group, the mean over readings; an undefined one is a dash."""
    groups = rows[0].readings[0].score.subgroups
    for by in dict.fromkeys(group.by for group in groups):
        chosen = [place for place, group in enumerate(groups) if group.by == by]
        names = [f"{groups[place].name}, {groups[place].records:,} records" for place in chosen]
        cells = []
        for row in rows:
            scores = [[one.score.subgroups[n].main.value for one in row.readings] for n in chosen]
            cells.append([row.source, row.head, *(number(sum(s) / len(s)) for s in scores)])
        yield by, ["source", "head", *names], cells


def _compared(of: Row | CrossValidated) -> list[str]:
    """The paired difference and its corrected p-value."""
    if of.difference is None:
        return ["", ""]
    return [of.difference.text(signed=True), number(of.holm)]


def _within(found: CrossValidated | None) -> list[str]:
    return ["", "", ""] if found is None else [found.main.text(), *_compared(found)]


def print_evaluation(evaluation: Evaluation, console: Terminal) -> None:
    """Print a table for each cohort and amount of labels."""
    for finding in evaluation.leaks:
        console.print(
            f"LEAK ({finding.severity}): {finding.kind}, {finding.count} cases "
            f"({', '.join(finding.examples)}): {finding.message}", style="bold yellow",
        )  # fmt: skip
    for cohort, amount, rows in blocks(evaluation):
        heads = list(dict.fromkeys(row.head for row in rows))
        one_head = [f"{heads[0]} head"] if len(heads) == 1 else []  # a column of one word is room
        caption = [*one_head, f"difference: minus {evaluation.reference}", *about(cohort, rows)]
        table = plain_table(title(cohort, amount), "; ".join(caption))
        table.add_column("source", overflow="fold")
        if len(heads) > 1:
            table.add_column("head", no_wrap=True)
        heading = f"{cohort.metric}\n[{evaluation.level} interval]"
        minus = "difference\n[paired]"
        second = second_metric(rows).removeprefix("macro ")
        names = [heading, second, "seeds", "draws", minus, "p"]
        for name in ("seeds", "draws"):
            if not any(_spreads(row)[name] for row in rows):
                names.remove(name)
        for name in names:
            if console.width >= WIDE or name != second:
                table.add_column(name, justify="right", no_wrap=True)
        shown = [column.header for column in table.columns]
        for row in rows:
            difference, p = _compared(row)
            cells = {"source": row.source, "head": row.head, heading: row.main.text(),
                     minus: difference, "p": p, **_spreads(row)}  # fmt: skip
            cells[second] = number(row.further(second_metric(rows)))
            table.add_row(*(cells[str(name)] for name in shown))
        console.print(table)
        if any(row.cross_validated for row in rows):
            console.print(_cross_validated(title(cohort, amount), heading, minus, rows, heads))
        console.print()
    console.print(NOTE)
    for remark in evaluation.remarks:
        console.print(remark)


def _spreads(row: Row) -> dict[str, str]:
    """Columns that stand where a row has them."""
    return {
        name: f"±{number(spread.sd)} ({spread.n})" if spread else ""
        for name, spread in (("seeds", row.seeds), ("draws", row.draws))
    }


def _cross_validated(
    name: str, heading: str, minus: str, rows: list[Row], heads: list[str]
) -> Table:
    """The same rows within the training records, where they resolve more than the test ones."""
    table = plain_table(f"{name}: cross-validated within the training records")
    table.add_column("source", overflow="fold")
    if len(heads) > 1:
        table.add_column("head", no_wrap=True)
    for column in (heading, minus, "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if row.cross_validated:
            head = [row.head] * (len(heads) > 1)
            table.add_row(row.source, *head, *_within(row.cross_validated))
    return table


def markdown(evaluation: Evaluation) -> str:
    """All rows, each with its interval, spread, layer and difference; then how they were made."""
    parts = ["# Evaluation", ""]
    for leak in evaluation.leaks:
        parts += [
            f"**Leak ({leak.severity})**: {leak.kind}, {leak.count} cases. {leak.message}.",
            "",
        ]
    for cohort, amount, rows in blocks(evaluation):
        heading, cells = columns(evaluation, cohort, rows)
        parts += [f"## {escaped(title(cohort, amount))}", "", *table(heading, cells), ""]
        parts += [f"{escaped('; '.join(about(cohort, rows)))}.", ""]
        for by, names, lines in subgroup_columns(rows):
            parts += [
                f"Test {escaped(cohort.metric)} by {escaped(by)}",
                "",
                *table(names, lines),
                "",
            ]
    drawn = f"{evaluation.level} intervals, {evaluation.bootstrap['resamples']:,} resamples"
    parts += [f"{NOTE} {drawn}; {evaluation.pooling} over tokens, layer: {evaluation.layer}.", ""]
    parts += [f"- {remark}" for remark in evaluation.remarks]
    for cohort in {cohort.path: cohort for cohort in evaluation.cohorts}.values():
        parts.append(f"- data `{cohort.path}`: {', '.join(cohort.shards.values())}")
    for source in evaluation.sources:
        for run in source.runs:
            about_run = ", ".join(f"{name} {value}" for name, value in run.items())
            if run:
                parts.append(f"- {escaped(source.name)}: {escaped(about_run)}")
    parts += [f"- {name}: {escaped(str(value))}" for name, value in evaluation.provenance.items()]
    return "\n".join(parts) + "\n"
