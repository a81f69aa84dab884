"""Files that hold one ECG each, of any vendor, alone or in a folder beside WFDB records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from latentcast.errors import printable
from latentcast.signals.channels import Signal
from latentcast.signals.readers import (
    aecg,
    dicom,
    edf,
    ishne,
    lead_parquet,
    lead_table,
    muse,
    other_xml,
    ptbxl,
    scp,
    sierra,
)
from latentcast.signals.readers.file_format import (
    HEAD,
    FileFormat,
    ReadOptions,
    ends_of,
    not_read,
)
from latentcast.signals.readers.hdf5 import SUFFIXES, is_hdf5
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.readers.wfdb_folder import WfdbFolder
from latentcast.signals.recording import Recording
from latentcast.source import (
    Annotation,
    BadRecord,
    RecordRef,
    find_files,
    record_file,
    remark_of_hidden,
    remark_of_links,
)
from latentcast.walk import walk

FILE_FORMATS: tuple[FileFormat, ...] = (
    dicom.FORMAT,
    scp.FORMAT,
    muse.FORMAT,
    aecg.FORMAT,
    sierra.FORMAT,
    *other_xml.FORMATS,
    edf.FORMAT,
    ishne.FORMAT,
    ishne.ANNOTATIONS,
    not_read("an MFER file", lambda head: head[:1] == b"@" and head[2:5] == b"MFR"),
    not_read("a GDF file", lambda head: head.startswith(b"GDF ")),
    not_read("an AliveCor file", lambda head: head.startswith(b"ALIVE\0")),
    not_read("a MATLAB file without a header of its own", lambda head: head.startswith(b"MATLAB ")),
    lead_parquet.FORMAT,
    lead_table.FORMAT,
)
"""In the order in which they are tried."""

MANY = (
    "is an HDF5 file of many recordings, which does not name their rate, leads and unit; ingest it "
    "by itself, with --sampling-rate, --leads, --unit and --layout"
)
_OTHERS = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy", ".npz", ".zip",
    ".tar", ".gz", ".tgz", ".xz", ".arrow", ".json", ".jsonl", ".cls", ".hea", ".atr",
)  # fmt: skip
"""Files that need not be opened to be told from an ECG: a folder may hold a million of them."""
_SIGNALS = (".dat", ".mat")
"""Nor these beside a header."""


def format_of_file(path: Path) -> FileFormat | None:
    """The format of one file, from its first bytes; None where it is of none that is known."""
    try:
        if not path.is_file() or path.name.lower().endswith(_OTHERS):
            return None
        if path.suffix in _SIGNALS and path.with_suffix(".hea").exists():
            return None
        with path.open("rb") as file:
            head = file.read(HEAD)
            if head.startswith(lead_parquet.MAGIC):  # its schema is at the end
                head += lead_parquet.footer(file)
    except OSError:
        return None
    return next((format for format in FILE_FORMATS if format.recognises(head)), None)


def lacks_its_rate(path: Path) -> bool:
    """A file that does not say its rate, nor always its unit: both are given beside it."""
    format = format_of_file(path)
    return format is not None and format.lacks_its_rate


def header_of(path: Path) -> Path:
    """The header of a WFDB record that is named by it, by its signals or without an ending."""
    if path.suffix in (".hea", *_SIGNALS):
        return path.with_suffix(".hea")
    return path.with_name(path.name + ".hea")


def is_ecg_file(path: Path) -> bool:
    """A file of one of these formats, or a WFDB record by any of its names."""
    return format_of_file(path) is not None or header_of(path).is_file()


def read_file(path: Path, format: FileFormat, options: ReadOptions) -> Recording:
    """One file as one recording, with patient and metadata.

    Raises:
        BadRecord: with the reason.
    """
    recording, annotation = format.read(path, options)
    metadata = recording.metadata | annotation.metadata | {"format": format.kind}
    if annotation.labels:
        metadata["labels"] = annotation.labels
    return replace(recording, patient_id=annotation.patient_id, metadata=metadata)


class EcgFiles(RecordingSource):
    """All ECG files below ``root`` whatever their format, WFDB records among them; or one file.

    A folder of PTB-XL alone is none: its table says which files are records. In a folder of more
    its records are those of the table.

    Args:
        root: the folder or file.
        fs: which of PTB-XL's two sets of files to read, where both lie there.
        sampling_rate: of files that have none (tables of numbers), in Hz.
        leads: of signal ``other``, the channels to read by their names in the files.
        unit: of files that have none; of signal ``other``, of the channels.
        signal: ``other`` for channels that are no ECG leads.
        rename: leads by what the files call them.
        verify_checksums: of WFDB records.
    """

    kind = "ecg files"

    def __init__(
        self,
        root: Path,
        *,
        fs: float | None = None,
        sampling_rate: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
        signal: Signal = "ecg",
        rename: Mapping[str, str] | None = None,
        verify_checksums: bool = True,
    ) -> None:
        self._options = ReadOptions.of(sampling_rate, leads, unit, signal, rename)
        self.root, self.name = root, root.resolve().name
        self._wfdb: WfdbFolder | None = None
        self._tabled: dict[str, WfdbFolder] = {}
        if root.is_file():
            self.root = root.parent
            self._refs = [RecordRef(root.stem, root.name)]
            return
        wfdb = partial(
            WfdbFolder,
            leads=leads,
            unit=unit if signal == "other" else None,
            signal=signal,
            rename=rename,
            verify_checksums=verify_checksums,
        )
        for folder in ptbxl.folders_at(root):
            below = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
            self._tabled[below] = wfdb(folder, fs=fs)
        headers = find_files(root, "*.hea")[0]
        if not all(file.startswith(tuple(self._tabled)) for file in headers):
            self._wfdb = wfdb(root, without=tuple(self._tabled))
        listed, hidden = find_files(self.root, "*")
        files = [file for file in listed if not (self.root / file).is_dir()]
        named = [file for file in files if format_of_file(self.root / file) is not None]
        stems = Counter(PurePosixPath(file).stem for file in named)
        before = [
            replace(ref, file=below + ref.file)
            for below, source in self._tabled.items()
            for ref in source.refs()
        ]
        ids = {ref.record_id for ref in before}
        for ref in () if self._wfdb is None else self._wfdb.refs():
            name = ref.file.removesuffix(".hea") if ref.record_id in ids else ref.record_id
            before.append(replace(ref, record_id=name))
        stems.update({PurePosixPath(ref.record_id).name for ref in before})
        self._refs = before + [
            RecordRef(
                file if stems[PurePosixPath(file).stem] > 1 else PurePosixPath(file).stem, file
            )
            for file in named
        ]
        many = [file for file in files if file.endswith(SUFFIXES) and is_hdf5(self.root / file)]
        self._refs += [RecordRef(file, file, problem=MANY) for file in many]
        self.remarks = (
            *(
                remark
                for source in self._tabled.values()
                for remark in (
                    f"{len(source.refs()):,} records are those of {ptbxl.TABLE} in {source.root}",
                    *source.remarks,
                )
            ),
            *(remark_of_hidden(hidden) if self._wfdb is None else self._wfdb.remarks),
            *(remark_of_links(root) if self._wfdb is None else ()),
            *self._remark_of_others({*named, *many}, files),
        )

    @classmethod
    def detects(cls, path: Path) -> bool:
        if path.is_file():
            return format_of_file(path) is not None
        if not path.is_dir():
            return False
        table, folders = ptbxl.folder_of(path), ptbxl.folders_at(path)
        if table is not None and table[0] not in folders:
            return False  # it lies above
        if folders and table is None:
            return True
        kinds = set[str]()
        for folder, _, names in walk(path).folders:
            headers = {name for name in names if name.endswith(".hea")}
            if headers:
                kinds.add("WFDB")
            # In text: a Path for each of a million files takes seconds.
            signals = {name[:-4] + end for name in headers for end in _SIGNALS}
            for name in sorted({*names} - headers - signals):
                if name.lower().endswith(_OTHERS):
                    continue
                file = Path(folder, name)
                if format_of_file(file) is not None:
                    return True
                if file.suffix in SUFFIXES and is_hdf5(file):
                    kinds.add("HDF5")
        return len(kinds) == 2

    def refs(self) -> Sequence[RecordRef]:
        return self._refs

    def fingerprint(self) -> str:
        """Of names and sizes, and of the first and last bytes of each file."""
        digest = hashlib.sha256()
        for ref in self._refs:
            digest.update(f"{ref.record_id}\t{ref.file}\n".encode(errors="surrogateescape"))
            try:
                digest.update(ends_of(record_file(self.root, ref.file)))
            except (OSError, BadRecord):
                digest.update(b"missing\n")
        for source in (self._wfdb, *self._tabled.values()):
            if source is not None:
                digest.update(source.fingerprint().encode())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        for below, source in self._tabled.items():
            if ref.file.startswith(below) and ref.file.endswith(".hea"):
                return source.read(replace(ref, file=ref.file.removeprefix(below)))
        if self._wfdb is not None and ref.file.endswith(".hea"):
            return self._wfdb.read(ref)
        path = record_file(self.root, ref.file)
        format = format_of_file(path)
        if format is None:
            raise BadRecord("is of no format that is known any more; was it replaced?")
        recording, annotation = format.read(path, self._options)
        annotation.metadata["format"] = format.kind
        return replace(recording, patient_id=annotation.patient_id), annotation

    def _remark_of_others(self, recognised: set[str], files: Sequence[str]) -> tuple[str, ...]:
        wfdb = (".hea", *_SIGNALS, ".atr", ".txt", ".csv") if self._wfdb or self._tabled else ()
        others = [
            f for f in files if f not in recognised and not f.lower().endswith(wfdb or ("\0",))
        ]
        if not others:
            return ()
        return (
            f"{len(others):,} files are no ECG of a format that is known, such as "
            f"{printable(others[0])}, and are left out",
        )
