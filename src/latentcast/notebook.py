"""What a notebook shows of an object: a caption above a small table. Text from data stays text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from html import escape


def table_html(caption: str, rows: Iterable[Sequence[str]], heading: Sequence[str] = ()) -> str:
    """A table for ``_repr_html_``; whatever the texts hold, they are neither markup nor control."""
    head = [_row("th", heading)] if heading else []
    body = "".join([*head, *(_row("td", row) for row in rows)])
    return (
        "<table><caption style='text-align:left;font-weight:bold'>"
        f"{_text(caption)}</caption>{body}</table>"
    )


def _row(tag: str, cells: Sequence[str]) -> str:
    return (
        "<tr>"
        + "".join(f"<{tag} style='text-align:left'>{_text(cell)}</{tag}>" for cell in cells)
        + "</tr>"
    )


def _text(text: str) -> str:
    # Categories C are controls, surrogates and marks that change the order of reading.
    return "".join(ascii(c)[1:-1] if unicodedata.category(c)[0] == "C" else escape(c) for c in text)
