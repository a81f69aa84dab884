"""The report on a terminal: a table a section, what broke in full, one line at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from latentcast.verification.parity.agreement import Agreement
from latentcast.verification.report.lines import Report, Section

VERDICTS = {
    "holds": "[green]holds[/]",
    "broken": "[bold red]BROKEN[/]",
    "not measured": "[dim]not measured[/]",
}
SHOWN = 2
"""Numbers of a claim that holds; of a broken one all stand below the table."""


def print_section(section: Section, console: Console) -> None:
    """The claims, then a sentence."""
    table = Table(title=section.name, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
                  pad_edge=False, padding=(0, 1, 0, 0), title_style="bold")  # fmt: skip
    for heading in ("claim", "verdict", "measured"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "verdict")
    table.add_column("s", justify="right", no_wrap=True)
    for line in section.lines:
        table.add_row(line.id, VERDICTS[line.verdict], line.text(SHOWN), f"{line.seconds:.2f}")
    console.print(table)
    for line in section.lines:
        if line.verdict == "broken":
            what = f"{line.id} is broken: {line.sentence}"
            console.print(what, style="bold red", markup=False)
            console.print(f"  {line.text()}\n  source: {line.source}", markup=False)
    style = "green" if section.holds else "bold red"
    took = f" ({section.seconds:.0f} s)"
    console.print(f"{section.name}: {section.summary}{took}", style=style, markup=False)


def print_agreements(file: Path, agreements: Sequence[Agreement], console: Console) -> None:
    """A row a quantity: largest absolute and relative difference, tolerance, verdict."""
    table = Table(title=str(file), title_justify="left")
    for column in ("quantity", "absolute", "relative", "tolerance", "verdict"):
        table.add_column(column, justify="left" if column in ("quantity", "verdict") else "right")
    for a in agreements:
        verdict = "agrees" if a.holds else "[bold red]DIFFERS[/]"
        table.add_row(
            a.quantity, f"{a.absolute:.2e}", f"{a.relative:.2e}", f"{a.tolerance:.0e}", verdict
        )
    console.print(table)
    failed = sum(not a.holds for a in agreements)
    console.print(f"{len(agreements) - failed} of {len(agreements)} quantities agree")


def print_verdict(report: Report, console: Console) -> None:
    style = "bold green" if report.holds else "bold red"
    console.print(report.verdict, style=style, markup=False)
