"""What the columns of a label table hold: 0 and 1, classes, codes or numbers, or nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError
from latentcast.signals.readers import numbers

Kind = Literal["binary", "classes", "codes", "number"]
KINDS: tuple[Kind, ...] = ("binary", "classes", "codes", "number")
MISSING = {"", "na", "n/a", "nan", "null", "none"}
"""Cells that hold no value, in any case. A missing label is never a 0."""
MOST_CLASSES = 100
"""A text of more different values is a note or an id rather than a class, unless it is named."""
_BETWEEN = re.compile(r"[;|]")
"""What divides codes."""
_YES, _NO = {"1", "1.0", "true"}, {"0", "0.0", "false"}


@dataclass(frozen=True, eq=False)
class Column:
    """One column of labels.

    Attributes:
        name: as in the table.
        kind: ``binary``, ``classes`` (one of several), ``codes`` (any of several) or ``number``.
        values: float64 ``(N,)``: 0 and 1, a place in ``classes``, or the number; NaN is missing.
            Of codes bool ``(N, len(classes))``.
        mask: bool ``(N,)``, where there is a value.
        classes: names of the classes or codes, sorted; empty for other kinds.
    """

    name: str
    kind: Kind
    values: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]
    classes: tuple[str, ...] = ()


def present(cell: str) -> bool:
    """Whether a cell holds a value."""
    return cell.strip().lower() not in MISSING


def number(cell: str) -> float | None:
    """The number that a cell is; None for anything else."""
    try:
        return numbers.number(cell)
    except ValueError:
        return None


def kind_of(cells: Sequence[str]) -> Kind:
    """What the cells that hold a value are, taken together."""
    texts = {cell.strip() for cell in cells if present(cell)}
    if texts and {text.lower() for text in texts} <= _YES | _NO:
        return "binary"
    if texts and all(number(text) is not None for text in texts):
        return "number"
    return "codes" if any(_BETWEEN.search(text) for text in texts) else "classes"


def column_of(name: str, cells: Sequence[str], kind: Kind | None = None) -> Column:
    """A column from its cells, one for each record.

    Args:
        kind: by default what all cells are.

    Raises:
        LatentcastError: a cell is not of the ``kind``.
    """
    kind = kind or kind_of(cells)
    texts = [cell.strip() if present(cell) else None for cell in cells]
    mask = np.array([text is not None for text in texts], dtype=np.bool_)
    if kind == "codes":
        sets = [_codes(text) for text in texts]
        classes = tuple(sorted({code for codes in sets for code in codes}))
        rows = [[code in codes for code in classes] for codes in sets]
        return Column(name, kind, np.array(rows, dtype=np.bool_), mask, classes)
    if kind == "classes":
        classes = tuple(sorted({text for text in texts if text is not None}))
        place: Mapping[str | None, float] = {text: float(i) for i, text in enumerate(classes)}
        places = [place.get(text, math.nan) for text in texts]
        return Column(name, kind, np.array(places, dtype=np.float64), mask, classes)
    read = _binary if kind == "binary" else number
    values = np.full(len(texts), math.nan)
    for row, text in enumerate(texts):
        if text is not None:
            value = read(text)
            if value is None:
                needed = "0 or 1" if kind == "binary" else "a number"
                raise LatentcastError(
                    f"column '{name}': '{text[:40]}' is not {needed}; correct it, leave the cell "
                    f"empty, or read the column as text with --kinds {name}=classes"
                )
            values[row] = value
    return Column(name, kind, values, mask)


def _binary(text: str) -> float | None:
    lower = text.lower()
    return 1.0 if lower in _YES else 0.0 if lower in _NO else None


def _codes(text: str | None) -> frozenset[str]:
    return frozenset(code.strip() for code in _BETWEEN.split(text or "") if code.strip())
