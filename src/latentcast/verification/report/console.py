"""The report on a terminal: a table a section, what broke in full, one line at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from latentcast.terminal import Terminal, plain_table
from latentcast.verification.parity.agreement import Agreement
from latentcast.verification.report.lines import Report, Section

VERDICTS = {
    "holds": Text("holds", "green"),
    "broken": Text("BROKEN", "bold red"),
    "note": Text("note", "yellow"),
    "not measured": Text("not measured", "dim"),
}
SHOWN = 2
"""Numbers of a line in the table; of a broken one all stand below it."""


def print_section(section: Section, console: Terminal, full: bool = False) -> None:
    """What is broken, after the known faults that it is most like; then a sentence.

    ``full``: a table of all claims before that.
    """
    if full:
        _print_table(section, console)
    for n, one in enumerate(section.most_like):
        console.print(f"{'most like' if n == 0 else '     also'}: {one}", style="bold")
    for line in section.lines:
        if line.verdict == "broken":
            what = f"{line.id} is broken: {line.sentence}"
            console.print(what, style="bold red")
            console.print(f"  {line.text()}\n  source: {line.source}")
        elif line.verdict == "not measured" and not full:
            console.print(f"{line.id} is not measured: {line.text()}", style="dim")
    style = "green" if section.holds else "bold red"
    took = f" ({section.seconds:.0f} s)"
    console.print(f"{section.name}: {section.summary}{took}", style=style)


def _print_table(section: Section, console: Terminal) -> None:
    table = plain_table(section.name)
    for heading in ("claim", "verdict", "measured"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "verdict")
    table.add_column("s", justify="right", no_wrap=True)
    for line in section.lines:
        table.add_row(line.id, VERDICTS[line.verdict], line.text(SHOWN), f"{line.seconds:.2f}")
    console.print(table)


def print_agreements(file: Path, agreements: Sequence[Agreement], console: Terminal) -> None:
    """A row a quantity: largest absolute and relative difference, tolerance, verdict."""
    table = plain_table(str(file))
    for column in ("quantity", "absolute", "relative", "tolerance", "verdict"):
        table.add_column(column, justify="left" if column in ("quantity", "verdict") else "right")
    for a in agreements:
        verdict = "agrees" if a.holds else Text("DIFFERS", "bold red")
        table.add_row(
            a.quantity, f"{a.absolute:.2e}", f"{a.relative:.2e}", f"{a.tolerance:.0e}", verdict
        )
    console.print(table)
    failed = sum(not a.holds for a in agreements)
    console.print(f"{len(agreements) - failed} of {len(agreements)} quantities agree")


def print_verdict(report: Report, console: Terminal) -> None:
    style = "bold green" if report.holds else "bold red"
    console.print(report.verdict, style=style)
