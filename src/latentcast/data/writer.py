"""Shards, their sidecars, and the files that finish a store; everything appears whole or not."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from latentcast.data.convert import Converted, Rejected, Target
from latentcast.data.folder import clear
from latentcast.data.manifest import (
    INDEX,
    MANIFEST,
    METADATA,
    QUARANTINE,
    SPLITS,
    Manifest,
    Shard,
)
from latentcast.data.statistics import LeadSums
from latentcast.errors import LatentcastError
from latentcast.files import replacing, sync, write_text

_NPY_HEADER = 128


def _npy_header(samples: int, leads: int) -> bytes:
    """A ``.npy`` 1.0 header of exactly 128 bytes, so that it can be written after the data."""
    text = f"{{'descr': '<i2', 'fortran_order': False, 'shape': ({samples}, {leads}), }}"
    padded = text.ljust(_NPY_HEADER - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")


@dataclass
class Sidecar:
    """What the index needs to know of one shard, kept beside it until the store is finished.

    ``next_ref`` is where a resumed ingest goes on in the listing of the source.
    """

    file: str
    samples: int
    sha256: str
    next_ref: int
    records: list[dict[str, Any]]
    rejected: list[dict[str, str]]
    sums: dict[str, Any]


def sidecar_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"


def read_sidecars(folder: Path) -> Iterator[Sidecar]:
    """The sidecars of the shards that are complete, in order."""
    number = 0
    while (path := sidecar_path(folder, number)).is_file():
        yield Sidecar(**json.loads(path.read_text(encoding="utf-8")))
        number += 1


@dataclass
class ShardWriter:
    """Appends records to one shard after another.

    A shard is closed before it would outgrow ``shard_bytes``: where it ends depends on the records
    alone, so an interrupted ingest cuts the same shards as an uninterrupted one.
    """

    folder: Path
    target: Target
    shard_bytes: int
    number: int = 0
    _file: BinaryIO | None = None
    _samples: int = 0
    _records: list[dict[str, Any]] = field(default_factory=list)
    _rejected: list[dict[str, str]] = field(default_factory=list)
    _sums: LeadSums | None = None

    def add(self, record: Converted, position: int) -> None:
        """Append the record at ``position`` of the listing."""
        size = record.counts.nbytes
        used = self._samples * len(self.target.leads) * 2
        if self._samples and used + size > self.shard_bytes:
            self.close(next_ref=position)
        if self._file is None:
            self._file = self._partial.open("wb")
            self._file.write(_npy_header(0, len(self.target.leads)))
        self._file.write(record.counts.tobytes())
        self._records.append(
            {
                "record_id": record.ref.record_id,
                "patient_id": record.patient_id,
                "fold": record.fold,
                "offset": self._samples,
                "length": len(record.counts),
                "digest": record.digest,
                "labels": record.labels,
                "runs": record.runs,
                "metadata": record.metadata,
            }
        )
        self._samples += len(record.counts)
        if record.sums is not None:
            self._sums = record.sums if self._sums is None else self._sums + record.sums

    def reject(self, rejected: Rejected) -> None:
        self._rejected.append(asdict(rejected))

    @property
    def _partial(self) -> Path:
        return self.folder / f"shard-{self.number:05d}.npy.partial"

    def close(self, next_ref: int) -> None:
        """Finish the open shard: data, then header, then checksum, then the sidecar."""
        sums = self._sums or LeadSums.zero(len(self.target.leads))
        file, digest = "", ""
        if self._file is not None:
            self._file.seek(0)
            self._file.write(_npy_header(self._samples, len(self.target.leads)))
            self._file.close()
            sync(self._partial)
            with self._partial.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            file = f"shard-{self.number:05d}.npy"
            self._partial.replace(self.folder / file)
        elif not self._rejected:
            return
        sidecar = Sidecar(
            file, self._samples, digest, next_ref, self._records, self._rejected, asdict(sums)
        )
        text = json.dumps(asdict(sidecar), ensure_ascii=False)
        write_text(sidecar_path(self.folder, self.number), text)
        self.number += 1
        self._file, self._samples, self._sums = None, 0, None
        self._records, self._rejected = [], []

    def abandon(self) -> None:
        """Drop the open shard, when ingest stops on an error."""
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def finish(folder: Path, target: Target, provenance: dict[str, Any]) -> Manifest:
    """Write index, metadata, quarantine and, last, the manifest, from the sidecars."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("shard", "offset", "length", "record_id", "patient_id", "fold")
    }
    label_rows: list[dict[str, float]] = []
    runs: list[tuple[int, int, int, int]] = []
    rejected: list[dict[str, str]] = []
    shards: list[Shard] = []
    metadata_offset = [0]
    sums = LeadSums.zero(len(target.leads))
    metadata_sha256 = hashlib.sha256()
    with replacing(folder / METADATA) as draft, draft.open("wb") as metadata:
        for sidecar in read_sidecars(folder):
            rejected += sidecar.rejected
            if not sidecar.records:
                continue
            for record in sidecar.records:
                row = len(label_rows)
                columns["shard"].append(len(shards))
                for name in ("offset", "length", "record_id", "patient_id", "fold"):
                    columns[name].append(record[name])
                label_rows.append(record["labels"])
                runs += [(row, *run) for run in record["runs"]]
                text = json.dumps(record["metadata"], ensure_ascii=False, sort_keys=True) + "\n"
                metadata_sha256.update(line := text.encode("utf-8"))
                metadata.write(line)
                metadata_offset.append(metadata_offset[-1] + len(line))
            shards.append(Shard(file=sidecar.file, samples=sidecar.samples, sha256=sidecar.sha256))
            sums = sums + LeadSums(
                sidecar.sums["records"],
                *(tuple(sidecar.sums[name]) for name in ("samples", "total", "squares")),
            )
        metadata.flush()
    write_quarantine(folder, rejected)
    index: dict[str, npt.NDArray[Any]] = {
        "shard": np.array(columns["shard"], dtype=np.int32),
        "offset": np.array(columns["offset"], dtype=np.int64),
        "length": np.array(columns["length"], dtype=np.int64),
        "record_id": np.array(columns["record_id"], dtype=np.str_),
        "patient_id": np.array(columns["patient_id"], dtype=np.str_),
        "fold": np.array(columns["fold"], dtype=np.int16),
        "invalid": np.array(runs, dtype=np.int64).reshape(-1, 4),
        "metadata_offset": np.array(metadata_offset, dtype=np.int64),
        **_label_arrays(label_rows),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **index)  # type: ignore[arg-type]  # stubs see allow_pickle in **
    with replacing(folder / INDEX) as draft:
        draft.write_bytes(buffer.getbuffer())
    manifest = Manifest(
        format_version=1,
        modality="ecg",
        sampling_rate=target.sampling_rate,
        leads=target.leads,
        scale=target.scale,
        records=len(label_rows),
        shards=tuple(shards),
        index_sha256=hashlib.sha256(buffer.getbuffer()).hexdigest(),
        metadata_sha256=metadata_sha256.hexdigest(),
        splits=SPLITS,
        statistics=sums.statistics(target.scale),
        provenance=provenance,
    )
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def write_quarantine(folder: Path, rejected: list[dict[str, str]]) -> None:
    """``quarantine.csv``: record, source file, reason; only the header where nothing is wrong."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["record", "file", "reason"])
    writer.writerows([r["record_id"], r["file"], r["reason"]] for r in rejected)
    write_text(folder / QUARANTINE, text.getvalue())


def refuse_all_bad(folder: Path, source: str) -> None:
    """End an ingest of which no record is left.

    Raises:
        LatentcastError: always; names the first record and where all reasons are.
    """
    rejected = [row for sidecar in read_sidecars(folder) for row in sidecar.rejected]
    write_quarantine(folder, rejected)
    # The next run starts over: a mended source must not find the old verdicts.
    clear(folder)
    first = rejected[0]
    raise LatentcastError(
        f"{source}: none of its {len(rejected)} records can be used; the first, "
        f"{first['file']}: {first['reason']} (all reasons in {folder / QUARANTINE})"
    )


def read_quarantine(folder: Path) -> dict[tuple[str, str], str]:
    """The reason by record and source file; empty where the table was removed."""
    try:
        with (folder / QUARANTINE).open(newline="", encoding="utf-8") as file:
            return {(row["record"], row["file"]): row["reason"] for row in csv.DictReader(file)}
    except FileNotFoundError:
        return {}


def _label_arrays(rows: list[dict[str, float]]) -> dict[str, npt.NDArray[Any]]:
    codes = sorted({code for row in rows for code in row})
    position = {code: i for i, code in enumerate(codes)}
    ordered = [sorted(row.items()) for row in rows]
    return {
        "label_codes": np.array(codes, dtype=np.str_),
        "label_indptr": np.cumsum([0, *map(len, ordered)], dtype=np.int64),
        "label_indices": np.array(
            [position[code] for row in ordered for code, _ in row], dtype=np.int32
        ),
        "label_values": np.array([v for row in ordered for _, v in row], dtype=np.float32),
    }
