"""A source of images, whatever its format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from latentcast.images.decode import Measured, Pixels, measure
from latentcast.source import Modality, RecordRef, Source, Split

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


class ImageSource(Source[bytes | Pixels]):
    """A set of images: each the bytes of its file, or uint8 ``(height, width, channels)``.

    Attributes:
        encoded: whether :meth:`read` gives the bytes of a file, and not pixels.
    """

    modality: Modality = "image"
    encoded: bool = False

    def measure(self, ref: RecordRef) -> Measured:
        """Size of one image, without decoding it; raises BadRecord."""
        image, _ = self.read(ref)
        if isinstance(image, bytes):
            return measure(BytesIO(image))
        height, width, channels = image.shape
        return Measured(height, width, channels == 1)


def hash_of_sizes(root: Path, files: Iterable[Path]) -> str:
    """A hash of names and sizes, for sources of more bytes than one wants to read twice."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size if file.exists() else -1  # -1: a link to nothing
        digest.update(f"{file.relative_to(root).as_posix()} {size}\n".encode())
    return digest.hexdigest()
