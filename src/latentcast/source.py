"""What a data set is to ingest: a list of records, and one record at a time. Nothing of a format.

A format is a subclass in :mod:`latentcast.signals.readers` or :mod:`latentcast.images`, named in
:data:`latentcast.data.formats.FORMATS`. A data set of one's own is a subclass as well, given to
``ingest`` as an object.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Generic, Literal, TypeVar

from latentcast.errors import LatentcastError, printable
from latentcast.files import inside, plain_file
from latentcast.walk import walk

Modality = Literal["ecg", "image"]
"""``ecg`` is any recording of named channels over time, ``image`` any picture."""
Split = Literal["train", "validation", "test"]
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
Sample = TypeVar("Sample")


class BadRecord(LatentcastError):
    """One record that cannot be used; ingest writes the message to ``quarantine.csv``.

    Args:
        message: as the command line puts it.
        in_python: as a caller from Python can use it, where that differs: ``embed`` has no flags.
    """

    def __init__(self, message: str, in_python: str | None = None) -> None:
        super().__init__(message)
        self.in_python = str(self) if in_python is None else in_python


def record_file(root: Path, name: str) -> Path:
    """The regular file of one record of a data set, by its name in the folder ``root``.

    A data set stays in its folder: see :func:`~latentcast.files.inside`. One link is followed, that
    of a folder directly in ``root``: this is how a data set is put together of parts that lie
    elsewhere. Nothing leads out of such a part in its turn.

    Raises:
        BadRecord: the name leads out of the folder, or to no regular file.
    """
    if (plain := plain_file(root, name)) is not None:
        return plain
    first, *rest = PurePath(name).parts or ("",)
    folder = root
    if first not in ("", "/", "..") and rest and os.path.islink(root / first):  # noqa: PTH114
        folder, name = root / first, str(PurePath(*rest))
    try:
        return inside(folder, name)
    except LatentcastError as error:
        # Without the folder: the reasons in a store do not depend on where its source lay.
        raise BadRecord(str(error).removeprefix(f"{folder}: ")) from None


HIDDEN = (".", "__MACOSX")
"""How names begin that a file manager does not show: of versions, of caches, and of archivers."""


def is_hidden(path: str | PurePath) -> bool:
    """Whether a file, by its path in the source, or a folder above it there is hidden."""
    parts = path.split("/") if isinstance(path, str) else path.parts
    return any(part.startswith(HIDDEN) for part in parts)


def find_files(root: Path, pattern: str) -> tuple[list[str], list[str]]:
    """All files below a folder that match, sorted, relative to it; and those that are hidden.

    Folders that are links are followed where they lie directly in it, and no further.
    """
    listed, hidden = list[str](), list[str]()
    for file in _matches(root, pattern):
        (hidden if is_hidden(file) else listed).append(file)
    return sorted(listed), sorted(hidden)


def has_files(root: Path, pattern: str) -> bool:
    """Whether :func:`find_files` lists any."""
    return any(not is_hidden(file) for file in _matches(root, pattern))


def _matches(root: Path, pattern: str) -> Iterator[str]:
    for top in (root, *_links(root)):
        for folder, folders, files in walk(top).folders:
            # By folder, and in text: a Path for each of a million files takes a minute.
            below = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
            for name in fnmatch.filter(folders + files, pattern):
                yield below + name


def _links(root: Path) -> list[Path]:
    """Folders that are links directly in a folder, but for those to where it lies itself."""
    try:
        links = [path for path in root.iterdir() if path.is_symlink() and path.is_dir()]
    except OSError:  # detecting a format never fails; the listing names such a folder
        return []
    real = root.resolve()
    return [link for link in links if not real.is_relative_to(link.resolve())]


def remark_of_links(root: Path) -> tuple[str, ...]:
    """Folders that :func:`find_files` does not look into, as :attr:`Source.remarks`."""
    left = [
        Path(folder, name).relative_to(root).as_posix()
        for top in (root, *_links(root))
        for folder, names, _ in walk(top).folders
        for name in names
        if Path(folder) != root and Path(folder, name).is_symlink()
    ]
    if not left:
        return ()
    return (
        f"{len(left):,} folders are links within a folder, such as {printable(min(left))}, and are "
        "not followed; put the links into the folder that is ingested",
    )


PACKED = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".zst", ".7z", ".rar")
"""How names of files end that hold others; those in a folder or an archive are not looked into."""


def packed_files(root: Path) -> list[str]:
    """The files of such names below a folder, sorted, relative to it."""
    return sorted(
        file
        for folder, _, names in walk(root).folders
        for name in names
        if name.lower().endswith(PACKED)
        and not is_hidden(file := Path(folder, name).relative_to(root).as_posix())
    )


def remark_of_packed(root: Path) -> tuple[str, ...]:
    """Files that may hold further records, as :attr:`Source.remarks`."""
    files = packed_files(root)
    if not files:
        return ()
    return (
        f"{len(files):,} files are archives or packed, such as {printable(files[0])}, and are left "
        "out; unpack them, or ingest each by itself",
    )


def remark_of_hidden(files: Sequence[str]) -> tuple[str, ...]:
    """What is passed over, as :attr:`Source.remarks`: a hidden copy must not win over the file."""
    # A Mac's archiver puts ._NAME beside each file NAME; that is no copy of it.
    copies = [file for file in files if not PurePath(file).name.startswith("._")]
    if not copies:
        return ()
    return (
        f"{len(copies):,} files of records are hidden or in a hidden folder, such as "
        f"{printable(copies[0])}, and are left out; give names without a leading dot to those that "
        "are to be read",
    )


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where one record lies.

    Attributes:
        record_id: its id in the store.
        file: the file that holds it, relative to the source.
        row: its row, in a file that holds many records.
        problem: why it cannot be read, where the listing already shows it.
        split: of the source, None where it has no splits.
    """

    record_id: str
    file: str = ""
    row: int = 0
    problem: str | None = None
    split: Split | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Millions of them go to other processes and back; what a dataclass with slots does is slow.
        return RecordRef, (self.record_id, self.file, self.row, self.problem, self.split)


