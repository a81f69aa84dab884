"""A folder of image files: class folders, split folders on top of them, or neither."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath

from latentcast.errors import LatentcastError
from latentcast.files import plain_file, read_bytes
from latentcast.images.decode import Measured, measure
from latentcast.images.jpeg import HEAD, frame_of
from latentcast.images.source import (
    HELD_OUT_FIRST,
    ImageSource,
    SplitChoice,
    check_classes,
    hash_of_sizes,
    splits_of,
)
from latentcast.source import (
    SPLIT_NAMES,
    Annotation,
    BadRecord,
    RecordRef,
    Split,
    is_hidden,
    record_file,
    remark_of_hidden,
)

SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".jp2", ".avif",
)  # fmt: skip


class ImageFolder(ImageSource):
    """The image files below a folder; hidden files and folders are passed over.

    ``CLASS/…/FILE``, ``SPLIT/CLASS/…/FILE`` with splits named as :data:`SPLIT_NAMES`, or files
    without folders, which then have no class. A class is the first folder, however deep the file.

    Args:
        splits: what the first folders are where some are named like splits and some are not, see
            :func:`~latentcast.images.source.splits_of`. Where all are and ``none`` counts, the
            classes are still the folders below them; a remark says which folder is the class.
        annotated: whether classes and splits are wanted; without them no folder is unclear.

    Raises:
        LatentcastError: it is one file, or what a folder means is not clear.
    """

    kind = "image folder"
    encoded = True
    forked = True

    @classmethod
    def detects(cls, path: Path) -> bool:
        if path.is_file():
            return is_image(path)
        return any(is_image(name) for name, hidden in found_in(path) if not hidden)

    def __init__(
        self, root: Path, splits: SplitChoice | None = None, annotated: bool = True
    ) -> None:
        if root.is_file():
            raise LatentcastError(f"{root}: is one image; name the folder that holds the images")
        self.root, self.name, self._looked_at = root, root.name, ""
        self._files, hidden = walk(root)
        self.remarks = remark_of_hidden(list(filter(is_image, hidden)))
        images = [(name, *name.split("/")) for name in self._files if is_image(name)]
        tops = sorted({parts[0] for _, *parts in images if len(parts) > 1})
        words = {name: name for name in tops}
        self._splits = splits_of(str(root), words, splits, "classes", annotated)
        self._passed: set[str] = set()
        if not annotated:
            return
        if splits == "none" and tops:
            remark = f"without splits the classes are {', '.join(tops)}"
            below = next((image for image in images if len(image) > 3), None)
            if below and all(name.lower() in SPLIT_NAMES for name in tops):
                self._passed = set(tops)
                remark = f"without splits the class of {below[0]} is {below[2]}"
            self.remarks = (*self.remarks, remark)
        if any(self._splits.values()) and any(len(parts) == 1 for _, *parts in images):
            raise LatentcastError(
                f"{root}: has images beside its split folders {', '.join(tops)}; move them into one"
            )
        names: set[str] = set()
        unlabelled: dict[str, str] = {}
        labelled: dict[str, str] = {}
        deep = False
        for name, *parts in images:
            _, inside = self._place(parts)
            above = "" if len(inside) == len(parts) else parts[0]
            if len(inside) > 1:
                names.add(inside[0])
                labelled.setdefault(above, name)
                deep = deep or len(inside) > 2
            else:
                unlabelled.setdefault(above, name)
        for above in unlabelled.keys() & labelled.keys():
            raise LatentcastError(
                f"{root}: {unlabelled[above]} lies beside class folders ({labelled[above]}); move "
                "it into one of them, or remove it"
            )
        if len(names) == 1 and deep:
            (only,) = names
            raise LatentcastError(
                f"{root}: all images lie below one folder, '{only}'; name that folder, "
                f"{root / only}"
            )
        check_classes(str(root), sorted(names))
        self.classes = tuple(sorted(names))

    def _place(self, parts: list[str]) -> tuple[Split | None, list[str]]:
        """The split of a file and what of its path lies below the split."""
        split = self._splits.get(parts[0]) if len(parts) > 1 else None
        below = split is not None or parts[0] in self._passed
        return split, parts[1:] if below else parts

    def refs(self) -> list[RecordRef]:
        refs = []
        for name in self._files:
            split, problem = None, None
            if is_image(name):
                split, _ = self._place(name.split("/"))
            else:
                problem = f"is no image file by its name ({name.rpartition('/')[2]})"
            refs.append(RecordRef(name, name, problem=problem, split=split))
        return sorted(refs, key=lambda ref: HELD_OUT_FIRST.index(ref.split))

    def fingerprint(self) -> str:
        return hash_of_sizes(self.root, self._files)

    def measure(self, ref: RecordRef) -> Measured:
        try:
            path = self._file(ref.file)
            if (frame := frame_of(read_bytes(path, HEAD))) is not None and frame.fits:
                return Measured(frame.height, frame.width, frame.mode == "L")
            with Path(path).open("rb") as file:
                return measure(file)
        except OSError as error:
            raise BadRecord(f"cannot be read ({error.strerror})") from error

    def read(self, ref: RecordRef) -> tuple[bytes, Annotation]:
        _, inside = self._place(ref.file.split("/"))
        labels = {inside[0]: 1.0} if len(inside) > 1 else {}
        try:
            return read_bytes(self._file(ref.file)), Annotation(labels=labels)
        except OSError as error:
            raise BadRecord(f"cannot be read ({error.strerror})") from error

    def _file(self, name: str) -> str | Path:
        """:func:`~latentcast.source.record_file`, for files one folder after the other: that no
        link leads to a folder need not be found out anew for each of its files."""
        folder, _, _ = name.rpartition("/")
        if folder and folder == self._looked_at:
            path = f"{self.root}/{name}"
            with suppress(OSError):
                if stat.S_ISREG(os.lstat(path).st_mode):
                    return path
        elif (plain := plain_file(self.root, name)) is not None:
            self._looked_at = folder
            return plain
        return record_file(self.root, name)


def is_image(file: str | PurePath) -> bool:
    """Whether a file is an image by its name."""
    name = str(file).rpartition("/")[2]
    return (dot := name.rfind(".")) > 0 and name[dot:].lower() in SUFFIXES


def walk(root: Path) -> tuple[list[str], list[str]]:
    """All files below a folder by their names in it, sorted, and those that are hidden; links to
    folders are followed once."""
    listed, hidden = list[str](), list[str]()
    for name, out_of_sight in found_in(root):
        (hidden if out_of_sight else listed).append(name)
    return sorted(listed), sorted(hidden)


def found_in(root: Path) -> Iterator[tuple[str, bool]]:
    """The files of :func:`walk` in the order of the disk, and whether each is hidden."""
    visited = set[str]()
    for folder, names, found in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            names.clear()
            continue
        visited.add(real)
        # What is hidden comes last: of a folder that is linked twice the open place counts.
        names.sort(key=lambda name: (is_hidden(name), name))
        # In text: a Path for each of a million files takes a minute.
        below = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
        inside_hidden = bool(below) and is_hidden(below)
        for name in found:
            yield below + name, inside_hidden or is_hidden(name)
