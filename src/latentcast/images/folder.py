"""A folder of image files: class folders, split folders on top of them, or neither."""

from __future__ import annotations

import os
from pathlib import Path

from latentcast.errors import LatentcastError
from latentcast.images.decode import Measured, measure
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

    @classmethod
    def detects(cls, path: Path) -> bool:
        return is_image(path) if path.is_file() else any(map(is_image, walk(path)[0]))

    def __init__(
        self, root: Path, splits: SplitChoice | None = None, annotated: bool = True
    ) -> None:
        if root.is_file():
            raise LatentcastError(f"{root}: is one image; name the folder that holds the images")
        self.root, self.name = root, root.name
        self._files, hidden = walk(root)
        self.remarks = remark_of_hidden(
            [file.relative_to(root).as_posix() for file in hidden if is_image(file)]
        )
        images = [file.relative_to(root) for file in self._files if is_image(file)]
        tops = sorted({path.parts[0] for path in images if len(path.parts) > 1})
        words = {name: name for name in tops}
        self._splits = splits_of(str(root), words, splits, "classes", annotated)
        self._passed: set[str] = set()
        if not annotated:
            return
        if splits == "none" and tops:
            remark = f"without splits the classes are {', '.join(tops)}"
            below = next((path for path in images if len(path.parts) > 2), None)
            if below and all(name.lower() in SPLIT_NAMES for name in tops):
                self._passed = set(tops)
                remark = f"without splits the class of {below} is {below.parts[1]}"
            self.remarks = (*self.remarks, remark)
        if any(self._splits.values()) and any(len(path.parts) == 1 for path in images):
            raise LatentcastError(
                f"{root}: has images beside its split folders {', '.join(tops)}; move them into one"
            )
        names: set[str] = set()
        unlabelled: dict[Path, Path] = {}
        labelled: dict[Path, Path] = {}
        deep = False
        for path in images:
            _, inside = self._place(path)
            above = Path(*path.parts[: -len(inside)])
            if len(inside) > 1:
                names.add(inside[0])
                labelled.setdefault(above, path)
                deep = deep or len(inside) > 2
            else:
                unlabelled.setdefault(above, path)
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

    def _place(self, path: Path) -> tuple[Split | None, tuple[str, ...]]:
        """The split of a file and what of its path lies below the split."""
        split = self._splits.get(path.parts[0]) if len(path.parts) > 1 else None
        below = split is not None or path.parts[0] in self._passed
        return split, path.parts[1:] if below else path.parts

    def refs(self) -> list[RecordRef]:
        refs = []
        for file in self._files:
            path = file.relative_to(self.root)
            name, split, problem = path.as_posix(), None, None
            if is_image(file):
                split, _ = self._place(path)
            else:
                problem = f"is no image file by its name ({file.name})"
            refs.append(RecordRef(name, name, problem=problem, split=split))
        return sorted(refs, key=lambda ref: HELD_OUT_FIRST.index(ref.split))

    def fingerprint(self) -> str:
        return hash_of_sizes(self.root, self._files)

    def measure(self, ref: RecordRef) -> Measured:
        try:
            with record_file(self.root, ref.file).open("rb") as file:
                return measure(file)
        except OSError as error:
            raise BadRecord(f"cannot be read ({error.strerror})") from error

    def read(self, ref: RecordRef) -> tuple[bytes, Annotation]:
        _, inside = self._place(Path(ref.file))
        labels = {inside[0]: 1.0} if len(inside) > 1 else {}
        try:
            return record_file(self.root, ref.file).read_bytes(), Annotation(labels=labels)
        except OSError as error:
            raise BadRecord(f"cannot be read ({error.strerror})") from error


def is_image(file: Path) -> bool:
    """Whether a file is an image by its name."""
    return file.suffix.lower() in SUFFIXES


def walk(root: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder, sorted, and those that are hidden; links to folders are followed
    once."""
    files, visited = list[Path](), set[str]()
    for folder, names, found in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            names.clear()
            continue
        visited.add(real)
        # What is hidden comes last: of a folder that is linked twice the open place counts.
        names.sort(key=lambda name: (is_hidden(Path(name)), name))
        files += [Path(folder, name) for name in found]
    files.sort(key=lambda file: file.relative_to(root).as_posix())
    hidden = {file for file in files if is_hidden(file.relative_to(root))}
    return [file for file in files if file not in hidden], sorted(hidden)
