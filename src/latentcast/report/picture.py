"""A figure with its words: in the page, and as files for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from latentcast.errors import LatentcastError, printable
from latentcast.files import write_text
from latentcast.markdown import escaped
from latentcast.report.style import save_figure
from latentcast.report.svg import of_figure

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

CAPTIONS: Final = "captions.md"
FORMATS: Final = (".pdf", ".svg")
NARROW: Final = 6.0
"""Inches up to which a figure is shown as it is on a phone, and beside others on a desk."""


@dataclass(frozen=True)
class Picture:
    """A figure, and what is said about it.

    Attributes:
        name: of its files, and before the ids of its SVG; another for each picture of a page.
        title: heading.
        figure: in the light colours of :mod:`latentcast.report.style`.
        description: for those who cannot see it.
        caption: how it is read.
        paper: clinical paper, which keeps its colours and its size.
    """

    name: str
    title: str
    figure: Figure
    description: str
    caption: str
    paper: bool = False

    @property
    def narrow(self) -> bool:
        """It fits a phone."""
        return bool(self.figure.get_figwidth() <= NARROW)

    def svg(self) -> Markup:
        """Of all but paper the colours become CSS variables, which follow the reader's light or
        dark setting: clinical paper is pink by day and by night."""
        return of_figure(self.figure, self.name, self.description, recolour=not self.paper)


def write_figures(pictures: Sequence[Picture], folder: Path) -> None:
    """Each picture as PDF and SVG, and ``captions.md`` with what is said about them.

    Raises:
        LatentcastError: the folder cannot be written, or a file of one of these names is there and
            is no picture.
    """
    words = ["# Captions"]
    for one in pictures:
        for suffix in FORMATS:
            # Without a date, which would make another file of the same picture.
            dated = {"CreationDate": None} if suffix == ".pdf" else {"Date": None}
            save_figure(one.figure, folder / (one.name + suffix), facecolor="white", metadata=dated)
        words += ["", f"## {one.name}: {escaped(one.title)}", "", escaped(printable(one.caption)),
                  "", f"In words: {escaped(printable(one.description))}"]  # fmt: skip
    try:
        write_text(folder / CAPTIONS, "\n".join(words) + "\n")
    except OSError as problem:
        raise LatentcastError(
            f"{folder / CAPTIONS}: cannot be written ({problem}); name another folder (--figures)"
        ) from None
