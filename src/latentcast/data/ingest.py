"""Records to store: parallel, resumable after a kill, and deterministic whatever the workers do."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentcast.archives import Unpacked, unpacked
from latentcast.data.arguments import files_of, reader_of, refuse_others
from latentcast.data.cluster import Cluster
from latentcast.data.codecs import CODECS
from latentcast.data.convert import Converted, Converter, Rejected
from latentcast.data.folder import claim, clear, finished_store, lock, writing
from latentcast.data.folds import Folds
from latentcast.data.formats import (
    is_archive,
    only_array,
    open_as,
    takes,
)
from latentcast.data.listing import list_records, odd_text
from latentcast.data.manifest import Encoding, library_version
from latentcast.data.patients import patients_of
from latentcast.data.plausibility import doubts
from latentcast.data.progress import Progress
from latentcast.data.readers import convert_in_order
from latentcast.data.store import Store
from latentcast.data.tables.annotations import annotations_of
from latentcast.data.tables.attached import label, table_source
from latentcast.data.tables.division import Division
from latentcast.data.tables.file import TableFile, read_table
from latentcast.data.writer import (
    ShardWriter,
    finish,
    read_quarantine,
    refuse_all_bad,
)
from latentcast.errors import LatentcastError, printable
from latentcast.files import apart
from latentcast.images.source import SplitChoice
from latentcast.signals.channels import LEFT_OUT, Signal
from latentcast.signals.readers.arrays import NOT_FINITE
from latentcast.signatures import checked
from latentcast.source import Annotation, RecordRef, Source
from latentcast.walk import walking_once

MOST_READ_AGAIN = 1000
"""Records in quarantine that are tried again when the store is finished: seconds at most."""
FEWEST_FOR_A_RATE = 100
"""Records read in a run that say how long a million take."""
_DUPLICATE = "duplicate record"


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did: the open store, the records in it, those in quarantine, the seconds.

    ``finished_before`` is that of a store which was there already: nothing was read into it, and
    its files were not compared (:meth:`Store.verify` does that). ``labels`` say what became of a
    table of labels, in sentences.
    """

    store: Store
    records: int
    quarantined: int
    seconds: float
    finished_before: bool = False
    labels: tuple[str, ...] = ()
    read: int = 0

    @property
    def projection(self) -> str | None:
        """What a million such records take, by the rate of this run; None where it read few."""
        if self.read <= FEWEST_FOR_A_RATE or not self.records:
            return None
        rate = self.read / self.seconds
        bytes_each = sum((self.store.path / f).stat().st_size for f in self.store.files)
        return (
            f"{rate:,.0f} records/s; a million such records take {1e6 / rate / 3600:.2g} hours and "
            f"{bytes_each / self.records / 1e3:.3g} GB"
        )


