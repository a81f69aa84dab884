"""Files, folders, lists of files and stores as a table of embeddings; a killed call goes on."""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from latentcast.artifacts.embeddings import ABOUT, Part, check_table, write_embeddings
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.recordings import ArrayAxes, MissingLeads, RecordingReader
from latentcast.artifacts.rejections import Embedded, NoneRead
from latentcast.artifacts.stores import store_at
from latentcast.artifacts.tables import rejected_beside
from latentcast.artifacts.weights import fingerprint
from latentcast.config import EcgInput
from latentcast.data.convert import Rejected
from latentcast.data.formats import open_source
from latentcast.data.manifest import SPLITS
from latentcast.data.progress import Progress
from latentcast.data.store import Store
from latentcast.data.writer import write_rejected
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError, nearest
from latentcast.files import apart, check_digest, digested, read_object, replacing, write_text
from latentcast.images.folder import is_image
from latentcast.locks import Locked, locked
from latentcast.nn.pooling import BATCH
from latentcast.places import is_store
from latentcast.signals.readers.file_table import FileTable
from latentcast.signals.recording import Recording
from latentcast.signatures import checked
from latentcast.source import Annotation, BadRecord, Modality, RecordRef

RECORDS = 256
"""Of a part: what a kill loses is less than one."""
PLAN = "plan.json"


@dataclass(frozen=True)
class Table:
    """What was written.

    Attributes:
        file: the table.
        records, features: its size.
        rejected: the records that could not be read, which are in ``rejected_file``.
    """

    file: Path
    records: int
    features: int
    rejected: tuple[Rejected, ...]
    rejected_file: Path


