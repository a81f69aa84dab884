"""The pages as templates: a file a page in ``templates/``, whatever enters them is escaped."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from latentcast.errors import printable
from latentcast.report.style import stylesheet

if TYPE_CHECKING:
    from jinja2 import Environment


def render(name: str, **values: Any) -> str:
    """A page; a value that is markup already is a :class:`~latentcast.report.markup.Html`, and all
    others are escaped."""
    from markupsafe import Markup

    page: str = _environment().get_template(name).render(stylesheet=Markup(stylesheet()), **values)
    return page + "\n"


@cache
def _environment() -> Environment:
    # It comes with torch, which needs it itself.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def finalize(value: Any) -> Any:
        return value if hasattr(value, "__html__") else printable(str(value))

    return Environment(
        loader=PackageLoader("latentcast.report"), autoescape=True, undefined=StrictUndefined,
        finalize=finalize, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
