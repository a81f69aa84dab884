"""The memory-mapped store of recordings or images; samples stay on disk until they are taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.codecs import CODECS
from latentcast.data.codecs.base import Array, Ints
from latentcast.data.codecs.counts import StoredCounts
from latentcast.data.codecs.pixels import StoredPixels, Undecodable
from latentcast.data.index import check_columns, check_labels, check_places, check_runs
from latentcast.data.labels import Labels
from latentcast.data.manifest import INDEX, METADATA, Manifest, read_manifest, verify_files
from latentcast.data.rows import NoSuchRow, whole_numbers
from latentcast.errors import LatentcastError, nearest
from latentcast.files import inside, parse_object
from latentcast.images.stored import StoredImage
from latentcast.notebook import table_html
from latentcast.npy import map_array, read_members
from latentcast.signals.channels import Signal
from latentcast.signals.recording import Recording
from latentcast.signatures import checked
from latentcast.source import Modality


def _only(modality: Modality, name: str) -> Any:
    """A property of the manifest that a store of the other modality has not."""

    def get(store: Store) -> Any:
        if store.modality != modality:
            store.require(modality)
        return getattr(store.manifest, name)

    return property(get)


_Division = tuple[npt.NDArray[np.int16] | None, npt.NDArray[np.str_] | None]
"""Folds and patients of a label table, in the place of the store's own."""


class Store:
    """A finished store, open for reading. Cheap to open, and to send to another process.

    What belongs to recordings alone (``leads``, ``sampling_rate``, ``scale``, ``signal``,
    ``lengths``, ``recording``) or to images alone (``height``, ``width``, ``channels``,
    ``encoded``) raises LatentcastError in a store of the other modality.

    Attributes:
        path: its folder.
        manifest: what was recorded of it when it was made.
        folds: int16 ``(N,)``, 1 to 10; ``manifest.splits`` maps each split to its folds.
        leads: names, in the order of the counts.
        sampling_rate: Hz.
        scale: millivolts (or another ``manifest.unit``) per count.
        signal: ``ecg``, or ``other`` where the channels are no ECG leads.
        height, width, channels: the canvas of every image that is taken.
    """

    leads: tuple[str, ...] = _only("ecg", "leads")
    sampling_rate: float = _only("ecg", "sampling_rate")
    scale: float = _only("ecg", "scale")
    signal: Signal = _only("ecg", "signal")
    height: int = _only("image", "height")
    width: int = _only("image", "width")
    channels: int = _only("image", "channels")

    @checked
    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._division: _Division = (None, None)
        self._verified = False
        stored = CODECS[manifest.modality].stored
        columns = self._columns("fold", *stored.columns)
        self.folds: npt.NDArray[np.int16] = columns["fold"]
        shards = self._shards()
        with _reading(path / INDEX):
            single = manifest.modality == "image" and manifest.encoding == "pixels"
            check_places(columns, shards, single=single)
            if "invalid" in columns:
                check_runs(columns["invalid"], columns["length"], len(manifest.leads))
        self._stored = stored(manifest, columns, shards)

    @classmethod
    @checked
    def open(cls, path: str | Path) -> Store:
        """Open a store.

        Raises:
            LatentcastError: it is missing, unfinished, of another version, or a file of it is gone.
        """
        folder = Path(path)
        return cls(folder, read_manifest(folder))

    @checked
    def divided(
        self, folds: npt.NDArray[np.int16] | None, patients: npt.NDArray[np.str_] | None = None
    ) -> Store:
        """The same records with other folds or patients: those of a label table.

        Args:
            folds: int16 ``(N,)``; a record of fold 0 is in no split.
            patients: text ``(N,)``.
        """
        other = Store(self.path, self.manifest)
        other._division = (folds, patients)
        if folds is not None:
            other.folds = folds
        if patients is not None:
            other.patient_ids = patients
        return other

    def __len__(self) -> int:
        return self.manifest.records

    def __getitem__(self, row: int) -> Recording | StoredImage:
        """One record with its metadata, as :meth:`recording` gives it; -1 is the last one."""
        if not isinstance(row, int | np.integer):
            raise LatentcastError(
                f"{row}: is no row of a store; give a whole number, or use take for several rows "
                "and row_of for a record id"
            )
        place = int(row) + len(self) * (row < 0)
        if self.modality == "ecg":
            return self.recording(place)
        (pixels,) = self.take([place])
        return StoredImage(pixels, *self._identity(place))

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}: {', '.join(self._summary.values())})"

    def _repr_html_(self) -> str:
        rows = [*self._summary.items(), ("patients", f"{self.patients:,}")]
        counts = sorted(self.labels.counts().items(), key=lambda item: -item[1])
        labels = ", ".join(f"{name} {count:,}" for name, count in counts[:10])
        rows.append(("labels", labels + ", …" * (len(counts) > 10) or "none"))
        rows.append(("source", str(self.manifest.provenance.get("source", ""))))
        return table_html(f"Store {self.path}", rows)

    @property
    def _summary(self) -> dict[str, str]:
        if self.modality == "ecg":
            content = f"{len(self.leads)} leads at {self.sampling_rate:g} Hz"
        else:
            content = f"{self.height} × {self.width} × {self.channels}, {len(self.classes)} classes"
        splits = ", ".join(f"{name} {len(self.rows(name)):,}" for name in self.manifest.splits)
        records = f"{len(self):,} {CODECS[self.modality].records}"
        return {"records": records, "each": content, "splits": splits}

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files itself instead of receiving copies.
        return (_reopened, (self.path, *self._division))

    @property
    def modality(self) -> Modality:
        """``ecg`` for recordings of any kind, ``image`` for images."""
        return self.manifest.modality

    @cached_property
    def record_ids(self) -> npt.NDArray[np.str_]:
        """Text ``(N,)``."""
        # Not read when the store is opened: a million names are 150 MB.
        (ids,) = self._columns("record_id").values()
        with _reading(self.path / INDEX):
            return np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids

    @cached_property
    def patient_ids(self) -> npt.NDArray[np.str_]:
        """Text ``(N,)``; a record without a patient has ``""``."""
        columns = self._columns("patient_id", optional=True)
        return columns.get("patient_id", np.zeros(len(self), dtype="<U1"))

    @cached_property
    def labels(self) -> Labels:
        """The codes of each recording, or the classes of each image."""
        names = ("label_indptr", "label_indices", "label_values")
        columns = self._columns(*names, optional=self.modality == "image")
        if len(columns) < len(names):  # images of one class each
            return Labels.of_ids(self.class_ids, self.classes)
        labels = Labels(self.classes, *columns.values())
        with _reading(self.path / INDEX):
            check_labels(labels)
        return labels

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels, by id; empty for a store without labels."""
        if self.modality == "image":
            return self.manifest.classes
        return tuple(self._columns("label_codes")["label_codes"].tolist())

    @cached_property
    def class_ids(self) -> Ints:
        """int64 ``(N,)``, index into ``classes``; -1 where a record has no label or several."""
        if self.modality == "ecg":
            return self.labels.ids()
        ids: Ints = self._columns("label")["label"]
        with _reading(self.path / INDEX):
            if ((ids < -1) | (ids >= len(self.classes))).any():
                raise ValueError(f"a label is none of the {len(self.classes)} classes")
        return ids

    @checked
    def row_of(self, record_id: str) -> int:
        """The row of a record.

        Raises:
            LatentcastError: the store holds no record of that id.
        """
        rows = np.flatnonzero(self.record_ids == record_id)
        if not len(rows):
            raise LatentcastError(
                f"{self.path}: holds no record '{record_id}'; its ids look like "
                f"'{self.record_ids[0]}'"
            )
        return int(rows[0])

    @checked
    def rows(self, split: str) -> Ints:
        """Rows of ``"train"``, ``"validation"`` or ``"test"``, ascending.

        Raises:
            LatentcastError: the split does not exist.
        """
        splits = self.manifest.splits
        if split not in splits:
            raise LatentcastError(f"split '{split}': does not exist; {nearest(split, splits)}")
        return np.flatnonzero(np.isin(self.folds, splits[split])).astype(np.int64)

    def take(
        self,
        rows: npt.ArrayLike,
        starts: npt.ArrayLike | None = None,
        length: int | None = None,
        out: Array | None = None,
    ) -> Array:
        """Samples as they are stored: crops of recordings, or images.

        Args:
            rows: record numbers.
            starts: first sample of each crop, may be negative; the record's start by default.
            length: samples of every crop; the longest of the chosen records by default.
            out: filled and returned instead of a new array.

        Returns:
            Counts int16 ``(len(rows), length, leads)``, where samples outside the record and
            samples that are not valid are ``INVALID``; or pixels uint8 ``(len(rows), height,
            width, channels)``.

        Raises:
            IndexError: a row is not in the store.
            ValueError: ``out`` has another shape or type, or images are to be cropped.
            LatentcastError: an encoded image cannot be decoded any more.
        """
        chosen = whole_numbers(rows, "rows")
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            wrong = chosen[(chosen < 0) | (chosen >= len(self))]
            raise NoSuchRow.of(self.path, len(self), int(wrong[0]))
        if isinstance(self._stored, StoredCounts):
            begin = None if starts is None else whole_numbers(starts, "starts")
            return self._stored.take(chosen, begin, length, out)
        if starts is not None or length is not None:
            raise ValueError("images are taken as they are: they have no starts and no length")
        try:
            return self._stored.take(chosen, out)
        except Undecodable as error:
            raise LatentcastError(
                f"{self.path}: image {self.record_ids[error.row]} {error}, and could be decoded "
                "when it was ingested; run latentcast inspect to see which file is damaged"
            ) from error

    @checked
    def metadata(self, row: int) -> dict[str, Any]:
        """What else the source has of a record, and ``quality_findings`` where it has any."""
        if not self._metadata_offset.size:
            return {}
        start, stop = int(self._metadata_offset[row]), int(self._metadata_offset[row + 1])
        path = inside(self.path, METADATA)
        with _reading(path), path.open("rb") as file:
            if stop > path.stat().st_size:
                raise ValueError("ends before the record")
            file.seek(start)
            return parse_object(file.read(stop - start))

    def all_metadata(self) -> Iterator[dict[str, Any]]:
        """:meth:`metadata` of every record, in order."""
        if not self._metadata_offset.size:
            yield from ({} for _ in range(len(self)))
            return
        path = inside(self.path, METADATA)
        with path.open("rb") as file:
            for _ in range(len(self)):
                with _reading(path):
                    metadata = parse_object(file.readline())
                yield metadata

    @cached_property
    def patients(self) -> int:
        """Different patients; a record without one counts as its own."""
        unnamed = int((self.patient_ids == "").sum())
        return len(np.unique(self.patient_ids[self.patient_ids != ""])) + unnamed

    @property
    def checksums(self) -> dict[str, str]:
        """sha256 by shard: what tells the samples of two stores apart."""
        return {shard.file: shard.sha256 for shard in self.manifest.shards}

    @property
    def files(self) -> dict[str, str]:
        """sha256 by file, of all that reading the store needs besides its manifest."""
        metadata = self.manifest.metadata_sha256
        files = self.checksums | {INDEX: self.manifest.index_sha256}
        return files | ({METADATA: metadata} if metadata else {})

    def verify(self) -> None:
        """Compare every file with its checksum in the manifest; reads the whole store.

        Raises:
            LatentcastError: names the damaged file.
        """
        verify_files(self.path, self.files)
        self._verified = True

    def verify_once(self) -> None:
        """:meth:`verify`, unless this object was compared before."""
        if not self._verified:
            self.verify()

    @checked
    def require(self, modality: Modality) -> None:
        """Raises LatentcastError: the store is of the other modality."""
        if self.modality != modality:
            raise LatentcastError(
                f"{self.path}: is a store of {CODECS[self.modality].records}; name one of "
                f"{CODECS[modality].records}"
            )

    @property
    def _counts(self) -> StoredCounts:
        if self.modality != "ecg":
            self.require("ecg")
        assert isinstance(self._stored, StoredCounts)
        return self._stored

    @property
    def lengths(self) -> Ints:
        """Samples of each record, int64 ``(N,)``."""
        return self._counts.lengths

    @checked
    def recording(self, row: int) -> Recording:
        """One record in physical units, its validity mask and metadata restored.

        ``metadata["labels"]`` is code to likelihood and ``metadata["fold"]`` the fold.
        """
        if not 0 <= row < len(self):
            raise NoSuchRow.of(self.path, len(self), row)
        signal, valid = self._counts.signal(row)
        return Recording(signal, self.leads, self.sampling_rate, valid, *self._identity(row))

    def _identity(self, row: int) -> tuple[str, str | None, dict[str, Any]]:
        """Record id, patient id and metadata of a record."""
        about = {"labels": self.labels.of(row), "fold": int(self.folds[row])}
        patient = str(self.patient_ids[row]) or None
        return str(self.record_ids[row]), patient, self.metadata(row) | about

    def invalid_share(self) -> npt.NDArray[np.float64]:
        """Share of samples per lead that is not valid, ``(leads,)``; reads every sample."""
        return self._counts.invalid_share()

    @checked
    def encoded(self, row: int) -> bytes:
        """The bytes of an image's file, as the source held it (encoding ``encoded`` only)."""
        self.require("image")
        if self.manifest.encoding != "encoded":
            raise LatentcastError(
                f"{self.path}: holds pixels, no files; ingest with --encoding encoded"
            )
        assert isinstance(self._stored, StoredPixels)
        return self._stored.encoded(row)

    @cached_property
    def _metadata_offset(self) -> Ints:
        """Where the line of each record begins, and the last one ends; empty without metadata."""
        columns = self._columns("metadata_offset", optional=True)
        return columns.get("metadata_offset", np.zeros(0, np.int64))

    def _columns(self, *names: str, optional: bool = False) -> dict[str, Array]:
        """Columns of the index; those that are ``optional`` may be missing."""
        path = inside(self.path, INDEX)
        with _reading(path):
            columns = read_members(path, names, optional)
            check_columns(columns, self.manifest.records)
        return columns

    def _shards(self) -> Sequence[Array]:
        shards = []
        for shard in self.manifest.shards:
            path, (dtype, shape) = inside(self.path, shard.file), self.manifest.array(shard)
            with _reading(path):
                mapped = map_array(path)
            if mapped.shape != shape or mapped.dtype != dtype:
                raise LatentcastError(
                    f"{path}: holds {mapped.dtype} {mapped.shape}, the manifest has {dtype} "
                    f"{shape}; restore it from a copy, or remove {self.path} and ingest again"
                )
            # Without the subclass: a view of it costs microseconds more, for every record.
            shards.append(mapped.view(np.ndarray))
        return shards


def _reopened(
    path: Path, folds: npt.NDArray[np.int16] | None, patients: npt.NDArray[np.str_] | None
) -> Store:
    return Store.open(path).divided(folds, patients)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise LatentcastError(
            f"{path}: cannot be read ({error}); restore it from a copy, or remove {path.parent} "
            "and ingest again"
        ) from error


@checked
def open_store(path: str | Path) -> Store:
    """Open a finished store, of recordings or of images: :meth:`Store.open`.

    Args:
        path: its folder.

    Raises:
        LatentcastError: it is missing, unfinished, of another version, or a file of it is gone.
    """
    return Store.open(path)
