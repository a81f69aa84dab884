"""The rows of ``metrics.jsonl``: how a statistic of a view is called in them, and read again.

No torch: a listing of a hundred runs should not wait for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

REPRESENTATIONS: Final = ("output", "target")
"""Roles by which a level is judged: of an encoder that predicts by itself its output, else what is
predicted."""
_COLUMN: Final = re.compile(r"level(\d+)_([a-z]+)_(rank|mean_norm|std|dead|lidar|variance|between)")
_NEPA: Final = re.compile(r"(target|output)_(rank|mean_norm|std|dead|lidar|variance|between)")


class Column(NamedTuple):
    """A statistic of the view with a role on a level."""

    level: int
    role: str
    statistic: str

    def __str__(self) -> str:
        return f"level{self.level}_{self.role}_{self.statistic}"


def columns(keys: Iterable[str]) -> list[Column]:
    """Those of the keys that are statistics of views."""
    found = (_COLUMN.fullmatch(key) for key in keys)
    return [Column(int(match[1]), match[2], match[3]) for match in found if match]


def present(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row under the names of today: NEPA's views had no level in them once."""
    return {f"level0_{key}" if _NEPA.fullmatch(key) else key: row[key] for key in row}


def ranks(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Effective rank of the representation of each level, finest first; empty without views."""
    found: dict[int, dict[str, float]] = {}
    for column in columns(row):
        value = number(row[str(column)])
        if column.statistic == "rank" and value is not None:
            found.setdefault(column.level, {})[column.role] = value
    return tuple(_representation(by_role) for _, by_role in sorted(found.items()))


def _representation(by_role: Mapping[str, float]) -> float:
    named = [by_role[role] for role in REPRESENTATIONS if role in by_role]
    return next(iter([*named, *by_role.values()]))


def number(value: Any) -> float | None:
    """A value of a row; None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
