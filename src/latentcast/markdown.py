"""Tables and text for Markdown: names come from files, and nothing in them is markup."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from latentcast.errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines, each cell escaped."""
    lines = [[escaped(str(cell)) for cell in row] for row in (heading, *rows)]
    lines.insert(1, ["---"] * len(heading))
    return [f"| {' | '.join(line)} |" for line in lines]


def escaped(value: str) -> str:
    """Text on one line, with what would be read as markup behind a backslash."""
    for mark in "\\`*_<>|#":
        value = value.replace(mark, f"\\{mark}")
    return value.replace("](", "]\\(").replace("\n", " ")


def render(package: str, template: str, **values: Any) -> str:
    """A file of a package's ``templates/``. What is Markdown already is a
    :class:`markupsafe.Markup`; all else is escaped."""
    text: str = _environment(package).get_template(template).render(**values)
    return text + "\n"


@cache
def _environment(package: str) -> Environment:
    # Not at the top: most commands write no Markdown.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Markup:
        return value if isinstance(value, Markup) else Markup(escaped(printable(str(value))))

    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined,
        finalize=finalize, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["table"] = lambda *of: Markup("\n".join(table(*of)))
    # In YAML a text in JSON is one, and in a block of code too.
    environment.filters["json"] = lambda value: Markup(json.dumps(value, ensure_ascii=False))
    return environment
