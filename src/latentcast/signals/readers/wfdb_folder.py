"""A folder of WFDB or Challenge records, with PTB-XL's table where one lies in it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from latentcast.errors import LatentcastError, printable
from latentcast.files import inside
from latentcast.signals.channels import Channels, Signal
from latentcast.signals.leads import renamed
from latentcast.signals.readers import ptbxl, wfdb, wfdb_together
from latentcast.signals.readers.datasets import data_set_of
from latentcast.signals.readers.datasets.dataset import DataSet
from latentcast.signals.readers.file_format import ReadOptions
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.readers.wfdb_checksums import CHECKSUMS, Sums, sums_by_folder
from latentcast.signals.readers.wfdb_listing import list_records, signature
from latentcast.signals.recording import Recording
from latentcast.source import (
    Annotation,
    RecordRef,
    find_files,
    has_files,
    is_hidden,
    record_file,
    remark_of_hidden,
    remark_of_links,
    remark_of_packed,
)

_PTBXL = re.compile(r"\d{5}_[lh]r")
_BATCH_BYTES, _MOST_TOGETHER = 2**22, 64
"""Of signals that one process reads before it hands them on, and records at most."""


class WfdbFolder(RecordingSource):
    """All records below ``root``.

    Args:
        root: the folder.
        fs: which of PTB-XL's two sets of files to read, where both lie there.
        leads: of signal ``other``, the channels to read by the names in the headers.
        unit: of signal ``other``, of these channels, where it is no voltage.
        signal: ``other`` for channels that are no ECG leads.
        rename: leads by what the headers call them.
        verify_checksums: compare every file with ``SHA256SUMS.txt``, where ``root`` has one.
        without: folders in it that are read otherwise, each with a ``/`` behind it.

    Raises:
        LatentcastError: a unit for ECG leads; a table or list of checksums that cannot be read.
    """

    kind = "wfdb"

    def __init__(
        self,
        root: Path,
        *,
        fs: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
        signal: Signal = "ecg",
        rename: Mapping[str, str] | None = None,
        verify_checksums: bool = True,
        without: Sequence[str] = (),
    ) -> None:
        if signal == "ecg" and unit is not None:
            raise LatentcastError(
                f"--unit: is in the headers of {root}; leave it out (with --signal other it may "
                "name a unit that is no voltage)"
            )
        channels = Channels.of(leads, unit) if signal == "other" else None
        self._options = ReadOptions(channels, rename=renamed(rename or {}))
        self.root = root
        self._annotations: dict[str, Annotation] | None = None
        self._data_set: DataSet | None = None
        self._refs: list[RecordRef]
        self._signatures: dict[str, bytes] = {}
        if not without and (table := ptbxl.folder_of(root)) is not None:
            self.kind = "ptbxl"
            self.root, below = table
            self._refs, self._annotations = ptbxl.list_records(self.root, fs, below)
            if self.root != root:
                self.remarks = (f"{ptbxl.TABLE} was found in {self.root}",)
            self.remarks += () if below else _remark_of_unlisted(self.root, self._refs)
        else:
            self._refs, self._signatures, hidden, largest = list_records(root, tuple(without))
            self.batch = max(1, min(_MOST_TOGETHER, _BATCH_BYTES // max(1, largest)))
            self._data_set = data_set_of(root, self._refs)
            self.remarks = (
                *remark_of_hidden(hidden), *remark_of_links(root), *remark_of_packed(root),
                *_remark_of_ptbxl(self._refs),
            )  # fmt: skip
            if (found := self._data_set) is not None:
                self.remarks = (f"{root} is read as {found.name}: {found.about}", *self.remarks)
        self.name = self.root.resolve().name
        self._sha256 = sums_by_folder(self.root) if verify_checksums else {}
        if self._annotations is None:
            self._refs += self._headless()

    @classmethod
    def detects(cls, path: Path) -> bool:
        return path.is_dir() and has_files(path, "*.hea")

    def _headless(self) -> list[RecordRef]:
        """Records of which a header is in the list of checksums and only the signals are there."""
        refs = []
        for folder, files in sorted(self._sha256.items()):
            for name in sorted(name for name in files if name.endswith(".hea")):
                file = PurePosixPath(folder, name)
                if is_hidden(file):
                    continue
                signals = (file.with_suffix(suffix) for suffix in (".dat", ".mat"))
                if not os.path.lexists(self.root / file) and any(
                    os.path.lexists(self.root / signal) for signal in signals
                ):
                    problem = f"header {file} is missing, {CHECKSUMS} lists it"
                    refs.append(RecordRef(file.stem, str(file), problem=problem))
        return refs

    def refs(self) -> Sequence[RecordRef]:
        return self._refs

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for ref in self._refs:
            digest.update(f"{ref.record_id}\t{ref.file}\n".encode(errors="surrogateescape"))
            listed = self._signatures.pop(ref.file, None)  # once, of a million
            digest.update(signature(self.root / ref.file) if listed is None else listed)
        for folder in sorted(self._sha256):
            for name, sha256 in sorted(self._sha256[folder].items()):
                digest.update(f"{folder}/{name}\t{sha256}\n".encode())
        if self._annotations is not None:
            digest.update(inside(self.root, ptbxl.TABLE).read_bytes())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        file = record_file(self.root, ref.file)
        recording, annotation = wfdb.read(file, self._sums_of(ref), self._options)
        return recording, self._annotated(ref, annotation)

    def read_together(
        self, refs: Sequence[RecordRef]
    ) -> Iterator[tuple[Recording, Annotation] | Exception]:
        if type(self).read is not WfdbFolder.read:  # of a data set of one's own, which comes first
            yield from super().read_together(refs)
            return
        files = [(ref.file, self._sums_of(ref)) for ref in refs]
        found = wfdb_together.read(self.root, files, self._options)
        for ref, result in zip(refs, found, strict=True):
            try:
                if result is None:
                    yield self.read(ref)
                else:
                    yield result[0], self._annotated(ref, result[1])
            except Exception as error:
                yield error

    def _sums_of(self, ref: RecordRef) -> Sums:
        return self._sha256.get(ref.file.rpartition("/")[0] or ".")

    def _annotated(self, ref: RecordRef, annotation: Annotation) -> Annotation:
        if self._annotations is not None:
            annotation = self._annotations[ref.record_id]
        if self._data_set is not None:
            annotation = self._data_set.annotate(ref, annotation)
        return annotation


def _remark_of_unlisted(root: Path, refs: Sequence[RecordRef]) -> tuple[str, ...]:
    """Headers beside the folders of PTB-XL's records, of which its table has none."""
    tops = {ref.file.partition("/")[0] for ref in refs}
    headers = find_files(root, "*.hea")[0]
    others = [f for f in headers if f.partition("/")[0] not in tops | {"records100", "records500"}]
    if not others:
        return ()
    return (
        f"{len(others):,} headers are in no folder that {ptbxl.TABLE} names, such as "
        f"{printable(others[0])}, and are left out; ingest them by themselves",
    )


def _remark_of_ptbxl(refs: Sequence[RecordRef]) -> tuple[str, ...]:
    """That the table is missing, where the files have the names of PTB-XL's."""
    named = [r.record_id for r in refs if _PTBXL.fullmatch(r.record_id.rpartition("/")[2])]
    if not named or len(named) < len(refs) / 2:
        return ()
    return (
        f"{len(named):,} records have names of PTB-XL, such as {named[0]}, and {ptbxl.TABLE} is "
        "neither in the folder nor in one above or below it: patients, folds and labels are "
        "missing, and an ECG at 100 and at 500 Hz counts twice; put the table beside records100 "
        "and records500",
    )
