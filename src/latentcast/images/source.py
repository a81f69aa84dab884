"""What ingest asks of a source of images, whatever its format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Split = Literal["train", "validation", "test"]
Pixels = npt.NDArray[np.uint8]

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""How folders, arrays and files name a split."""

HELD_OUT_FIRST: tuple[Split | None, ...] = ("test", "validation", "train", None)
"""Order of the splits in a store. Of two equal images the later one is left out: never an image of
the test split for one that is trained on."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one image lies.

    Attributes:
        record_id: its id in the store.
        file: the file that holds it, relative to the source.
        split: what the source says of it, None where it has no splits.
        label: index into the source's classes, -1 where it has none.
        row: its row, in a file that holds many images.
        problem: why it cannot be read, where the listing already knows.
    """

    record_id: str
    file: str
    split: Split | None = None
    label: int = -1
    row: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Measured:
    """Size of an image as it is looked at (after its EXIF orientation), and whether it is grey."""

    height: int
    width: int
    grey: bool


class ImageSource(Protocol):
    """A set of images in one format; threads may read from it at the same time."""

    kind: str
    name: str
    encoded: bool
    """Whether :meth:`read` gives the bytes of a file, and not pixels."""
    classes: tuple[str, ...]

    def refs(self) -> Sequence[ImageRef]:
        """All images in an order that depends on nothing but the source."""
        ...

    def fingerprint(self) -> str:
        """Changes when the source does: a hash of its names and sizes at least."""
        ...

    def measure(self, ref: ImageRef) -> Measured:
        """Size of one image, without decoding it; raises BadRecord."""
        ...

    def read(self, ref: ImageRef) -> bytes | Pixels:
        """One image: the bytes of its file, or uint8 ``(height, width, channels)``.

        Raises:
            BadRecord: it cannot be read.
        """
        ...


def hash_of_sizes(root: Path, files: Iterable[Path]) -> str:
    """A hash of names and sizes, for sources of more bytes than one wants to read twice."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root).as_posix()} {file.stat().st_size}\n".encode())
    return digest.hexdigest()
