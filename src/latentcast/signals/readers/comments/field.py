"""One comment of a header, and which texts stand for none, also in the cells of a table."""

from __future__ import annotations

import re
from typing import NamedTuple

MISSING = {
    "", "nan", "na", "n/a", "#n/a", "<na>", "nat", "none", "null", "unknown", "u", "?", "-",
    "not available",
}  # fmt: skip
"""Values that hold none, in lower case."""
_NOBODY = MISSING | {"anonymous", "anonymized", "anonymised", "anon"}
_CODE = re.compile(r"[A-Z0-9][A-Z0-9_./+-]*", re.ASCII)


def patient_of(text: str) -> str | None:
    """The id of a patient; None where the text is that of nobody: ``unknown``, ``---``."""
    text = text.strip()
    return text if text.lower() not in _NOBODY and re.search(r"[^\W_]", text) else None


def codes_in(text: str) -> list[str]:
    """The codes of a cell, divided by ``;`` or ``|``, without what stands for none.

    A comma divides too, where all parts are codes: it may be part of a name in words.
    """
    parts = [part.strip() for part in re.split(r"[;|]", text)]
    if len(parts) == 1:
        by_comma = [part.strip() for part in text.split(",")]
        parts = by_comma if all(map(_CODE.fullmatch, by_comma)) else parts
    return [part for part in parts if part.lower() not in MISSING]


class Field(NamedTuple):
    """``key: value``; the key is in lower case, and ``""`` of a line that has none.

    ``tagged`` is how LUDB and INCART write it: ``<key>: value``, several on a line.
    """

    key: str
    value: str
    tagged: bool = False

    @property
    def missing(self) -> bool:
        """Whether the value stands for none."""
        return self.value.lower() in MISSING
