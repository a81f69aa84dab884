"""A source of images, whatever its format."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

from latentcast.errors import LatentcastError
from latentcast.images.decode import Measured, Pixels, measure
from latentcast.source import SPLIT_NAMES, Modality, RecordRef, Source, Split

SplitChoice = Literal["named", "none"]
"""What ``--splits`` decides where some names are those of splits and some are not."""

HELD_OUT_FIRST: tuple[Split | None, ...] = ("test", "validation", "train", None)
"""Order of the splits in a store. Of two equal images the later one is left out: never an image of
the test split for one that is trained on."""


class ImageSource(Source[bytes | Pixels]):
    """A set of images: each the bytes of its file, or uint8 ``(height, width, channels)``.

    Attributes:
        encoded: whether :meth:`read` gives the bytes of a file, and not pixels.
        forked: whether processes that were forked from this one may read its images: it holds no
            file open, whose position they would share.
    """

    modality: Modality = "image"
    encoded: bool = False
    forked: bool = False

    def measure(self, ref: RecordRef) -> Measured:
        """Size of one image, without decoding it; raises BadRecord."""
        image, _ = self.read(ref)
        if isinstance(image, bytes):
            return measure(BytesIO(image))
        height, width, channels = image.shape
        return Measured(height, width, channels == 1)


def splits_of(
    source: str,
    names: Mapping[str, str],
    choice: SplitChoice | None,
    otherwise: str,
    annotated: bool = True,
) -> dict[str, Split | None]:
    """The split that each folder or file stands for.

    Args:
        source: for messages.
        names: of each folder or file, the word that may name a split.
        choice: ``named``: those that name a split are it, and all others are trained on; ``none``:
            no name is that of a split. None: the names are a guess, of which all must be right.
        otherwise: what they are where no name counts, for messages.
        annotated: whether a split means anything; without it no name counts where some are unknown.

    Raises:
        LatentcastError: some names are those of splits and some are not.
    """
    by_name = {name: SPLIT_NAMES.get(word.lower()) for name, word in names.items()}
    unknown = [name for name, split in by_name.items() if split is None]
    if choice == "named" and len(unknown) == len(by_name):
        raise LatentcastError(
            f"{source}: --splits named: none of {_first(unknown)} is named like a split "
            f"({', '.join(SPLIT_NAMES)}); leave it out"
        )
    if choice == "none" or len(unknown) == len(by_name) or (unknown and not annotated):
        return dict.fromkeys(by_name)
    if unknown and choice is None:
        splits = [name for name, split in by_name.items() if split]
        raise LatentcastError(
            f"{source}: {_first(splits)} {_are(splits)} named like splits, {_first(unknown)} "
            f"{_are(unknown)} not; --splits named takes these splits and trains on the images of "
            f"{_first(unknown)}, --splits none takes all as {otherwise}"
        )
    return {name: split or "train" for name, split in by_name.items()}


def check_classes(source: str, names: Iterable[str]) -> None:
    """Refuse classes that are one name in two spellings; single letters may differ in case.

    Raises:
        LatentcastError: two differ in case or in their Unicode form alone.
    """
    spelled: dict[str, str] = {}
    for name in names:
        form = unicodedata.normalize("NFC", name)
        form = form.casefold() if len(form) > 1 else form
        if (other := spelled.setdefault(form, name)) != name:
            same = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
            how = "two Unicode spellings of one name" if same else "differ in case alone"
            raise LatentcastError(
                f"{source}: the classes {other!a} and {name!a} {'are ' * same}{how}; rename one, "
                "to the same name where they are one class"
            )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + " ..." * (len(names) > 4)


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def hash_of_sizes(root: Path, names: Iterable[str]) -> str:
    """A hash of names and sizes, for sources of more bytes than one wants to read twice; the names
    are those in the folder, with slashes."""
    digest, folder = hashlib.sha256(), str(root)
    for name in names:
        path = f"{folder}/{name}"  # no Path: there may be a million
        try:
            size = os.stat(path).st_size  # noqa: PTH116
        except OSError:
            size = Path(path).stat().st_size if Path(path).exists() else -1  # -1: a link to nothing
        digest.update(f"{name} {size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