@checked
def ingest(
    source: str | Path | Source[Any],
    out: str | Path,
    *,
    kind: Literal["auto", "ecg", "image"] = "auto",
    fs: float | None = None,
    sampling_rate: float | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    layout: str | None = None,
    metadata: str | Path | None = None,
    labels: str | Path | TableFile | None = None,
    seed: int = 0,
    signal: Signal | None = None,
    rename: Mapping[str, str] | None = None,
    missing_leads: Literal["quarantine", "mask"] | None = None,
    scale: float | None = None,
    shortest: float | None = None,
    verify_checksums: bool | None = None,
    size: int | None = None,
    encoding: Encoding | None = None,
    bits: int | None = None,
    patients: str | Path | None = None,
    splits: SplitChoice | None = None,
    label_column: str | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    shard_bytes: int = 2**30,
    quiet: bool = False,
) -> IngestResult:
    """Read every record of ``source`` into a new store at ``out``.

    Killed at any moment, the same call goes on some hundred records before that, and gives the same
    bytes. On a finished store of the same source and options it does nothing.

    Splits and folds are those of the source. What it has not, validation or test, is a tenth of its
    training records each, by a hash of the patient's or record's id; a source without splits is
    divided 8 : 1 : 1 in this way.

    Args:
        source: recordings: a WFDB or Challenge folder, a PTB-XL folder, an array file, a packed
            folder, a table of files, or a pattern such as ``a/**/*.xml``. Images: a folder of
            them, of class folders, or of split folders of these; an array file of uint8; a Hugging
            Face dataset on disk, or parquet; WebDataset shards. Or a .zip, .tar, .tar.gz or .tgz of
            any of these, or what lies in it (``x.zip/inner``): it is unpacked into a temporary
            folder, which ``TMPDIR`` moves, and stands for what one would name after unpacking it.
            Or an object of one's own, see :class:`~latentcast.source.Source`.
        out: the folder of the store.
        kind: whether a path holds recordings or images, where that is not clear from itself.
        fs: sampling rate of the store in Hz; recordings at another rate are resampled to it.
            Without it the first one decides and others are quarantined.
        sampling_rate: of array files, what they were sampled at, in Hz.
        leads: for array files, the name of each channel in file order; for other sources, the
            leads of the store (the twelve by default).
        unit: unit of array files: V, mV, uV or nV.
        layout: axes of array files: ``"records,leads,samples"`` or ``"records,samples,leads"``.
        metadata: a table of recordings with a row for each: patients, folds, codes and metadata,
            see :mod:`latentcast.signals.readers.roles`. Of an array file its rows are in the order
            of the array; of others a column names the record.
        labels: a ``.csv`` or ``.parquet`` of labels of one's own with a row for each record or
            patient, which is kept in the store under the file's name; see
            :func:`~latentcast.data.tables.attached.label`. Its columns of patients and of splits
            come before those of the source. Where it names patients and no splits, and the source
            has none, records are divided 8 : 1 : 1 by patient and label.
        seed: of that division.
        signal: ``other`` for channels that are no ECG leads (EEG, PPG, names of one's own): their
            ``leads`` are any distinct names, in this order; what holds of ECGs alone is left out
            (canonical names, derived leads, Einthoven's law, saturation); and ``unit`` may be any
            text, which ``scale`` is then in.
        rename: of files, leads by what they are called there, as ``{"ECG1": "II"}``.
        missing_leads: quarantine (the default) a recording that lacks a lead, or ``mask`` the lead.
        scale: millivolts per stored count, 0.001 by default; a count spans int16.
        shortest: seconds, 1 by default; a recording that lasts less is quarantined.
        verify_checksums: check files against ``SHA256SUMS.txt`` where the source has one; by
            default True.
        size: pixels a side of images: the short side of each is brought to it and the middle is
            taken. Without it all images must have one size, which is kept.
        encoding: ``pixels`` (the default) stores what training reads; ``encoded`` keeps the bytes
            of the image files, and decodes and resizes each time an image is taken.
        bits: of images in 16-bit files, how many bits are used, such as 12; an image whose header
            and brightness leave that open is quarantined without it.
        patients: whose each record is: a pattern of the paths of the files (or, where one file has
            many records, of their ids), such as ``patient{patient}/`` or any regular expression
            with a group, ``patient(\\d+)``; or a table with the columns ``record_id`` and
            ``patient_id``. Splits are then drawn by patient.
        splits: of images, what folders, files or parts of a data set are where some are named like
            splits and some are not: ``named`` takes those and trains on the others, ``none`` takes
            no name for that of a split.
        label_column: of parquet files and Hugging Face datasets, the column of the labels, where
            it is not named so.
        workers: reader processes (of large images, and of those that are not files in folders:
            threads); the usable processors by default, 1 reads in this process.
        cluster: of Ray, whose machines read instead; see :class:`~latentcast.data.cluster.Cluster`
            for its addresses. The source lies on a disk that all of them have under one name; the
            store is written here, with the same bytes.
        shard_bytes: a shard is closed before it outgrows this.
        quiet: no progress.

    Raises:
        LatentcastError: no records, all records bad, an option that is for another kind of source,
            images of several sizes without ``size``, an optional package that one of them needs is
            missing, ``out`` is not writable, is being written, or is taken by another source, by
            other options, or by this source before it changed.
    """
    started = time.monotonic()
    if workers is not None and workers < 1:
        raise LatentcastError(
            f"--workers {workers}: must be at least 1; --workers 1 reads in this process"
        )
    if workers is not None and cluster is not None:
        raise LatentcastError(
            f"--workers {workers}: is of this machine, and --cluster reads on others; leave one out"
        )
    if isinstance(source, str | Path):
        apart(out, source=source)
    arguments = {
        "fs": fs, "sampling_rate": sampling_rate, "leads": leads, "unit": unit, "layout": layout,
        "metadata": metadata, "signal": signal, "rename": rename,
        "missing_leads": missing_leads, "scale": scale, "shortest": shortest,
        "verify_checksums": verify_checksums, "size": size, "encoding": encoding, "bits": bits,
        "patients": patients, "splits": splits, "label_column": label_column,
    }  # fmt: skip
    arguments = {name: value for name, value in arguments.items() if value is not None}
    table = read_table(labels) if isinstance(labels, str | Path) else labels
    how = workers if cluster is None else Cluster(cluster, files_of(source, arguments))
    common = (Path(out), kind, arguments, table, seed, how, shard_bytes, quiet, started)
    if not isinstance(source, str | Path) or not is_archive(source):
        return _ingest(source, None, *common)
    with unpacked(Path(source)) as archive:
        return _ingest(only_array(archive.path), archive, *common)


