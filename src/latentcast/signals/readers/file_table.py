"""A table of files: CSV or Parquet with a row for each recording, and a column of its path.

Patients, splits, folds, labels and metadata are in further columns, by the names of
:mod:`~latentcast.signals.readers.roles`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath

from latentcast.errors import LatentcastError, printable
from latentcast.signals.readers.listed_files import ListedFiles, ids_of, record_name
from latentcast.signals.readers.roles import Roles, file_column, id_column
from latentcast.signals.readers.table import Packed, read_header, read_rows
from latentcast.signals.recording import Recording
from latentcast.source import Annotation, BadRecord, RecordRef, Split, is_hidden, record_file

SUFFIXES = (".csv", ".tsv", ".parquet")


class FileTable(ListedFiles):
    """The recordings that a table names, by paths relative to its folder.

    A row without a file, and one whose file is missing or lies outside of the folder, goes to
    quarantine; files of these kinds in the folder that have no row are left out and counted.

    Args:
        path: the table.
        sampling_rate, leads, unit, signal, rename, verify_checksums: see :class:`ListedFiles`.

    Raises:
        LatentcastError: it cannot be read, has no rows, or puts a patient into two splits.
    """

    kind = "table of files"

    @staticmethod
    def _folder_of(path: Path) -> Path:
        return path.parent

    def _listed(self) -> list[RecordRef]:
        path = self.path
        self.name = path.name
        header, rows = read_rows(path)
        column = file_column(header)
        if column is None or not rows:
            raise LatentcastError(
                f"{path}: has no rows with a file; give it a column path, and a row for each "
                "recording"
            )
        roles = Roles.of(path, header)
        own = id_column(header)
        columns = {**roles.columns, "record": own or column}
        others = tuple(name for name in header if name not in {column, *columns.values()})
        self._roles = Roles(columns, others)
        files = [self._file(row.get(column) or "") for row in rows]
        ids = ids_of(files)
        refs = list[RecordRef]()
        owners: dict[str, Split | None] = {}
        for place, (row, file) in enumerate(zip(rows, files, strict=True)):
            name = (own and (row.get(own) or "").strip()) or ids[place] or f"line {place + 2}"
            problem, split = self._problem(file), None
            try:
                split = self._roles.split(row)
            except ValueError as error:
                problem = f"{path.name}, line {place + 2}: {error}"
            patient = self._roles.cell(row, "patient")
            if patient and owners.setdefault(patient, split) != split:
                raise LatentcastError(
                    f"{path}: patient '{patient[:60]}' has records in two splits, one of them in "
                    f"line {place + 2}; put all records of a patient into one"
                )
            refs.append(RecordRef(name, file or path.name, place, problem, split))
        self._rows = Packed(path, header, rows)
        taken = f"{path}: files from '{column}'; {self._roles}"
        self.remarks = (taken, *self._mismatches(refs, files))
        return refs

    @classmethod
    def detects(cls, path: Path) -> bool:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            return False
        return file_column(read_header(path)) is not None

    def fingerprint(self) -> str:
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(super().fingerprint().encode())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        row = self._rows[ref.row]
        try:
            stated = self._roles.annotation(row)
        except ValueError as error:
            raise BadRecord(f"{self.path.name}, line {ref.row + 2}: {error}") from None
        recording, own = super().read(ref)
        return recording, Annotation(
            stated.patient_id or own.patient_id,
            stated.fold,
            own.labels | stated.labels,
            own.metadata | stated.metadata,
        )

    def _file(self, cell: str) -> str:
        """The path relative to the folder; as it stands where it leads out of it."""
        name = cell.strip().replace("\\", "/")
        path = PurePosixPath(name)
        root = self.root.resolve().as_posix()
        if path.is_absolute() and path.is_relative_to(root):
            path = path.relative_to(root)
        return record_name(self.root, str(path)) if path.name else ""

    def _problem(self, file: str) -> str | None:
        if not file:
            return "its row names no file"
        path = PurePath(file)
        if path.is_absolute() or ".." in path.parts:
            return (
                f"'{printable(file)[:120]}' lies outside of the folder of {self.path.name}; put "
                "the table into a folder above its files"
            )
        try:
            record_file(self.root, file)
        except BadRecord as error:
            return str(error)
        return None

    def _mismatches(self, refs: Sequence[RecordRef], files: Sequence[str]) -> list[str]:
        """What has a row and no file, and what has a file and no row, with counts and examples."""
        bad = [ref for ref in refs if ref.problem is not None]
        remarks = []
        if bad:
            example = printable(f"{bad[0].record_id} ({bad[0].problem})")
            remarks.append(
                f"{len(bad):,} of {len(files):,} rows of {self.path.name} give no file that can be "
                f"read, such as {example}; they are in quarantine"
            )
        suffixes = {PurePosixPath(file).suffix for file in files if file} - {""}
        listed = set(files)
        others = [
            name
            for folder, _, names in os.walk(self.root)
            for file in sorted(names)
            if PurePosixPath(file).suffix in suffixes
            and (name := Path(folder, file).relative_to(self.root).as_posix()) not in listed
            and not is_hidden(PurePath(name))
            and name != self.path.name
        ]
        if others:
            remarks.append(
                f"{len(others):,} files of the same kind have no row in {self.path.name}, such as "
                f"{printable(min(others))}, and are left out"
            )
        return remarks
