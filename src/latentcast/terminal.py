"""The terminal: text from data is printed as it is, never as markup and never as a command."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from latentcast.errors import printable


class Terminal(Console):
    """A console on which strings are data; a style is given by ``style=`` or a ``Text``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """All strings come through here, those in the cells of a table too."""
        return super().render_str(printable(text), **options)

    def status(self, status: Any, **options: Any) -> Status:
        """As rich's, which takes a string for markup."""
        return super().status(Text(printable(str(status))), **options)


def plain_table(title: str | None = None, caption: str | None = None) -> Table:
    """A table without a frame."""
    return Table(
        title=title, title_justify="left", title_style="bold", caption=caption,
        caption_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