def _ingest(
    source: str | Path | Source[Any],
    archive: Unpacked | None,
    folder: Path,
    kind: Literal["auto", "ecg", "image"],
    arguments: dict[str, Any],
    table: TableFile | None,
    seed: int,
    workers: int | Cluster | None,
    shard_bytes: int,
    quiet: bool,
    started: float,
) -> IngestResult:
    """``source`` lies in the ``archive``, where there is one."""
    with walking_once():
        reader = reader_of(source, None if kind == "auto" else kind, arguments)
        codec = CODECS[reader.modality]
        refuse_others(source, codec, arguments)
        arguments = codec.target.arguments | arguments
        recorded = codec.target.check(arguments)
        opened = reader if isinstance(reader, Source) else open_as(reader, source, arguments)
        path = None if isinstance(source, Source) else Path(source)
        refs = list_records(opened, path if path and path.is_dir() else None, archive)
    # Images in a folder of such a name are in quarantine.
    opened.classes = tuple(name for name in opened.classes if odd_text(name) is None)
    if not refs:
        raise LatentcastError(f"{source}: holds no records; is this the right folder?")
    provenance: dict[str, Any] = {
        "source": printable(opened.name),
        "kind": opened.kind,
        "fingerprint": opened.fingerprint(),
        "listed": len(refs),
        "options": recorded | {"shard_bytes": shard_bytes},
        "latentcast": library_version(),
    }
    annotations, matched = dict[str, Annotation](), tuple[str, ...]()
    beside = arguments.get("metadata")
    if beside is not None and not takes(reader, "metadata"):
        annotations, matched = annotations_of(Path(beside), refs)
        provenance["metadata"] = table_source(Path(beside))
    if table is not None:
        provenance["labels"] = table_source(table.path) | {"seed": seed}
    if archive is not None:
        provenance |= {"source": printable(archive.archive.name), "archive_sha256": archive.sha256}
    with writing(folder, "choose another --out"):
        store = finished_store(folder, provenance)
    finished, read = None if store is None else store.manifest, 0
    target = codec.target.of(opened, refs, arguments, finished)  # type: ignore[arg-type]
    division = Division() if table is None else Division.of(table, refs, seed)
    room = "" if archive is None else f"{archive.folder.parent}/"
    patients = arguments["patients"]
    converter = Converter(
        opened, target, Folds(refs), division, room,
        patients={} if patients is None else patients_of(patients, refs), annotations=annotations,
    )  # fmt: skip
    if store is None:
        again = "free space or repair the folder and run the same ingest again, it goes on"
        with lock(folder), writing(folder, again):
            # Another process may have finished it since.
            if finished_store(folder, provenance) is None:
                other = arguments.get("signal") == "other"
                remarks = (*((LEFT_OUT,) if other else ()), *opened.remarks, *matched)
                for remark in () if quiet else remarks:
                    print(f"ingest: {remark}", file=sys.stderr)
                claim(folder, {"target": target.plan(), "provenance": provenance})
                writer = ShardWriter(folder, target, shard_bytes)
                read = _write(writer, converter, refs, workers, quiet)
                finish(folder, target, opened.classes, provenance)
                clear(folder)
        store = Store.open(folder)
        for doubt in () if quiet else doubts(store):
            print(f"ingest: {folder}: {doubt}", file=sys.stderr)
    else:
        _refuse_if_fixed(folder, converter, refs)
    lines = () if table is None else label(store, table).lines
    took, before = time.monotonic() - started, finished is not None
    return IngestResult(store, len(store), len(refs) - len(store), took, before, lines, read)


