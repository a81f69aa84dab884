"""What is embedded, in chunks: rows of stores, and the records of files and folders."""

from __future__ import annotations

import glob
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from latentcast.artifacts.embeddings import ABOUT
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.recordings import ArrayAxes, RecordingReader
from latentcast.artifacts.stores import store_at
from latentcast.config import EcgInput
from latentcast.data.formats import open_source
from latentcast.data.manifest import SPLITS
from latentcast.data.store import Store
from latentcast.images.folder import is_image
from latentcast.signals.readers.file_table import FileTable
from latentcast.signals.recording import Recording
from latentcast.source import Annotation, BadRecord, Modality, RecordRef

RECORDS = 256
"""Of a chunk: what a kill loses is less than one."""


def contents_of(source: Path, out: Path) -> str:
    """Name, size and time of every file of a source: another file there is another record. What
    this call writes beside a source is none of it."""
    files: Iterable[Path]
    if source.is_dir():
        files = source.rglob("*")
    elif FileTable.detects(source):
        files = source.parent.rglob("*")
    elif source.exists():  # with the signals beside a header
        files = source.parent.glob(f"{glob.escape(source.stem)}*")
    else:  # a pattern, or a record without its suffix
        files = map(Path, glob.iglob(f"{source}*", recursive=True))  # noqa: PTH207
    own = (f".{out.name}", out.name, f"{out.stem}.rejected")
    lines = []
    for file in files:
        if any(part.startswith(own) for part in (file.parent.name, file.name)):
            continue
        try:
            state = file.stat()
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(state.st_mode):
            lines.append(f"{file} {state.st_size} {state.st_mtime_ns}")
    return "\n".join(sorted(lines))


class _Provenance(NamedTuple):
    """What a source has of a record beside its samples."""

    patient: str
    split: str
    about: dict[str, Any]

    @classmethod
    def of(cls, patient: object, split: object, metadata: Mapping[str, Any]) -> _Provenance:
        fold = metadata.get("fold")
        named = split or next((name for name, folds in SPLITS.items() if fold in folds), "")
        return cls(str(patient or ""), str(named), _about(metadata))


def _about(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metadata[name] for name in ABOUT if metadata.get(name) is not None}


class RowsOfStore:
    """Rows of a store that are embedded together."""

    def __init__(self, store: Store, rows: range, metadata: Sequence[dict[str, Any]]) -> None:
        self._metadata = metadata
        self.source, self.rows, self.size = store, list(rows), len(rows)
        self.digest = f"{store.checksums} {rows}"
        self._row = {str(store.record_ids[row]): row for row in rows}

    def provenance(self, record: str) -> _Provenance:
        row, store = self._row[record], self.source
        fold = store.folds[row]
        split = next((n for n, folds in store.manifest.splits.items() if fold in folds), "")
        return _Provenance(str(store.patient_ids[row]), split, self._metadata[row])


class RecordsOfFiles:
    """Records that are read one after the other, as a source that an encoder reads; what its
    source has of each is noted when it is read."""

    name = "the sources"
    rows = None

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self.source, self.size, self.entries = self, len(entries), entries
        self.digest = "\0".join(entry.name for entry in entries)
        self._provenances: dict[str, _Provenance] = {}

    def refs(self) -> list[RecordRef]:
        return [RecordRef(entry.name, row=row) for row, entry in enumerate(self.entries)]

    def read(self, ref: RecordRef) -> tuple[Any, Annotation]:
        content, provenance = self.entries[ref.row].load()
        record = content.record_id if isinstance(content, Recording) else ref.record_id
        if record in self._provenances:  # files of one name in two folders
            record = ref.record_id
            content = replace(content, record_id=record)
        self._provenances[record] = provenance
        return content, Annotation()

    def provenance(self, record: str) -> _Provenance:
        return self._provenances[record]


def columns_of(
    chunk: RowsOfStore | RecordsOfFiles, ids: Sequence[str]
) -> tuple[Sequence[str], Sequence[str], Sequence[dict[str, Any]]]:
    """Patients, splits and the rest of what is recorded of some records."""
    several = [chunk.provenance(record) for record in ids]
    return [p.patient for p in several], [p.split for p in several], [p.about for p in several]


class _Entry(NamedTuple):
    """A record that is to be read: its name, and how to read it."""

    name: str
    load: Callable[[], tuple[Any, _Provenance]]


def chunks_of(
    encoder: Encoder, sources: Sequence[str | Path], axes: ArrayAxes, resample: bool
) -> Iterator[RowsOfStore | RecordsOfFiles]:
    modality: Modality = "ecg" if isinstance(encoder.config.input, EcgInput) else "image"
    paths: list[Path] = []
    for source in sources:
        opened = store_at(source, modality)
        if not isinstance(opened, Store):
            paths.append(Path(source))
            continue
        metadata = [_about(record) for record in opened.all_metadata()]
        for begin in range(0, len(opened), RECORDS):
            yield RowsOfStore(opened, range(begin, min(begin + RECORDS, len(opened))), metadata)
    if not paths:
        return
    if isinstance(encoder.config.input, EcgInput):
        reader = RecordingReader(encoder.config.input, axes, resample)
        entries = [
            _Entry(name, partial(_recording, load)) for name, _, load in reader.recordings(paths)
        ]
    else:
        entries = [entry for path in paths for entry in _images(path)]
    for begin in range(0, len(entries), RECORDS):
        yield RecordsOfFiles(entries[begin : begin + RECORDS])


def _recording(load: Callable[[], Recording]) -> tuple[Recording, _Provenance]:
    recording = load()
    metadata = recording.metadata
    return recording, _Provenance.of(recording.patient_id, metadata.get("split"), metadata)


def _images(path: Path) -> Iterator[_Entry]:
    if path.is_file() and is_image(path):
        nothing = _Provenance("", "", {})
        yield _Entry(str(path), lambda: (path.read_bytes(), nothing))
        return
    source = open_source(path, "image", annotated=False)
    for ref in source.refs():
        yield _Entry(ref.record_id, partial(_image, source, ref))


def _image(source: Any, ref: RecordRef) -> tuple[Any, _Provenance]:
    if ref.problem is not None:
        raise BadRecord(ref.problem)
    content, about = source.read(ref)
    return content, _Provenance.of(
        about.patient_id, ref.split, about.metadata | {"fold": about.fold}
    )
