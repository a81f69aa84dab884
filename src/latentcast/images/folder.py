"""A folder of image files: class folders, split folders on top of them, or neither."""

from __future__ import annotations

import os
from pathlib import Path

from latentcast.errors import LatentcastError
from latentcast.images.decode import measure
from latentcast.images.source import (
    HELD_OUT_FIRST,
    SPLIT_NAMES,
    ImageRef,
    Measured,
    Split,
    hash_of_sizes,
)
from latentcast.signals.recording import BadRecord

SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".jp2", ".avif",
)  # fmt: skip


class ImageFolder:
    """The image files below a folder; hidden files and folders are passed over.

    ``CLASS/…/FILE``, ``SPLIT/CLASS/…/FILE`` with splits named as :data:`SPLIT_NAMES`, or files
    without folders, which then have no class. A class is the first folder, however deep the file.

    Raises:
        LatentcastError: what a folder means cannot be told.
    """

    kind = "image folder"
    encoded = True

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, root.name
        self._files = walk(root)
        images = [file.relative_to(root) for file in self._files if is_image(file)]
        tops = {path.parts[0] for path in images if len(path.parts) > 1}
        self._split_folders = bool(tops) and all(name.lower() in SPLIT_NAMES for name in tops)
        if self._split_folders and any(len(path.parts) == 1 for path in images):
            raise LatentcastError(
                f"{root}: has images beside its split folders {', '.join(sorted(tops))}; move them "
                "into one"
            )
        names: set[str] = set()
        unlabelled: dict[Split | None, Path] = {}
        labelled: dict[Split | None, Path] = {}
        deep = False
        for path in images:
            split, inside = self._place(path)
            if len(inside) > 1:
                names.add(inside[0])
                labelled.setdefault(split, path)
                deep = deep or len(inside) > 2
            else:
                unlabelled.setdefault(split, path)
        for split in unlabelled.keys() & labelled.keys():
            raise LatentcastError(
                f"{root}: {unlabelled[split]} lies beside class folders ({labelled[split]}); move "
                "it into one of them, or remove it"
            )
        if len(names) == 1 and deep:
            (only,) = names
            raise LatentcastError(
                f"{root}: all images lie below one folder, '{only}'; name that folder, "
                f"{root / only}"
            )
        self.classes = tuple(sorted(names))

    def _place(self, path: Path) -> tuple[Split | None, tuple[str, ...]]:
        """The split of a file and what of its path lies below the split."""
        if self._split_folders and len(path.parts) > 1:
            return SPLIT_NAMES[path.parts[0].lower()], path.parts[1:]
        return None, path.parts

    def refs(self) -> list[ImageRef]:
        label_of = {name: label for label, name in enumerate(self.classes)}
        refs = []
        for file in self._files:
            path = file.relative_to(self.root)
            if is_image(file):
                split, inside = self._place(path)
                label, problem = label_of[inside[0]] if len(inside) > 1 else -1, None
            else:
                split, label, problem = None, -1, f"is no image file by its name ({file.name})"
            name = path.as_posix()
            refs.append(ImageRef(name, name, split, label, problem=problem))
        return sorted(refs, key=lambda ref: HELD_OUT_FIRST.index(ref.split))

    def fingerprint(self) -> str:
        return hash_of_sizes(self.root, self._files)

    def measure(self, ref: ImageRef) -> Measured:
        try:
            with (self.root / ref.file).open("rb") as file:
                return measure(file)
        except OSError as error:
            raise BadRecord(f"cannot be read ({error.strerror})") from error

    def read(self, ref: ImageRef) -> bytes:
        try:
            return (self.root / ref.file).read_bytes()
        except OSError as error:
            raise BadRecord(f"cannot be read ({error.strerror})") from error


def is_image(file: Path) -> bool:
    """Whether a file is an image by its name."""
    return file.suffix.lower() in SUFFIXES


def walk(root: Path) -> list[Path]:
    """All files below a folder that are not hidden, sorted; links to folders are followed once."""
    files, seen = [], set()
    for folder, names, found in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if not name.startswith((".", "__MACOSX")))
        files += [Path(folder, name) for name in found if not name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(root).as_posix())
