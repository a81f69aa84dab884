"""The table of ``latentcast runs``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from rich.table import Table
from rich.text import Text

from latentcast.runs.summary import RunSummary
from latentcast.terminal import Terminal, plain_table

Order = Literal["name", "recipe", "state", "step", "loss", "rank", "speed", "probe", "age", "size"]

_STYLES: Final = {"done": "", "running?": "bold", "stopped": "yellow", "damaged": "bold red"}


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[RunSummary, float], str | Text]
    right: bool = True
    spared: int = 0
    """A terminal that is too narrow for all columns goes without those of the highest number."""


_COLUMNS: Final = (
    _Column("run", lambda run, now: run.name, right=False),
    _Column("recipe", lambda run, now: run.recipe or "–", right=False, spared=3),
    _Column("kind", lambda run, now: run.objective or "–", right=False, spared=6),
    _Column("step", lambda run, now: f"{run.step:,}/{plain(run.steps, 0)}"),
    _Column("state", lambda run, now: _state(run), right=False),
    _Column("loss", lambda run, now: plain(run.loss)),
    _Column("rank", lambda run, now: "/".join(f"{rank:.0f}" for rank in run.ranks) or "–"),
    _Column("alarms", lambda run, now: _alarms(run), spared=1),
    _Column("skipped", lambda run, now: f"{run.skipped:,}", spared=2),
    _Column("samples/s", lambda run, now: plain(run.samples_per_second, 0), spared=4),
    _Column("probe", lambda run, now: _probe(run), right=False),
    _Column("age", lambda run, now: ago(now - run.written), spared=5),
    _Column("size", lambda run, now: size(run.bytes), spared=7),
)  # fmt: skip


def in_order(runs: Sequence[RunSummary], order: Order) -> list[RunSummary]:
    """Sorted by a column: losses and ages ascending, other numbers the largest first.

    Runs that do not have the number come last; equals stay in the order of their names.
    """
    named = sorted(runs, key=lambda run: run.name)
    keys: dict[str, Callable[[RunSummary], Any]] = {
        "name": lambda run: run.name,
        "recipe": lambda run: run.recipe or "\uffff",
        "state": lambda run: list(_STYLES).index(run.state),
        "step": lambda run: -run.step,
        "loss": lambda run: math.inf if run.loss is None else run.loss,
        "rank": lambda run: -run.ranks[0] if run.ranks else math.inf,
        "speed": lambda run: -(run.samples_per_second or -math.inf),
        "probe": lambda run: -(_best(run) or -math.inf),
        "age": lambda run: -run.written,
        "size": lambda run: -run.bytes,
    }
    return sorted(named, key=keys[order])


def print_runs(runs: Sequence[RunSummary], console: Terminal, now: float | None = None) -> None:
    """A row for each run, then whatever is wrong with the files of one.

    Args:
        runs: as they are to be shown, see :func:`in_order`.
        console: where to print; columns that its width has no room for are left out and named.
        now: seconds since 1970, for the ages; this moment by default.
    """
    now = time.time() if now is None else now
    left_out: list[str] = []
    columns = list(_COLUMNS)
    while True:
        table = _table(runs, columns, now)
        needed = console.measure(table, options=console.options.update(width=10_000)).maximum
        spared = max(columns, key=lambda column: column.spared)
        if needed <= console.width or not spared.spared:
            break
        columns.remove(spared)
        left_out.append(spared.heading)
    console.print(table)
    if left_out:
        console.print(
            f"too narrow for {', '.join(reversed(left_out))}; a wider window or --json shows them",
            style="dim",
        )
    for run in runs:
        for problem in run.problems:
            console.print(f"! {run.name}: {problem}", style="red", soft_wrap=True)


def _table(runs: Sequence[RunSummary], columns: Sequence[_Column], now: float) -> Table:
    table = plain_table()
    for column in columns:
        # Names may be broken when there is no other way, numbers never.
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            no_wrap=column.heading not in ("run", "recipe"),
            overflow="fold",
        )
    for run in runs:
        table.add_row(*(column.cell(run, now) for column in columns))
    return table


def _state(run: RunSummary) -> Text:
    text = run.state + (" !" if run.problems and run.state != "damaged" else "")
    return Text(text, _STYLES[run.state])


def _alarms(run: RunSummary) -> str | Text:
    """How many were raised, and how many of them still are."""
    if not run.alarms:
        return "0"
    still = len(run.alarms_now)
    return Text(f"{len(run.alarms)}, {still} now", "red") if still else f"{len(run.alarms)}, past"


def _probe(run: RunSummary) -> str:
    best = run.best
    return f"{plain(best.value)} {best.task}, {best.head}" if best else "–"


def _best(run: RunSummary) -> float | None:
    return run.best.value if run.best else None


def plain(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def ago(seconds: float) -> str:
    """A length of time in its largest unit that is not under one: "3 h"."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def size(count: int) -> str:
    """Bytes in decimal units: "26 MB"."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_:
            return f"{count / bytes_:.3g} {unit}"
    return f"{count} B"
