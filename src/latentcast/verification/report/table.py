"""Printing what was compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from latentcast.verification.parity.agreement import Agreement


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
