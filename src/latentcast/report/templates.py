"""The pages as templates: a file a page in ``templates/``, its pieces in ``macros.html``."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from latentcast.errors import printable
from latentcast.evaluation.estimate import number
from latentcast.report.style import PALETTE

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        numeric: places of the columns that are set flush right; all but the first by default.
        kind: a stacked one becomes a list of named values on a phone; a wide one is for comparing
            rows, stays a table, and moves sideways in its box under a first column that stays.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numeric: Container[int] = range(1, 1000)
    kind: Literal["stacked", "wide", ""] = "stacked"


@dataclass(frozen=True)
class Card:
    """A number at the head of a page, what it is, and what a reader has to know with it."""

    name: str
    value: str
    note: str


def render(template: str, **values: Any) -> str:
    """A page. What is markup already is a :class:`markupsafe.Markup`; all else is escaped."""
    page: str = _environment().get_template(template).render(**values)
    return page + "\n"


@cache
def _environment() -> Environment:
    # Not at the top: what writes no page does not load it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def finalize(value: Any) -> Any:
        return value if hasattr(value, "__html__") else printable(str(value))

    environment = Environment(
        loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined,
        finalize=finalize, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["palette"] = PALETTE
    environment.filters["number"] = number
    return environment
