"""The six PTB-XL tasks: which statements make which class.

The classes are read from ``scp_statements.csv`` of PTB-XL (CC BY 4.0, see
``NOTICE-scp_statements.txt``), never typed in. A record has a statement when the code is
PRESENT, whatever the likelihood beside it: 0.0 means "unknown" there and is what nearly every
rhythm statement carries (protocol of Strodthoff et al. 2021, doi 10.1109/JBHI.2020.3022989).
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources

from latentcast.evaluation.tasks.codes import CodeGroups

NAMES = ("all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm")


def statements(name: str) -> CodeGroups:
    """One of NAMES.

    ``all`` keeps a record without any statement; the other tasks drop a record that has none of
    theirs, because its absence of labels means nothing to the task.
    """
    rows = _statements()
    if name == "all":
        return CodeGroups(name, {row[""]: (row[""],) for row in rows}, keeps_unlabelled=True)
    if name in ("diagnostic", "form", "rhythm"):
        return CodeGroups(name, {row[""]: (row[""],) for row in rows if row[name]})
    column = {"superdiagnostic": "diagnostic_class", "subdiagnostic": "diagnostic_subclass"}[name]
    groups: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if row["diagnostic"]:
            groups[row[column]] = (*groups.get(row[column], ()), row[""])
    return CodeGroups(name, dict(sorted(groups.items())))


@cache
def _statements() -> tuple[dict[str, str], ...]:
    table = resources.files("latentcast.evaluation").joinpath("scp_statements.csv")
    return tuple(csv.DictReader(table.read_text("utf-8").splitlines()))
