"""Shards, their sidecars, and the files that finish a store; everything appears whole or not."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from latentcast.data import shard_log
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
    digested_line,
    listed,
    parse_object,
    read_text,
    replacing,
    sha256,
    sync,
    write_text,
)

_metadata = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
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
            text = read_text(path)
            record = parse_object(text)
            if "digest" in record:  # an ingest that an earlier version began has none
                check_digest(record, text)
            sidecar = Sidecar(**{k: v for k, v in record.items() if k != "digest"})
        except (OSError, ValueError, TypeError) as error:
            raise LatentcastError(
                f"{path}: cannot be used ({error}), and the ingest cannot go on from it; remove "
                f"{folder} and ingest again"
            ) from error
        yield sidecar
        number += 1


class Reached(NamedTuple):
    """How far a shard was written: numbers of records and rejected ones, and what follows them."""

    records: int
    rejected: int
    bytes: int
    extent: int
    crc: int
    sums: ChannelSums | None
    next_ref: int


@dataclass
class ShardWriter:
    """Appends records to one shard after another.

    A shard is closed before it would outgrow ``shard_bytes``: where it ends depends on the records
    alone, so an interrupted ingest cuts the same shards as an uninterrupted one. Its log lets that
    one go on in the shard that was open.
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
    _texts: list[str] = field(default_factory=list)
    """JSON of the records that are in the log."""
    _sums: ChannelSums | None = None
    _crc: int = 0
    _reached: Reached | None = None
    _logged: Reached | None = None
    """Of the open shard, after the last record that is in it whole, and that is in its log."""

    def resume(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Of each shard that a killed ingest left, where the listing goes on and its records: those
        that are complete, and the one that was open, as far as its log fits its bytes."""
        for sidecar in read_sidecars(self.folder):
            self.number += 1
            yield sidecar.next_ref, sidecar.records
        shard, log = self._partial, shard_log.log_path(self.folder, self.number)
        lines = list(shard_log.lines_that_fit(log, shard, _NPY_HEADER))
        for path in self.folder.glob("shard-*.partial"):
            # What does not fit, or is of a shard that was completed since.
            if not lines or path not in (shard, log):
                path.unlink()
        if lines:
            self._reopen(lines)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_text(log, text)
            yield lines[-1]["next_ref"], self._records

    def _reopen(self, lines: list[dict[str, Any]]) -> None:
        """Go on behind these lines of the log."""
        for line in lines:
            self._records += line["records"]
            self._texts.append(listed(line["records"]))
            self._rejected += line["rejected"]
        last = lines[-1]
        self._bytes, self._extent, self._crc = last["bytes"], last["extent"], last["crc"]
        self._sums = None if last["sums"] is None else ChannelSums.from_json(last["sums"])
        self._reached = self._logged = self._now(last["next_ref"])
        if self._records:
            self._file = self._partial.open("r+b", buffering=2**20)
            self._file.truncate(_NPY_HEADER + self._bytes)
            self._file.seek(0, io.SEEK_END)

    def _now(self, next_ref: int) -> Reached:
        return Reached(
            len(self._records), len(self._rejected), self._bytes, self._extent, self._crc,
            self._sums, next_ref,
        )  # fmt: skip

    def note(self, next_ref: int) -> None:
        """All before ``next_ref`` in the listing was added or rejected; logged now and then."""
        self._reached = now = self._now(next_ref)
        before = self._logged or Reached(0, 0, 0, 0, 0, None, 0)
        records = now.records + now.rejected - before.records - before.rejected
        if records >= shard_log.RECORDS or now.bytes - before.bytes >= shard_log.BYTES:
            self._log()

    def _log(self) -> None:
        """Only what was noted: Ctrl-C may come in the middle of a record."""
        now, before = self._reached, self._logged or Reached(0, 0, 0, 0, 0, None, 0)
        if now is None or now == self._logged:
            return
        if self._file is not None:
            self._file.flush()
        line = {
            "first": [before.records, before.rejected],
            "rejected": self._rejected[before.rejected : now.rejected],
            "next_ref": now.next_ref, "bytes": now.bytes, "extent": now.extent, "crc": now.crc,
            "sums": None if now.sums is None else asdict(now.sums),
        }  # fmt: skip
        text = listed(self._records[before.records : now.records])
        shard_log.append(shard_log.log_path(self.folder, self.number), line, text)
        self._texts.append(text)
        self._logged = now

    def add(self, record: Converted, position: int) -> None:
        """Append the record at ``position`` of the listing."""
        payload = record.payload
        data = payload.data.data if isinstance(payload.data, np.ndarray) else payload.data
        if self._records and self._bytes + len(data) > self.shard_bytes:
            self.close(next_ref=position)
        if self._file is None:
            self._file = self._partial.open("wb", buffering=2**20)
            self._file.write(bytes(_NPY_HEADER))
        self._file.write(data)
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
        self._bytes += len(data)
        self._crc = zlib.crc32(data, self._crc)
        self._extent += payload.extent
        if payload.sums is not None:
            self._sums = payload.sums if self._sums is None else self._sums + payload.sums

    def reject(self, rejected: Rejected) -> None:
        self._rejected.append(asdict(rejected))

    @property
    def _partial(self) -> Path:
        return shard_log.shard_path(self.folder, self.number)

    def close(self, next_ref: int) -> None:
        """Finish the open shard: data, then header, then checksum, then the sidecar."""
        self._reached = None  # nothing is logged any more, should Ctrl-C come in here
        sums = self._sums or self.target.zero()
        file, digest = "", ""
        if self._file is not None:
            self._file.seek(0)
            self._file.write(_npy_header(*self.target.array(self._extent)))
            self._file.close()
            # A gigabyte: the disk writes it down while the processor reads it.
            with ThreadPoolExecutor(1) as aside:
                reading = aside.submit(sha256, self._partial)
                sync(self._partial)
                digest = reading.result()
            file = f"shard-{self.number:05d}.npy"
            self._partial.replace(self.folder / file)
        elif not self._rejected:
            return
        sidecar = Sidecar(file, self._extent, digest, next_ref, [], self._rejected, asdict(sums))
        logged = 0 if self._logged is None else self._logged.records
        records = ",".join(filter(None, (*self._texts, listed(self._records[logged:]))))
        # Not of asdict, which copies the rejected ones.
        line = digested_line(vars(sidecar), records=records)
        write_text(sidecar_path(self.folder, self.number), line)
        shard_log.log_path(self.folder, self.number).unlink(missing_ok=True)
        self.number += 1
        self._file, self._bytes, self._extent, self._sums = None, 0, 0, None
        self._records, self._rejected, self._texts = [], [], []
        self._crc, self._logged = 0, None

    def abandon(self) -> None:
        """Leave the open shard to the next run, when ingest stops on an error."""
        with suppress(OSError):  # of a full disk, which is why it stops
            self._log()
        with suppress(OSError):
            if self._file is not None:
                self._file.close()


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
                checksum.update(line := f"{_metadata(record['metadata'])}\n".encode())
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