@checked
def embed(
    model: str | Path,
    sources: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    layer: str | None = None,
    level: int | None = None,
    pooling: str = "mean",
    batch_size: int = BATCH,
    device: str | torch.device = AUTO,
    sampling_rate: float | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    layout: str = "records,leads,samples",
    rename: Mapping[str, str] | None = None,
    resample: bool = False,
    missing_leads: MissingLeads = "refuse",
    quiet: bool = False,
) -> Table:
    """Write a vector for each record: what :meth:`Encoder.embed` gives, with ids, patients, splits.

    Records are read and embedded :data:`RECORDS` at a time, and each such part is kept beside
    ``out`` until the table is complete. The same call after a kill goes on behind the parts that
    are there.

    Args:
        model: what ``Encoder.from_pretrained`` reads.
        sources: files, folders, tables of files, or stores.
        out: ``.parquet``, ``.csv`` or ``.npz``.
        layer: of :attr:`Encoder.layer_names`, or ``joined``.
        level: of a hierarchy, instead of ``layer``: 1 is the first one above the finest.
        quiet: no progress.
        pooling, batch_size, device, sampling_rate, leads, unit, layout, rename, resample,
            missing_leads: as of :meth:`Encoder.embed`.

    Raises:
        LatentcastError: no such model, layer or source; no record can be read; ``out`` is a file of
            something else, or beside it are parts of another call.
    """
    several = [sources] if isinstance(sources, str | Path) else list(sources)
    if not several:
        raise LatentcastError("embed: needs a source; name recordings, images, a folder or a store")
    file = Path(out)
    for path in (model, *several):
        apart(file, input=path)
    check_table(file)
    encoder = Encoder.from_pretrained(model, device=device)
    layer = _layer(encoder, layer, level)
    axes = ArrayAxes(sampling_rate, leads, unit, layout, rename)
    how: dict[str, Any] = {
        "layer": layer, "pooling": pooling, "resample": resample, "missing_leads": missing_leads,
    }  # fmt: skip
    weights = fingerprint(encoder.config, encoder.network)
    made_by = {"weights": encoder.weights, "sha256": weights, "layer": layer, "pooling": pooling}
    chunks = [*_chunks(encoder, several, axes, resample)]
    listing = hashlib.sha256("\0".join(chunk.digest for chunk in chunks).encode())
    for source in map(Path, several):
        if not is_store(source):  # whose checksums are in the digests of its chunks
            listing.update(_contents(source, file).encode())
    parts = _Parts(file.with_name(f"{file.name}.parts"), len(chunks))
    plan = {**made_by, **how, "axes": repr(axes), "records": listing.hexdigest()}
    total = sum(chunk.size for chunk in chunks)
    with _alone(file):
        parts.begin(plan)
        with Progress("embed", total, parts.done(), quiet=quiet) as progress:
            for number, chunk in enumerate(chunks):
                if parts.has(number):
                    continue
                try:
                    found = encoder.embed(
                        chunk.source, rows=chunk.rows, errors="skip", batch_size=batch_size,
                        **vars(axes), **how,
                    )  # fmt: skip
                except NoneRead as none:
                    found = Embedded((), np.zeros((0, 0), np.float32), none.rejected)
                part = Part(found.ids, *_columns(chunk, found.ids), found.vectors)
                parts.write(number, part, found.rejected)
                for _ in found.ids:
                    progress.advance(bad=False)
                for _ in found.rejected:
                    progress.advance(bad=True)
        return parts.join(file, made_by)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Raises LatentcastError: another call writes the same table, or it cannot be written there."""
    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(file.with_name(f".{file.name}.lock"), remove=True))
        except Locked:
            raise LatentcastError(
                f"{file}: is being written by another latentcast embed; wait for it, or name "
                "another file"
            ) from None
        except OSError as problem:
            raise LatentcastError(
                f"{file}: cannot be written ({problem}); name another file"
            ) from None
        yield


def _contents(source: Path, out: Path) -> str:
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


def _layer(encoder: Encoder, layer: str | None, level: int | None) -> str:
    """Raises LatentcastError: both are given, or the encoder has no such level."""
    if level is None:
        return encoder.layer if layer is None else layer
    if layer is not None:
        raise LatentcastError(f"--level {level}: is a layer, and so is --layer; leave one out")
    if f"level {level}" not in encoder.layer_names:
        near = nearest(f"level {level}", encoder.layer_names)
        raise LatentcastError(f"--level {level}: does not exist; {near} (--layer)")
    return f"level {level}"


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


class _OfStore:
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


class _OfFiles:
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


def _columns(
    chunk: _OfStore | _OfFiles, ids: Sequence[str]
) -> tuple[Sequence[str], Sequence[str], Sequence[dict[str, Any]]]:
    """Patients, splits and the rest of what is recorded of some records."""
    several = [chunk.provenance(record) for record in ids]
    return [p.patient for p in several], [p.split for p in several], [p.about for p in several]


class _Entry(NamedTuple):
    """A record that is to be read: its name, and how to read it."""

    name: str
    load: Callable[[], tuple[Any, _Provenance]]


def _chunks(
    encoder: Encoder, sources: Sequence[str | Path], axes: ArrayAxes, resample: bool
) -> Iterator[_OfStore | _OfFiles]:
    modality: Modality = "ecg" if isinstance(encoder.config.input, EcgInput) else "image"
    paths: list[Path] = []
    for source in sources:
        opened = store_at(source, modality)
        if not isinstance(opened, Store):
            paths.append(Path(source))
            continue
        metadata = [_about(record) for record in opened.all_metadata()]
        for begin in range(0, len(opened), RECORDS):
            yield _OfStore(opened, range(begin, min(begin + RECORDS, len(opened))), metadata)
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
        yield _OfFiles(entries[begin : begin + RECORDS])


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


class _Parts:
    """The finished parts of a table, each a file of its own that is whole or absent."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Make the folder, or go on in the one of the same call.

        Raises:
            LatentcastError: it is of another call, or cannot be written.
        """
        file, record = self.folder / PLAN, digested({**plan, "parts": self.count})
        try:
            if file.is_file():
                before = read_object(file)
                check_digest(before)
                changed = [name for name in record if before.get(name) != record[name]]
                if changed:
                    raise LatentcastError(
                        f"{self.folder}: holds parts of another embedding (another {changed[0]}); "
                        "give that command again, or name another file, or remove the folder"
                    )
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(record, indent=1))
        except (OSError, ValueError) as problem:
            raise LatentcastError(
                f"{self.folder}: cannot be used ({problem}); remove it, or name another file"
            ) from None

    def has(self, number: int) -> bool:
        return self._file(number).is_file()

    def done(self) -> int:
        """Records, also those that could not be read, of the parts that are there."""
        return sum(len(rest["ids"]) + len(rest["rejected"]) for rest in self._rests())

    def write(self, number: int, part: Part, rejected: Sequence[Rejected]) -> None:
        """Raises LatentcastError: the disk is full."""
        content = {
            "ids": part.ids, "patients": part.patients, "splits": part.splits,
            "about": part.about, "rejected": [asdict(record) for record in rejected],
            "features": part.vectors.shape[1],
        }  # fmt: skip
        try:
            with replacing(self._file(number)) as draft, draft.open("wb") as stream:
                np.savez(stream, vectors=part.vectors, rest=json.dumps(content, default=str))
        except OSError as problem:
            raise LatentcastError(
                f"{self.folder}: cannot be written ({problem}); free space and give the same "
                "command, it goes on"
            ) from None

    def join(self, file: Path, model: Mapping[str, Any]) -> Table:
        """Write the table and the list of what was left out, and remove the parts."""
        rests = [*self._rests()]
        rejected = tuple(Rejected(**record) for rest in rests for record in rest["rejected"])
        read = [rest for rest in rests if rest["ids"]]
        if not read:
            shutil.rmtree(self.folder)
            first = rejected[0] if rejected else Rejected("embed", "", "there is no record")
            raise LatentcastError(
                f"{first.record_id}: {first.reason} ({len(rejected)} records, of which none can be "
                "read); name others"
            )
        features = read[0]["features"]
        recorded = {name for rest in read for about in rest["about"] for name in about}
        about = [name for name in ABOUT if name in recorded]
        write_embeddings(self._parts, about, features, model, file)
        beside = rejected_beside(file)
        if rejected or beside.exists():
            write_rejected(beside, map(asdict, rejected))
        shutil.rmtree(self.folder)
        return Table(file, sum(len(rest["ids"]) for rest in read), features, rejected, beside)

    def _file(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npz"

    def _rests(self) -> Iterator[dict[str, Any]]:
        """All but the vectors, which may be larger than the memory."""
        for rest, _ in self._read(vectors=False):
            yield rest

    def _parts(self) -> Iterator[Part]:
        """Those with a record."""
        for rest, vectors in self._read(vectors=True):
            if rest["ids"]:
                columns = rest["ids"], rest["patients"], rest["splits"], rest["about"]
                yield Part(*columns, vectors)

    def _read(self, vectors: bool) -> Iterator[tuple[dict[str, Any], Any]]:
        for file in filter(Path.is_file, map(self._file, range(self.count))):
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    rest, found = json.loads(str(arrays["rest"])), vectors and arrays["vectors"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
                raise LatentcastError(
                    f"{file}: cannot be read ({problem}); remove it and give the same command"
                ) from None
            yield rest, found
