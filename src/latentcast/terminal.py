"""The terminal: text from data is printed as it is, never as markup and never as a command."""

from __future__ import annotations

import re
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and new line
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the order in which text is read
    "\ud800-\udfff\ufffe\uffff]"  # no characters: bytes of a file name that is not UTF-8
)


def printable(text: str) -> str:
    """``text`` with every character that a terminal, XML or UTF-8 cannot hold as its escape.

    ``"\\x1b[31m"``, which turns a terminal red, becomes its seven visible characters.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


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