def _write(
    writer: ShardWriter,
    converter: Converter,
    refs: Sequence[RecordRef],
    workers: int | Cluster | None,
    quiet: bool,
) -> int:
    """All shards that are not on disk yet; how many records were read for them."""
    names: dict[str, str] = {}
    digests: dict[str, str] = {}
    begin = 0
    for next_ref, written in writer.resume():
        begin = next_ref
        for record in written:
            names[record["record_id"]] = digests[record["digest"]] = record["record_id"]
    enlarged, gaps = 0, Counter[str]()
    with Progress("ingest", len(refs), begin, quiet=quiet) as progress:
        try:
            compared = converter.target.compared
            with closing(convert_in_order(converter, refs[begin:], workers)) as results:
                for position, result in enumerate(results, start=begin):
                    if isinstance(result, Converted):
                        result = _unless_duplicate(result, names, digests, compared)
                    if isinstance(result, Converted):
                        writer.add(result, position)
                        if metadata := result.payload.metadata:
                            gaps.update({name: metadata.get(name, 0) for name in NOT_FINITE})
                        enlarged += result.payload.enlarged
                    else:
                        writer.reject(result)
                    writer.note(position + 1)
                    progress.advance(bad=isinstance(result, Rejected))
            writer.close(next_ref=len(refs))
        finally:
            writer.abandon()
    if gaps.total() and not quiet:
        nan, infinite = (f"{gaps[name]:,}" for name in NOT_FINITE)
        print(
            f"ingest: {nan} samples are NaN and {infinite} infinite; they are stored as not "
            "measured, and counted in the metadata of their records",
            file=sys.stderr,
        )
    if enlarged and not quiet:
        how = "are smaller than --size and were enlarged; a smaller --size invents no pixels"
        if converter.target.modality == "ecg":
            how = "have a lower rate than --fs and were interpolated; a lower --fs invents nothing"
        records = CODECS[converter.target.modality].records
        print(f"ingest: {enlarged:,} {records} {how}", file=sys.stderr)
    if not names:
        refuse_all_bad(writer.folder, converter.source.name)
    return len(refs) - begin


def _refuse_if_fixed(folder: Path, converter: Converter, refs: Sequence[RecordRef]) -> None:
    """Raise when a record in quarantine was put right; its file may have kept its length.

    Raises:
        LatentcastError: names the record.
    """
    reasons = {(row["record"], row["file"]): row["reason"] for row in read_quarantine(folder)}
    bad = [
        ref
        for ref in refs
        if not reasons.get((ref.record_id, ref.file), _DUPLICATE).startswith(_DUPLICATE)
    ]
    for ref in bad[:MOST_READ_AGAIN]:
        (result,) = converter([ref])
        if isinstance(result, Converted):
            raise LatentcastError(
                f"{folder}: record {ref.record_id} is in quarantine "
                f"({reasons[ref.record_id, ref.file]}) and can be read now; remove {folder} to "
                "ingest the fixed source anew, or choose another --out"
            )


def _unless_duplicate(
    record: Converted, names: dict[str, str], digests: dict[str, str], compared: str
) -> Converted | Rejected:
    key, file, digest = record.ref.record_id, record.ref.file, record.payload.digest
    if key in names:
        return Rejected(key, file, f"{_DUPLICATE}: the id {key} occurred before")
    if digest in digests:
        return Rejected(key, file, f"{_DUPLICATE}: same {compared} as {digests[digest]}")
    names[key] = digests[digest] = key
    return record
