"""Shards, their sidecars, and the files that finish a store; everything appears whole or not."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentcast.data.codecs import Target
from latentcast.data.convert import Converted, Rejected
from latentcast.data.folder import clear
from latentcast.data.labels import Labels
from latentcast.data.manifest import (
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    METADATA,
    QUARANTINE,
    SPLITS,
    Manifest,
    Shard,
)
from latentcast.data.statistics import ChannelSums
from latentcast.errors import LatentcastError
from latentcast.files import (
    check_digest,
    digested,
    read_object,
    replacing,
    sha256,
    sync,
    write_text,
)

REJECTED = ["record", "file", "reason"]
"""Columns of a table of records that are left out."""
_NPY_HEADER = 128
_TYPES = {
    "shard": np.int32, "offset": np.int64, "length": np.int64, "record_id": np.str_,
    "patient_id": np.str_, "fold": np.int16,
}  # fmt: skip


def _npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    """A ``.npy`` 1.0 header of exactly 128 bytes, so that it can be written after the data."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    padded = text.ljust(_NPY_HEADER - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")


@dataclass
class Sidecar:
    """What the index needs to know of one shard, kept beside it until the store is finished.

    ``samples`` is the first axis of its array; ``next_ref`` is where a resumed ingest goes on in
    the listing of the source.
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
    """The sidecars of the shards that are complete, in order.

    Raises:
        LatentcastError: one is damaged.
    """
    number = 0
    while (path := sidecar_path(folder, number)).is_file():
        try:
            record = read_object(path)
            if "digest" in record:  # an ingest that an earlier version began has none
                check_digest(record)
            sidecar = Sidecar(**{k: v for k, v in record.items() if k != "digest"})
        except (OSError, ValueError, TypeError) as error:
            raise LatentcastError(
                f"{path}: cannot be used ({error}), and the ingest cannot go on from it; remove "
                f"{folder} and ingest again"
            ) from error
        yield sidecar
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
    _bytes: int = 0
    _extent: int = 0
    _records: list[dict[str, Any]] = field(default_factory=list)
    _rejected: list[dict[str, str]] = field(default_factory=list)
    _sums: ChannelSums | None = None

    def add(self, record: Converted, position: int) -> None:
        """Append the record at ``position`` of the listing."""
        payload = record.payload
        if self._records and self._bytes + len(payload.data) > self.shard_bytes:
            self.close(next_ref=position)
        if self._file is None:
            self._file = self._partial.open("wb")
            self._file.write(bytes(_NPY_HEADER))
        self._file.write(payload.data)
        self._records.append(
            {
                "record_id": record.ref.record_id,
                "patient_id": record.patient_id,
                "fold": record.fold,
                "offset": self._extent,
                "length": payload.length,
                "digest": payload.digest,
                "labels": record.labels,
                "runs": payload.runs,
                "metadata": record.metadata,
            }
        )
        self._bytes += len(payload.data)
        self._extent += payload.extent
        if payload.sums is not None:
            self._sums = payload.sums if self._sums is None else self._sums + payload.sums

    def reject(self, rejected: Rejected) -> None:
        self._rejected.append(asdict(rejected))

    @property
    def _partial(self) -> Path:
        return self.folder / f"shard-{self.number:05d}.npy.partial"

    def close(self, next_ref: int) -> None:
        """Finish the open shard: data, then header, then checksum, then the sidecar."""
        sums = self._sums or self.target.zero()
        file, digest = "", ""
        if self._file is not None:
            self._file.seek(0)
            self._file.write(_npy_header(*self.target.array(self._extent)))
            self._file.close()
            sync(self._partial)
            digest = sha256(self._partial)
            file = f"shard-{self.number:05d}.npy"
            self._partial.replace(self.folder / file)
        elif not self._rejected:
            return
        sidecar = Sidecar(
            file, self._extent, digest, next_ref, self._records, self._rejected, asdict(sums)
        )
        text = json.dumps(digested(asdict(sidecar)), ensure_ascii=False)
        write_text(sidecar_path(self.folder, self.number), text)
        self.number += 1
        self._file, self._bytes, self._extent, self._sums = None, 0, 0, None
        self._records, self._rejected = [], []

    def abandon(self) -> None:
        """Drop the open shard, when ingest stops on an error."""
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def finish(
    folder: Path, target: Target, classes: tuple[str, ...], provenance: dict[str, Any]
) -> None:
    """Write index, metadata, quarantine and, last, the manifest, from the sidecars."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("shard", "offset", "length", "record_id", "patient_id", "fold", "labels")
    }
    runs: list[tuple[int, int, int, int]] = []
    rejected: list[dict[str, str]] = []
    shards: list[Shard] = []
    metadata_offset, has_metadata = [0], target.modality == "ecg"
    sums = target.zero()
    checksum = hashlib.sha256()
    with replacing(folder / METADATA) as draft, draft.open("wb") as metadata:
        for sidecar in read_sidecars(folder):
            rejected += sidecar.rejected
            if not sidecar.records:
                continue
            for record in sidecar.records:
                runs += [(len(columns["shard"]), *run) for run in record["runs"]]
                for name, values in columns.items():
                    values.append(len(shards) if name == "shard" else record[name])
                text = json.dumps(record["metadata"], ensure_ascii=False, sort_keys=True) + "\n"
                checksum.update(line := text.encode("utf-8"))
                metadata.write(line)
                metadata_offset.append(metadata_offset[-1] + len(line))
                has_metadata = has_metadata or bool(record["metadata"])
            lengths = [record["length"] for record in sidecar.records]
            shards.append(target.shard(sidecar.file, sidecar.sha256, sidecar.samples, lengths))
            sums += ChannelSums.from_json(sidecar.sums)
    write_quarantine(folder, rejected)
    labels = Labels.of_records(columns.pop("labels"), classes)
    index = target.index(
        {name: np.array(values, dtype=_TYPES[name]) for name, values in columns.items()}
        | {
            "invalid": np.array(runs, dtype=np.int64).reshape(-1, 4),
            "metadata_offset": np.array(metadata_offset * has_metadata, dtype=np.int64),
            "label_codes": np.array(labels.codes, dtype=np.str_),
            "label_indptr": labels.indptr,
            "label_indices": labels.indices,
            "label_values": labels.values,
        }
    )
    buffer = io.BytesIO()
    np.savez(buffer, **index)  # type: ignore[arg-type]  # stubs see allow_pickle in **
    with replacing(folder / INDEX) as draft:
        draft.write_bytes(buffer.getbuffer())
    optional: dict[str, Any] = {} if target.modality == "ecg" else {"classes": labels.codes}
    if has_metadata:
        optional["metadata_sha256"] = checksum.hexdigest()
    else:
        (folder / METADATA).unlink()
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        modality=target.modality,
        records=len(labels),
        shards=tuple(shards),
        index_sha256=hashlib.sha256(buffer.getbuffer()).hexdigest(),
        splits=SPLITS,
        provenance=provenance,
        **target.manifest(sums),
        **optional,
    )
    write_text(folder / MANIFEST, manifest.to_json())


