"""Faults × claims: every fault of the catalogue on every recipe that it concerns.

    python -m dev.matrix [FAULT ...] [--recipes R ...] [--jobs N] [--json FILE] [--list]

A fault is caught when all claims that it must turn red are red by a number; a claim that raised
proves nothing. The exit status is 1 if a fault is not caught, or if all are run and some claim
is turned red by none. FAULT may be a pattern, as ``'ema.*'``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dev.catalogue import Fault, Unreadable, all_faults
from dev.measuring import Red, area, areas, healthy, reds, under
from dev.overlay import Job, Misfit, edited, preload, run

RECIPES = ("nepa-ecg-small", "nepa-image-large", "ijepa-image-huge", "hjepa-ecg-tiny",
           "hjepa-ecg-leads-tiny", "hjepa-image-tiny", "conv-ecg-tiny", "cpc-ecg-tiny",
           "nepa-ecg-tiny encoder.kind=s4d")  # fmt: skip
"""Together they have every fault of the catalogue; a name may be followed by keys that are set."""


@dataclass(frozen=True)
class Row:
    """What a fault did to the claims about a recipe; ``problem`` is how the process ended."""

    fault: Fault
    recipe: str
    red: tuple[Red, ...]
    seconds: float
    problem: str = ""

    @property
    def proven(self) -> tuple[str, ...]:
        return tuple(red.claim for red in self.red if not red.raised)

    @property
    def missed(self) -> str:
        """Why it does not count as caught."""
        if self.problem:
            return self.problem
        raised = {red.claim: red.numbers["raised"] for red in self.red if red.raised}
        told = [
            f"{name} raised {raised[name]}" if name in raised else f"{name} holds"
            for name in self.fault.reddens
            if name not in self.proven
        ]
        return "; ".join(told)


@dataclass(frozen=True)
class Matrix:
    """All rows, and the claims that are measured without a fault, by recipe.

    Attributes:
        broken: what is wrong without any fault: a claim that is red anyway catches nothing, and
            faults that must redden it are not run.
        homeless: faults that no recipe here has.
    """

    rows: tuple[Row, ...]
    claims: dict[str, tuple[str, ...]]
    broken: tuple[str, ...]
    homeless: tuple[str, ...]

    @property
    def missed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.missed)

    @property
    def unproven(self) -> tuple[str, ...]:
        proven = {name for row in self.rows for name in row.proven}
        return tuple(dict.fromkeys(n for ids in self.claims.values() for n in ids
                                   if n not in proven))  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        return {
            "claims": self.claims, "broken": self.broken, "homeless": self.homeless,
            "unproven": self.unproven,
            "rows": [
                {"id": row.fault.id, "recipe": row.recipe, "caught": not row.missed,
                 "missed": row.missed, "reddens": row.fault.reddens,
                 "red": {red.claim: red.numbers for red in row.red},
                 "raised": [red.claim for red in row.red if red.raised],
                 "seconds": round(row.seconds, 2)}
                for row in self.rows
            ],
        }  # fmt: skip


def against(
    recipes: Sequence[str], faults: Sequence[Fault], workers: int, console: Console
) -> Matrix:
    """Run the faults over the recipes.

    Raises:
        Misfit: an edit does not fit the source; nothing has been run then.
    """
    files = {fault.id: edited(fault.edits, fault.id) for fault in faults}
    parts = frozenset[str]().union(*map(areas, faults))
    preload()
    claims, broken, jobs = dict[str, tuple[str, ...]](), list[str](), list[Job]()
    homeless = {fault.id: None for fault in faults}
    for done in run([healthy(recipe, parts, faults) for recipe in recipes], workers):
        recipe, found = done.job.key, done.answer
        if found is None:
            broken.append(f"{recipe}: {done.problem}")
            continue
        red = {Red(*told).claim for told in found["red"]}
        broken += [f"{recipe}: {name} is red without a fault" for name in sorted(red)]
        broken += [f"{name}: is no claim, and a fault reddens it" for name in found["unknown"]]
        claims[recipe] = tuple(name for name in found["ids"] if name not in red)
        for fault in (fault for fault in faults if fault.id in found["faults"]):
            homeless.pop(fault.id, None)
            if red.isdisjoint(fault.reddens):
                ids = [name for name in claims[recipe] if area(name) in areas(fault)]
                jobs.append(under((fault, recipe), files[fault.id], recipe, ids, False))
    rows = list[Row]()
    for done in run(jobs, workers):
        fault, recipe = done.job.key
        rows.append(Row(fault, recipe, tuple(reds(done)), done.seconds, done.problem))
        told = rows[-1].missed or " ".join(rows[-1].proven)
        line = f"{fault.id} on {recipe}, {done.seconds:.1f} s: {told}"
        console.out(line, style="red" if rows[-1].missed else None, highlight=False)
    return Matrix(tuple(rows), claims, tuple(dict.fromkeys(broken)), tuple(homeless))


def print_matrix(matrix: Matrix, console: Console, everything: bool) -> None:
    """A table of the areas, and all that is wrong."""
    table = Table("area", "faults", "runs", "not caught", "seconds")
    for part in dict.fromkeys(area(row.fault.id) for row in matrix.rows):
        rows = [row for row in matrix.rows if area(row.fault.id) == part]
        missed = sum(bool(row.missed) for row in rows)
        faults, seconds = len({row.fault.id for row in rows}), sum(row.seconds for row in rows)
        table.add_row(part, str(faults), str(len(rows)), str(missed), f"{seconds:.0f}")
    console.print(table)
    for line in problems(matrix, everything):
        console.out(line, style="red", highlight=False)


def problems(matrix: Matrix, everything: bool) -> list[str]:
    """Why the exit status is 1; what is unproven counts when the whole catalogue was run."""
    told = list(matrix.broken)
    told += [f"{row.fault.id} on {row.recipe}: {row.missed}" for row in matrix.missed]
    told += [f"{name}: concerns none of the recipes" for name in matrix.homeless]
    told += [f"{name}: no fault turns it red" for name in matrix.unproven if everything]
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.matrix", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("faults", nargs="*", metavar="FAULT")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--list", action="store_true", help="only say what is in the catalogue")
    given = parser.parse_args(arguments)
    try:
        catalogue = all_faults()
    except Unreadable as problem:
        sys.exit(str(problem))
    for pattern in given.faults:
        if not any(fnmatch(fault.id, pattern) for fault in catalogue):
            parser.error(f"no fault is called {pattern}; --list names all")
    patterns = given.faults or ["*"]
    chosen = [fault for fault in catalogue if any(fnmatch(fault.id, p) for p in patterns)]
    console, begun = Console(), time.monotonic()
    if given.list:
        for fault in chosen:
            console.out(f"{fault.id}: {fault.sentence}", highlight=False)
        return 0
    try:
        matrix = against(given.recipes, chosen, given.jobs, console)
    except Misfit as problem:
        sys.exit(str(problem))
    everything = not given.faults and set(RECIPES) <= set(given.recipes)
    print_matrix(matrix, console, everything)
    console.print(f"{len(matrix.rows)} runs in {time.monotonic() - begun:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(matrix.as_json(), indent=1), encoding="utf-8")
    return 1 if problems(matrix, everything) else 0


if __name__ == "__main__":
    sys.exit(main())
