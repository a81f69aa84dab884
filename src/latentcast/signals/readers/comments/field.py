"""One comment of a header."""

from __future__ import annotations

from typing import NamedTuple

MISSING = {"", "nan", "na", "n/a", "none", "null", "unknown", "u", "?", "-", "not available"}
"""Values that hold none, in lower case."""


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