def write_quarantine(folder: Path, rejected: list[dict[str, str]]) -> None:
    """``quarantine.csv``: record, source file, reason; only the header where nothing is wrong."""
    write_rejected(folder / QUARANTINE, rejected)


def write_rejected(file: Path, rejected: Iterable[Mapping[str, str]]) -> None:
    """A table of the records that are left out; only the header where nothing is wrong."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(REJECTED)
    writer.writerows([r["record_id"], r["file"], r["reason"]] for r in rejected)
    write_text(file, text.getvalue())


def refuse_all_bad(folder: Path, source: str) -> None:
    """End an ingest of which no record is left.

    Raises:
        LatentcastError: always; names the first record and where all reasons are.
    """
    rejected = [row for sidecar in read_sidecars(folder) for row in sidecar.rejected]
    write_quarantine(folder, rejected)
    # The next run starts over: a fixed source must not find the old verdicts.
    clear(folder)
    first = rejected[0]
    raise LatentcastError(
        f"{source}: none of its {len(rejected)} records can be used; the first, "
        f"{first['file']}: {first['reason']} (all reasons in {folder / QUARANTINE})"
    )


def kind_of(reason: str) -> str:
    """A reason without what differs from record to record: file names, numbers, details."""
    # A name with spaces is many words.
    reason = re.sub(r"^(duplicate record: (?:same .*? as|the id)) .*", r"\1 …", reason)
    reason = re.sub(r"^[^:(]*\.\w+: ", "", reason).partition(" (")[0]
    words = [
        "…" if any(c.isdigit() for c in word) or "/" in word else word for word in reason.split()
    ]
    return " ".join(words)[:90]


def read_quarantine(folder: Path) -> list[dict[str, str]]:
    """Rows of record, source file and reason; none where the table was removed."""
    try:
        with (folder / QUARANTINE).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []
