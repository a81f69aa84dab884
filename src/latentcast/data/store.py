"""The memory-mapped store: integer samples, time-major; a crop costs microseconds."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.manifest import INDEX, METADATA, Manifest, read_manifest, verify_files
from latentcast.errors import LatentcastError, nearest
from latentcast.signals.recording import INVALID, Recording

_BLOCK = 1 << 20  # samples read at a time where a whole shard is looked through

Ints = npt.NDArray[np.int64]


class Labels:
    """The codes of all records, sparse. A code is present whatever likelihood it carries.

    Attributes:
        codes: the vocabulary, sorted.
        indptr, indices, values: CSR form; ``values`` are the likelihoods as the source gives them.
    """

    def __init__(
        self,
        codes: tuple[str, ...],
        indptr: Ints,
        indices: npt.NDArray[np.int32],
        values: npt.NDArray[np.float32],
    ) -> None:
        self.codes = codes
        self.indptr = indptr
        self.indices = indices
        self.values = values

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def indicator(self, codes: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Presence ``(records, len(codes))``, 0.0 likelihood included.

        Raises:
            LatentcastError: no record carries the code; names the nearest one that is carried.
        """
        column = np.full(len(self.codes), -1)
        position = {code: i for i, code in enumerate(self.codes)}
        for j, code in enumerate(codes):
            if code not in position:
                raise LatentcastError(
                    f"label '{code}': no record of the store carries it; "
                    f"{nearest(code, self.codes)}"
                )
            column[position[code]] = j
        present = np.zeros((len(self), len(codes)), dtype=np.bool_)
        columns = column[self.indices]
        wanted = columns >= 0
        present[self._rows()[wanted], columns[wanted]] = True
        return present

    def of(self, row: int) -> dict[str, float]:
        """Code to likelihood of one record."""
        span = slice(int(self.indptr[row]), int(self.indptr[row + 1]))
        values = self.values[span].tolist()
        return {self.codes[i]: v for i, v in zip(self.indices[span], values, strict=True)}

    def counts(self, rows: Ints | None = None) -> dict[str, int]:
        """How many records (of ``rows``) carry each code, most frequent first."""
        chosen = np.ones(len(self), dtype=np.bool_)
        if rows is not None:
            chosen[:] = False
            chosen[rows] = True
        carried = np.bincount(self.indices[chosen[self._rows()]], minlength=len(self.codes))
        order = np.argsort(-carried, kind="stable")
        return {self.codes[i]: int(carried[i]) for i in order}

    def _rows(self) -> Ints:
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))


class Store:
    """A finished store, open for reading. Cheap to open; samples stay on disk until taken.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
        lengths: samples of each record, int64 ``(N,)``.
        record_ids, patient_ids: text ``(N,)``; a record without a patient has ``""``.
        folds: int16 ``(N,)``, 1 to 10.
        labels: the codes of each record.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        reading, self._shards = path / INDEX, list[npt.NDArray[np.int16]]()
        try:
            with np.load(reading, allow_pickle=False) as index:
                arrays = {name: index[name] for name in index.files}
            for shard in manifest.shards:
                reading = path / shard.file
                self._shards.append(np.load(reading, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise LatentcastError(
                f"{reading}: cannot be read ({error}); restore it from a copy or re-ingest"
            ) from error
        for shard, array in zip(manifest.shards, self._shards, strict=True):
            if array.shape != (shard.samples, len(manifest.leads)) or array.dtype != np.int16:
                raise LatentcastError(
                    f"{path / shard.file}: holds {array.dtype} {array.shape}, the manifest says "
                    f"int16 ({shard.samples}, {len(manifest.leads)}); restore it or re-ingest"
                )
        self.lengths: Ints = arrays["length"]
        self.record_ids: npt.NDArray[np.str_] = arrays["record_id"]
        self.patient_ids: npt.NDArray[np.str_] = arrays["patient_id"]
        self.folds: npt.NDArray[np.int16] = arrays["fold"]
        self.labels = Labels(
            tuple(arrays["label_codes"].tolist()),
            arrays["label_indptr"],
            arrays["label_indices"],
            arrays["label_values"],
        )
        self._shard: Ints = arrays["shard"].astype(np.int64)
        self._offset: Ints = arrays["offset"]
        self._invalid: Ints = arrays["invalid"]
        self._metadata_offset: Ints = arrays["metadata_offset"]
        # Runs of record r are rows _first_run[r] to _first_run[r + 1] of _invalid.
        self._first_run = np.searchsorted(self._invalid[:, 0], np.arange(len(self) + 1))
        self._has_runs = np.diff(self._first_run) > 0

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store.

        Raises:
            LatentcastError: it is missing, unfinished, of another version, or a file of it is gone.
        """
        folder = Path(path)
        return cls(folder, read_manifest(folder))

    def __len__(self) -> int:
        return self.manifest.records

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes map the files themselves instead of receiving copies.
        return (Store.open, (self.path,))

    @property
    def leads(self) -> tuple[str, ...]:
        return self.manifest.leads

    @property
    def sampling_rate(self) -> float:
        return self.manifest.sampling_rate

    @property
    def scale(self) -> float:
        """Millivolts per count."""
        return self.manifest.scale

    def row_of(self, record_id: str) -> int:
        """The row of a record.

        Raises:
            LatentcastError: the store holds no record of that id.
        """
        found = np.flatnonzero(self.record_ids == record_id)
        if not len(found):
            raise LatentcastError(
                f"{self.path}: holds no record '{record_id}'; its ids look like "
                f"'{self.record_ids[0]}'"
            )
        return int(found[0])

    def rows(self, split: str) -> Ints:
        """Rows of ``"train"``, ``"validation"`` or ``"test"``, ascending.

        Raises:
            LatentcastError: there is no such split.
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
        out: npt.NDArray[np.int16] | None = None,
    ) -> npt.NDArray[np.int16]:
        """Crops of records as counts, int16 ``(len(rows), length, leads)``.

        Args:
            rows: record numbers.
            starts: first sample of each crop, may be negative; the record's start by default.
            length: samples of every crop; the longest of the chosen records by default.
            out: filled and returned instead of a new array.

        Samples outside the record and samples that are not valid are ``INVALID``.

        Raises:
            IndexError: a row is not in the store.
            ValueError: ``out`` has another shape or type.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows must lie in [0, {len(self)})")
        begins = np.zeros_like(wanted) if starts is None else np.asarray(starts, dtype=np.int64)
        if begins.shape != wanted.shape:
            raise ValueError(f"starts has shape {begins.shape}, rows has {wanted.shape}")
        lengths = self.lengths[wanted]
        if length is None:
            length = int(lengths.max()) if wanted.size else 0
        shape = (len(wanted), length, len(self.leads))
        if out is None:
            out = np.empty(shape, dtype=np.int16)
        elif out.shape != shape or out.dtype != np.int16:
            raise ValueError(f"out is {out.dtype} {out.shape}, needed is int16 {shape}")
        # One vectorised pass decides where each crop lies; the loop only copies.
        lows = np.clip(begins, 0, lengths)
        highs = np.clip(begins + length, 0, lengths)
        whole = (lows == begins) & (highs == begins + length)
        bases = self._offset[wanted]
        shards = self._shards
        plan = zip(
            self._shard[wanted].tolist(),
            (bases + lows).tolist(),
            (bases + highs).tolist(),
            strict=True,
        )
        for i, (shard, low, high) in enumerate(plan):
            if whole[i]:
                out[i] = shards[shard][low:high]
            else:
                before = int(lows[i] - begins[i]) if low < high else 0
                crop = out[i]
                crop[:before] = INVALID
                crop[before : before + high - low] = shards[shard][low:high]
                crop[before + high - low :] = INVALID
        for i in np.flatnonzero(self._has_runs[wanted]).tolist():
            row, begin = int(wanted[i]), int(begins[i])
            for lead, start, stop in self._runs(row).tolist():
                out[i, max(start - begin, 0) : max(stop - begin, 0), lead] = INVALID
        return out

    def _runs(self, row: int) -> Ints:
        runs: Ints = self._invalid[self._first_run[row] : self._first_run[row + 1], 1:]
        return runs

    def recording(self, row: int) -> Recording:
        """One record in physical units, its validity mask and metadata restored.

        ``metadata["labels"]`` is code to likelihood and ``metadata["fold"]`` the fold.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is not in [0, {len(self)})")
        offset = int(self._offset[row])
        counts = self._shards[int(self._shard[row])][offset : offset + int(self.lengths[row])].T
        signal = (counts * np.float64(self.scale)).astype(np.float32)
        valid = np.asarray(counts != INVALID)
        signal[~valid] = np.nan
        for lead, start, stop in self._runs(row).tolist():
            valid[lead, start:stop] = False
        metadata = self.metadata(row)
        metadata["labels"] = self.labels.of(row)
        metadata["fold"] = int(self.folds[row])
        return Recording(
            signal,
            self.leads,
            self.sampling_rate,
            valid,
            str(self.record_ids[row]),
            str(self.patient_ids[row]) or None,
            metadata,
        )

    def metadata(self, row: int) -> dict[str, Any]:
        """What else the source says of a record, and ``quality_findings`` where there are any."""
        start, stop = int(self._metadata_offset[row]), int(self._metadata_offset[row + 1])
        with (self.path / METADATA).open("rb") as file:
            file.seek(start)
            metadata: dict[str, Any] = json.loads(file.read(stop - start))
        return metadata

    def all_metadata(self) -> Iterator[dict[str, Any]]:
        """:meth:`metadata` of every record, in order."""
        with (self.path / METADATA).open("rb") as file:
            for line in file:
                yield json.loads(line)

    def invalid_share(self) -> npt.NDArray[np.float64]:
        """Share of samples per lead that is not valid, ``(leads,)``; reads every sample."""
        invalid = np.zeros(len(self.leads), dtype=np.int64)
        for shard in self._shards:
            for start in range(0, len(shard), _BLOCK):
                invalid += (shard[start : start + _BLOCK] == INVALID).sum(axis=0)
        np.add.at(invalid, self._invalid[:, 1], self._invalid[:, 3] - self._invalid[:, 2])
        return invalid / max(int(self.lengths.sum()), 1)

    @property
    def checksums(self) -> dict[str, str]:
        """sha256 by shard: what tells the samples of two stores apart."""
        return {shard.file: shard.sha256 for shard in self.manifest.shards}

    @cached_property
    def patients(self) -> int:
        """Different patients; a record without one counts as its own."""
        unnamed = int((self.patient_ids == "").sum())
        return len(np.unique(self.patient_ids[self.patient_ids != ""])) + unnamed

    def verify(self) -> None:
        """Compare every file with its checksum in the manifest; reads the whole store.

        Raises:
            LatentcastError: names the damaged file.
        """
        index = {
            INDEX: self.manifest.index_sha256,
            METADATA: self.manifest.metadata_sha256,
        }
        verify_files(self.path, self.checksums | index)