@dataclass(frozen=True)
class Annotation:
    """What a source has of a record beside its samples.

    ``labels`` maps a code (of images a class) to its likelihood as given; a code with likelihood
    0.0 is present. ``fold`` is 1 to 10, or None where the source has no folds.
    """

    patient_id: str | None = None
    fold: int | None = None
    labels: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


class Source(ABC, Generic[Sample]):
    """A set of records of one modality.

    Subclass :class:`~latentcast.signals.readers.source.RecordingSource` or
    :class:`~latentcast.images.source.ImageSource`. Recordings are read by processes, so their
    source must be picklable; images by threads at the same time, see
    :attr:`~latentcast.images.source.ImageSource.forked`.

    Attributes:
        kind: the format, one word or two, for the manifest.
        name: what the source is called, without the folders above it.
        batch: records that are best read one after the other by one process or thread.
        classes: names of labels in the order of their ids; empty for those that occur, sorted.
        remarks: sentences about how it is read, for whoever ingests it.
    """

    modality: Modality
    kind: str = "source"
    name: str = "source"
    batch: int = 32
    classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @classmethod
    def detects(cls, path: Path) -> bool:
        """Whether ``path`` is of this format; cheap, and without an error for any path."""
        return False

    @abstractmethod
    def refs(self) -> Sequence[RecordRef]:
        """All records in an order that depends on nothing but the source."""

    @abstractmethod
    def read(self, ref: RecordRef) -> tuple[Sample, Annotation]:
        """One record; raises BadRecord with the reason when it cannot be used."""

    def read_together(
        self, refs: Sequence[RecordRef]
    ) -> Iterator[tuple[Sample, Annotation] | Exception]:
        """:meth:`read` of each, or what it raises. A format of many small records overrides it."""
        for ref in refs:
            try:
                yield self.read(ref)
            except Exception as error:
                yield error

    def fingerprint(self) -> str:
        """Changes when the source does. By default a hash of the listing alone; override it with
        one of headers, tables and file sizes at least, so that changed samples are noticed."""
        digest = hashlib.sha256()
        for ref in self.refs():
            digest.update(repr((ref.record_id, ref.file, ref.row, ref.split)).encode())
        return digest.hexdigest()
