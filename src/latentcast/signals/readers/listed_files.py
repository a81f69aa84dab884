"""Recordings in files that are named one by one: by a pattern, or in a table (``file_table``).

Each file is of any format of :mod:`~latentcast.signals.readers.ecg_files`, or a WFDB record, by its
header, its signals or its bare name.
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from latentcast.errors import LatentcastError
from latentcast.signals.channels import Signal
from latentcast.signals.readers import wfdb
from latentcast.signals.readers.ecg_files import format_of_file
from latentcast.signals.readers.file_format import ReadOptions, ends_of
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.readers.wfdb_checksums import sums_by_folder
from latentcast.signals.readers.wfdb_listing import signature
from latentcast.signals.recording import Recording
from latentcast.source import (
    Annotation,
    BadRecord,
    RecordRef,
    is_hidden,
    record_file,
    remark_of_hidden,
)

_OF_A_RECORD = (".dat", ".mat", ".atr", ".qrs")
"""Files of a WFDB record beside its header."""


class ListedFiles(RecordingSource):
    """Files that are named below a folder; a subclass says which folder that is, and lists them.

    Args:
        path: what names the files.
        sampling_rate: of files that have none (tables of numbers), in Hz.
        leads: of signal ``other``, the channels to read by their names in the files.
        unit: of files that have none; of signal ``other``, of the channels.
        signal: ``other`` for channels that are no ECG leads.
        rename: leads by what the files call them.
        verify_checksums: compare WFDB files with ``SHA256SUMS.txt``, where the folder has one.

    Attributes:
        root: the folder that the names are relative to, and that none leads out of.
    """

    def __init__(
        self,
        path: Path,
        *,
        sampling_rate: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
        signal: Signal = "ecg",
        rename: Mapping[str, str] | None = None,
        verify_checksums: bool = True,
    ) -> None:
        self.path, self.root = path, self._folder_of(path)
        self._options = ReadOptions.of(sampling_rate, leads, unit, signal, rename)
        self._sha256 = sums_by_folder(self.root) if verify_checksums else {}
        self._refs = self._listed()

    @staticmethod
    @abstractmethod
    def _folder_of(path: Path) -> Path: ...

    @abstractmethod
    def _listed(self) -> list[RecordRef]:
        """The records; sets name and remarks besides."""

    def refs(self) -> Sequence[RecordRef]:
        return self._refs

    def fingerprint(self) -> str:
        """Of headers, and of size, first and last bytes of other files."""
        digest = hashlib.sha256()
        for ref in self._refs:
            digest.update(f"{ref.record_id}\t{ref.file}\n".encode(errors="surrogateescape"))
            try:
                path = record_file(self.root, ref.file)
                if path.suffix == ".hea":
                    digest.update(signature(path))
                    continue
                digest.update(ends_of(path))
            except (OSError, BadRecord):
                digest.update(b"missing\n")
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        path = record_file(self.root, ref.file)
        if path.suffix == ".hea":
            sha256 = self._sha256.get(str(PurePosixPath(ref.file).parent))
            return wfdb.read(path, sha256, self._options)
        format = format_of_file(path)
        if format is None:
            raise BadRecord("is a file of no ECG format that is known")
        recording, annotation = format.read(path, self._options)
        annotation.metadata["format"] = format.kind
        return recording, annotation


def record_name(root: Path, name: str) -> str:
    """The file to read of a record that is named by any of its files, or without an ending."""
    header = PurePosixPath(name).with_suffix(".hea")
    if header.suffix != PurePosixPath(name).suffix in _OF_A_RECORD and (root / header).exists():
        return str(header)
    if not os.path.lexists(root / name) and os.path.lexists(root / f"{name}.hea"):
        return f"{name}.hea"
    return name


def ids_of(files: Sequence[str]) -> list[str]:
    """The name of each file without its ending; its path where several have that name."""
    stems = Counter(PurePosixPath(file).stem for file in files)
    return [
        stem if stems[stem := PurePosixPath(file).stem] == 1 else file.removesuffix(".hea")
        for file in files
    ]


class FilePattern(ListedFiles):
    """All files that a pattern names, such as ``a/**/*.xml``; see :class:`ListedFiles`.

    Raises:
        LatentcastError: no file is named so.
    """

    kind = "files by pattern"

    @staticmethod
    def _folder_of(path: Path) -> Path:
        return Path(*path.parts[: _plain(path)])

    def _listed(self) -> list[RecordRef]:
        path = self.path
        pattern = str(PurePosixPath(*path.parts[_plain(path) :]))
        self.name = pattern
        if odd := [part for part in path.parts if "**" in part and part != "**"]:
            raise LatentcastError(
                f"{path}: '**' stands for folders, and is alone between slashes, unlike in "
                f"'{odd[0]}'; write '{self.root / '**/*.*'}'"
            )
        found = [file.relative_to(self.root).as_posix() for file in self.root.glob(pattern)
                 if not file.is_dir()]  # fmt: skip
        hidden = sorted(file for file in found if is_hidden(PurePosixPath(file)))
        files = sorted({record_name(self.root, file) for file in set(found) - set(hidden)})
        if not files:
            raise LatentcastError(
                f"{path}: no file is named so; check the folder {self.root}, and put the pattern "
                "in quotes"
            )
        self.remarks = remark_of_hidden(hidden)
        return [RecordRef(name, file) for name, file in zip(ids_of(files), files, strict=True)]

    @classmethod
    def detects(cls, path: Path) -> bool:
        return any(map(_is_pattern, path.parts)) and not os.path.lexists(path)


def _plain(path: Path) -> int:
    """How many of its parts come before the first that is a pattern."""
    return next(n for n, part in enumerate(path.parts) if _is_pattern(part))


def _is_pattern(part: str) -> bool:
    return any(mark in part for mark in "*?[")
