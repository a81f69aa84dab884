"""The six PTB-XL tasks: which statements make which class.

The classes are read from ``scp_statements.csv`` of PTB-XL (CC BY 4.0, see
``NOTICE-scp_statements.txt``), never typed in. A record has a statement when the code is
PRESENT, whatever the likelihood beside it: 0.0 means "unknown" there and is what nearly every
rhythm statement carries (protocol of Strodthoff et al. 2021, doi 10.1109/JBHI.2020.3022989).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from latentcast.data.labels import Labels
from latentcast.errors import LatentcastError, nearest

TASKS = ("all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm")


@dataclass(frozen=True)
class Task:
    """A multi-label task: each class is present when any of its statement codes is.

    ``keeps_unlabelled`` is true for ``all`` only: the other tasks drop a record that has none
    of their statements, because its absence of labels says nothing about the task.
    """

    name: str
    members: Mapping[str, tuple[str, ...]]
    keeps_unlabelled: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.members)

    def targets(self, labels: Labels) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Targets bool (N, classes) and the records of the task, bool (N,).

        Raises LatentcastError when the store holds none of the task's statements.
        """
        known = set(labels.codes)
        wanted = sorted({code for codes in self.members.values() for code in codes} & known)
        if not wanted:
            held = ", ".join(labels.codes[:5]) if labels.codes else "no labels at all"
            raise LatentcastError(
                f"task {self.name}: the store has none of its SCP statements (it has {held}); "
                "ingest a PTB-XL folder that holds ptbxl_database.csv"
            )
        present = labels.indicator(wanted)
        column = {code: i for i, code in enumerate(wanted)}
        targets = np.zeros((len(present), len(self.members)), dtype=bool)
        for c, codes in enumerate(self.members.values()):
            for code in codes:
                if code in column:
                    targets[:, c] |= present[:, column[code]]
        kept = np.asarray(targets.any(axis=1) | self.keeps_unlabelled)
        return targets, kept


def task(name: str) -> Task:
    """One of the six PTB-XL tasks by its name; raises LatentcastError with the nearest name."""
    if name not in TASKS:
        raise LatentcastError(f"task {name}: no such PTB-XL task; {nearest(name, TASKS)}")
    rows = _statements()
    if name == "all":
        return Task(name, {row[""]: (row[""],) for row in rows}, keeps_unlabelled=True)
    if name in ("diagnostic", "form", "rhythm"):
        return Task(name, {row[""]: (row[""],) for row in rows if row[name]})
    column = {"superdiagnostic": "diagnostic_class", "subdiagnostic": "diagnostic_subclass"}[name]
    groups: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if row["diagnostic"]:
            groups[row[column]] = (*groups.get(row[column], ()), row[""])
    return Task(name, dict(sorted(groups.items())))


@cache
def _statements() -> tuple[dict[str, str], ...]:
    text = resources.files(__package__).joinpath("scp_statements.csv").read_text("utf-8")
    return tuple(csv.DictReader(text.splitlines()))
