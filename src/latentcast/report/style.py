"""Colours and type shared by every picture and by the page that carries them.

A figure is drawn in the light colours. The page replaces each of them by a CSS variable, so an
inlined SVG follows the reader's light or dark setting; that works because no two roles share a hex
value, and a figure uses no colour outside this table (clinical paper excepted: paper stays paper).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from latentcast.errors import LatentcastError
from latentcast.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: role -> (light, dark). Text and lines hold a contrast of at least 4.5:1 and 3:1 on either page.
PALETTE: Final[dict[str, tuple[str, str]]] = {
    "ink": ("#1c2128", "#e6e8eb"),
    "muted": ("#5d6670", "#9aa4af"),
    "rule": ("#d5dae0", "#353c45"),
    "model": ("#0b62a8", "#5aaeee"),
    "other": ("#b4500c", "#f09a58"),
    "baseline": ("#7a828c", "#8b949e"),
    "alarm": ("#c0152f", "#ff6b7d"),
    "faint": ("#c9ced5", "#444c56"),
    # Categories for the embedding map; hues kept apart for colour-blind readers (after Okabe & Ito
    # 2008), lightness varied so that they also differ in grey.
    "class-1": ("#0272b3", "#4aa8e0"),
    "class-2": ("#d45f01", "#ff8c3a"),
    "class-3": ("#028a66", "#2cc79c"),
    "class-4": ("#a8478a", "#e08cc6"),
    "class-5": ("#8a6d00", "#e3c23a"),
    "class-6": ("#3d3a9e", "#9d9af0"),
    "class-7": ("#7d2b2b", "#d98080"),
    "class-8": ("#3f7f8f", "#86cddd"),
}

LIGHT: Final[dict[str, str]] = {role: light for role, (light, _) in PALETTE.items()}
CLASS_COLOURS: Final[tuple[str, ...]] = tuple(
    colour for role, colour in LIGHT.items() if role.startswith("class-")
)

#: Size of running text in a figure, points.
TEXT_POINTS: Final = 9.0


_PICTURES: Final = (
    b"\x89PNG",
    b"<?xml",
    b"<svg",
    b"%PDF",
    b"%!PS",
    b"\xff\xd8",
    b"RIFF",
    b"II*",
    b"MM",
)
"""How the files begin that matplotlib writes, of any format."""


def save_figure(figure: Figure, file: Path, **options: Any) -> None:
    """Write a picture, in the format of its suffix; its folder is made where it is missing.

    Raises:
        LatentcastError: another suffix, a file that is there and is no picture, or it cannot be
            written.
    """
    try:
        if file.is_file() and file.stat().st_size and not _is_picture(file):
            raise LatentcastError(
                f"{file}: exists and is no picture; name another file, or remove that one"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            figure.savefig(draft, format=file.suffix[1:], **options)
    except ValueError:  # it lists a dozen formats
        raise LatentcastError(
            f"{file}: '{file.suffix}' is no format of a picture; name a .png, .svg or .pdf"
        ) from None
    except OSError as problem:
        raise LatentcastError(
            f"{file}: cannot be written ({problem}); name a .png, .svg or .pdf in another folder"
        ) from None


def _is_picture(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(8).startswith(_PICTURES)
