"""The report on a terminal: a table a section, what broke in full, one line at the end."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from latentcast.verification.matrix import Matrix, Row, area
from latentcast.verification.report.lines import Line, Report, Section

VERDICTS = {
    "holds": "[green]holds[/]",
    "broken": "[bold red]BROKEN[/]",
    "not measured": "[dim]not measured[/]",
}
SHOWN = 2
"""Numbers of a claim that holds; of a broken one all are told below the table."""


def print_section(section: Section, console: Console) -> None:
    """The claims, then the faults, then a sentence."""
    table = _table(section.name)
    for heading in ("claim", "verdict", "measured"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "verdict")
    table.add_column("s", justify="right", no_wrap=True)
    for line in section.lines:
        told = line.told(SHOWN)
        table.add_row(line.id, VERDICTS[line.verdict], told, f"{line.seconds:.2f}")
    console.print(table)
    for line in section.lines:
        if line.verdict == "broken":
            _broken(line, console)
    if section.matrix:
        print_matrix(section.matrix, console)
    style = "green" if section.holds else "bold red"
    took = f" ({section.seconds:.0f} s)"
    console.print(f"{section.name}: {section.summary}{took}", style=style, markup=False)


def _broken(line: Line, console: Console) -> None:
    console.print(f"{line.id} is broken: {line.sentence}", style="bold red", markup=False)
    console.print(f"  {line.told()}\n  source: {line.source}", markup=False)


def print_matrix(matrix: Matrix, console: Console) -> None:
    """A row a fault: the claims that turned red under it, by area, those that had to in bold."""
    table = _table("Faults, and the claims that turned red")
    table.add_column("fault", overflow="fold")
    table.add_column("caught by", overflow="fold")
    table.add_column("s", justify="right", no_wrap=True)
    for row in matrix.rows:
        table.add_row(row.fault.id, _caught(row, matrix), f"{row.seconds:.1f}")
    console.print(table)
    console.print(matrix.how, style="dim", markup=False)
    if matrix.unproven:
        told = ", ".join(matrix.unproven)
        console.print(f"unproven, no fault turned them red: {told}", style="yellow", markup=False)


def _caught(row: Row, matrix: Matrix) -> str:
    told = []
    for place in matrix.areas:
        red = [name for name in matrix.claims if name in row.red and area(name) == place]
        names = [name.partition(".")[2] for name in red]
        if red:
            bold = [f"[bold]{short}[/]" if name in row.wanted else short
                    for name, short in zip(red, names, strict=True)]  # fmt: skip
            told.append(f"{place}: {', '.join(bold)}")
    return "; ".join(told if row.caught else [f"[bold red]{row.problem}[/]", *told])


def print_verdict(report: Report, console: Console) -> None:
    style = "bold green" if report.holds else "bold red"
    console.print(report.verdict, style=style, markup=False)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
                 pad_edge=False, padding=(0, 1, 0, 0), title_style="bold")  # fmt: skip
