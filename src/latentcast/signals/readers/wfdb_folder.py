"""A folder of WFDB or Challenge records, with PTB-XL's table where one lies in it."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath

from latentcast.errors import LatentcastError, printable
from latentcast.files import inside, plain_path, read_bytes
from latentcast.signals.channels import Channels, Signal
from latentcast.signals.leads import renamed
from latentcast.signals.readers import ptbxl, wfdb, wfdb_together
from latentcast.signals.readers.datasets import data_set_of
from latentcast.signals.readers.datasets.dataset import DataSet
from latentcast.signals.readers.file_format import ReadOptions
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.readers.wfdb_checksums import CHECKSUMS, Sums, sums_by_folder
from latentcast.signals.readers.wfdb_header import decode_header
from latentcast.signals.recording import Recording
from latentcast.source import (
    Annotation,
    BadRecord,
    RecordRef,
    find_files,
    is_hidden,
    record_file,
    remark_of_hidden,
    remark_of_links,
    remark_of_packed,
)

_PTBXL = re.compile(r"\d{5}_[lh]r")


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
            self._refs, self._signatures, hidden = list_records(root, tuple(without))
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
        return path.is_dir() and bool(find_files(path, "*.hea")[0])

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


def signature(header: Path) -> bytes:
    """Changes when a record does: its header, and the names and sizes of the files it names.

    Signal files are not read: one rewritten at the same length under the same header goes unseen.
    """
    digest = hashlib.sha256()
    pending, met = [header], {header}
    while pending:
        path = pending.pop()
        try:
            raw = read_bytes(record_file(path.parent, path.name))
        except (OSError, BadRecord):
            digest.update(b"missing\n")
            continue
        own, segments = _parts_of(raw, str(path.parent))
        digest.update(own)
        for name in segments:
            part = path.parent / f"{name}.hea"
            if part not in met and PurePath(name).name == name:
                met.add(part)
                pending.append(part)
    return digest.digest()


def _parts_of(header: bytes, folder: str) -> tuple[bytes, list[str]]:
    """What a header adds to a :func:`signature`: its bytes, and the names and sizes of the files it
    names, in ``folder``; and, where it is of segments, which records it names instead."""
    own = hashlib.sha256(header).digest()
    first, *words = _first_words(header) or [""]
    names = sorted({*words})
    if "/" in first:
        return own, names
    sizes = (f"{name}\t{_size(os.path.join(folder, name))}\n" for name in names)  # noqa: PTH118
    return own + "".join(sizes).encode(), []


def _first_words(header: bytes) -> list[str]:
    """Of each line that is no comment."""
    lines = (line.split(None, 1) for line in decode_header(header).splitlines())
    return [words[0] for words in lines if words and words[0][0] != "#"]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except (OSError, ValueError):
        return -1


def list_records(
    root: Path, without: tuple[str, ...] = ()
) -> tuple[list[RecordRef], dict[str, bytes], list[str]]:
    """Every record below ``root``, sorted by path; their signatures by file, of those that no link
    leads to; and the headers that are hidden. Those in a folder of ``without`` are passed over.

    Segments of a longer record are left to it.

    A record's id is its name, or its path where the source uses one name twice.
    """
    headers, hidden = find_files(root, "*.hea")
    headers = [file for file in headers if not file.startswith(without)] if without else headers
    parts, signatures = set[str](), dict[str, bytes]()
    for file in headers:
        plain = plain_path(str(root), file)
        try:
            raw = read_bytes(record_file(root, file) if plain is None else plain)
        except (OSError, BadRecord):
            continue  # reading it fails in its turn, with the reason
        folder = file.rpartition("/")[0]
        own, segments = _parts_of(raw, f"{root}/{folder}")
        parts |= {str(PurePosixPath(folder, f"{name}.hea")) for name in segments if name != "~"}
        if plain is not None and not segments:
            signatures[file] = hashlib.sha256(own).digest()
    listed = [file for file in headers if file not in parts]
    stems = [file.rpartition("/")[2].removesuffix(".hea") for file in listed]
    repeated = {stem for stem, times in Counter(stems).items() if times > 1}
    return (
        [
            RecordRef(file.removesuffix(".hea") if stem in repeated else stem, file)
            for file, stem in zip(listed, stems, strict=True)
        ],
        signatures,
        hidden,
    )
