"""Recordings of any format that is read, as files of another; each is read again to be sure."""

from __future__ import annotations

import csv
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from latentcast.archives import Unpacked, unpacked
from latentcast.data.convert import reason_of
from latentcast.data.formats import is_archive, only_array, open_source, takes
from latentcast.data.listing import list_records
from latentcast.data.readers import in_order
from latentcast.errors import LatentcastError, printable
from latentcast.files import apart, replacing, sync
from latentcast.signals.anonymize import Key, anonymize
from latentcast.signals.readers import read_with
from latentcast.signals.readers.ecg_files import is_ecg_file
from latentcast.signals.readers.file_format import ReadOptions
from latentcast.signals.recording import Recording
from latentcast.signals.writers import FILE_WRITERS, FileKind
from latentcast.source import BadRecord, RecordRef, Source

TABLE = "records.csv"
_ABOUT = ("age", "sex", "recording_date", "device", "site", "report", "derived_leads")
COLUMNS = ("record_id", "file", "patient_id", "sampling_rate", "labels", *_ABOUT)
"""Of the table beside the files; ``ingest --metadata`` takes it."""


@dataclass
class Conversion:
    """What became of the files.

    Attributes:
        written: recordings.
        rejected: name and reason of each that was not.
        not_in_files: what the format has no place for, and of how many recordings; of it
            :data:`TABLE` has what is in :data:`COLUMNS`.
        dropped: what was left out of anonymous recordings.
    """

    written: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    not_in_files: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


_Named = tuple[str, Any]
"""The name of a recording for messages, and its file or its reference in a source."""
_BATCH = 4
"""Recordings that a process converts at a time."""
_DRAFTS = ".latentcast-"


def convert(
    sources: Sequence[Path],
    to: FileKind,
    out: Path,
    *,
    key: Key | None = None,
    options: ReadOptions | None = None,
    leads: Sequence[str] | None = None,
    layout: str | None = None,
    workers: int | None = None,
) -> Conversion:
    """Write every recording of some files and folders into a new folder, and a table of them.

    A recording is put in its place when what is read of it again is the same: leads, rate, every
    sample within a quantum of the format, and nothing measured that was not.

    Args:
        sources: files, folders and archives, as ``ingest`` takes them.
        to: a format of :data:`~latentcast.signals.writers.FILE_WRITERS`.
        out: the folder; it may exist and be empty.
        key: writes recordings without what names their patients.
        options: rate and unit of files that have none.
        leads: of an array, the name of each channel.
        layout: of an array, its axes.
        workers: processes; the usable processors by default, 1 converts in this process. Files and
            table are the same with any number.

    Raises:
        LatentcastError: ``out`` is not empty or lies in a source, or a package is missing.
    """
    options = options or ReadOptions()
    FILE_WRITERS[to].check()
    for source in sources:
        apart(out, source=source)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise LatentcastError(
            f"{out}: is not empty, and nothing is overwritten; choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    done, names = Conversion(), set[str]()
    arguments = {
        "sampling_rate": options.sampling_rate, "unit": options.unit, "leads": leads,
        "layout": layout,
    }  # fmt: skip
    with replacing(out / TABLE) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS, restval="")
        table.writeheader()
        try:
            for single, group in groupby(sources, is_ecg_file):
                for paths in [[*group]] if single else [[path] for path in group]:
                    try:
                        with _recordings(paths, arguments, options) as (recordings, read):
                            writer = _Writer(read, to, out, key)
                            for row in _converted(writer, recordings, workers, names, done):
                                table.writerow(row)
                    except LatentcastError as error:
                        done.rejected.append(
                            (str(paths[0]), str(error).removeprefix(f"{paths[0]}: "))
                        )
        finally:
            for folder in out.glob(f"{_DRAFTS}*"):
                shutil.rmtree(folder)
    return done


@contextmanager
def _recordings(
    paths: Sequence[Path], arguments: dict[str, Any], options: ReadOptions
) -> Iterator[tuple[list[_Named], Callable[[Any], Recording]]]:
    """Name, for messages, of each recording of files, or of one source; and what reads it."""
    path = paths[0]
    if is_ecg_file(path):
        yield [(str(file), file) for file in paths], partial(_one, options)
    elif is_archive(path):
        with unpacked(path) as archive:
            yield _of_source(only_array(archive.path), path, arguments, archive)
    else:
        yield _of_source(path, path, arguments, None)


@dataclass(frozen=True)
class _Draft:
    """A recording that was written and read again, in a folder from which its files are moved."""

    folder: Path
    name: str
    row: dict[str, object]
    not_in_files: list[str]
    dropped: set[str]


@dataclass(frozen=True)
class _Writer:
    """What a process does: reads recordings, and writes each to a folder of its own."""

    read: Callable[[Any], Recording]
    to: FileKind
    out: Path
    key: Key | None

    def __call__(self, recordings: Sequence[_Named]) -> list[_Draft | str]:
        return [self.one(recording, set()) for _, recording in recordings]

    def one(self, recording: Any, names: set[str]) -> _Draft | str:
        """Under a free name; or the reason. Nothing it does stops the others."""
        folder = Path(mkdtemp(prefix=_DRAFTS, dir=self.out))
        try:
            return self._draft(recording, names, folder)
        except LatentcastError as error:
            # A package that one format needs is a reason as well: others do without.
            reason = str(error)
        except Exception as error:
            reason = printable(reason_of(error))
        shutil.rmtree(folder)
        return reason

    def _draft(self, recording: Any, names: set[str], folder: Path) -> _Draft:
        original = self.read(recording)
        converted = original if self.key is None else anonymize(original, self.key)
        dropped = original.metadata.keys() - converted.metadata.keys() - {"format"}
        kept = converted.metadata.get("labels", {})
        dropped |= {"labels"} if kept and kept != original.metadata["labels"] else set()
        # Where it came from is no part of what is written.
        metadata = {k: v for k, v in converted.metadata.items() if k != "format"}
        name = _free_name(converted.record_id, names)
        row, lost = _write(replace(converted, metadata=metadata), self.to, folder, name)
        return _Draft(folder, name, row, lost, dropped)


def _converted(
    writer: _Writer,
    recordings: list[_Named],
    workers: int | None,
    names: set[str],
    done: Conversion,
) -> Iterator[dict[str, object]]:
    """The rows of recordings that are put in their place, in their order."""
    drafts = in_order(writer, recordings, workers, _BATCH, "convert")
    for (title, recording), draft in zip(recordings, drafts, strict=True):
        # The processes do not know which names are taken: so few are that it is done once more.
        if isinstance(draft, _Draft) and draft.name.lower() in names:
            shutil.rmtree(draft.folder)
            draft = writer.one(recording, names)
        if isinstance(draft, str):
            done.rejected.append((title, draft))
            continue
        try:
            # The file that names the others comes last.
            for suffix in reversed(FILE_WRITERS[writer.to].suffixes):
                file = draft.folder / f"{draft.name}{suffix}"
                file.rename(writer.out / file.name)
            sync(writer.out)
        except OSError as error:
            done.rejected.append((title, printable(reason_of(error))))
            continue
        shutil.rmtree(draft.folder)
        names.add(draft.name.lower())
        done.written += 1
        done.not_in_files.update(draft.not_in_files)
        done.dropped.update(draft.dropped)
        yield draft.row


def _one(options: ReadOptions, path: Path) -> Recording:
    try:
        return read_with(path, options)
    except BadRecord as error:
        raise BadRecord(str(error).removeprefix(f"{path}: ")) from None


def _of_source(
    path: Path, name: Path, arguments: dict[str, Any], archive: Unpacked | None
) -> tuple[list[_Named], Callable[[Any], Recording]]:
    options = {option: value for option, value in arguments.items() if value is not None}
    source = open_source(path, "ecg", **options)
    if arguments["leads"] is not None and not takes(type(source), "layout"):
        raise LatentcastError(
            f"--leads: are the channels of an array, {name} is read as {source.kind}; leave it out"
        )
    for remark in source.remarks:
        print(f"convert: {name}: {remark}", file=sys.stderr)
    refs = list_records(source, path if path.is_dir() else None, archive)
    named = [(f"{name}: {ref.file or ref.record_id}", ref) for ref in refs]
    return named, partial(_of_record, source)


def _of_record(source: Source[Any], ref: RecordRef) -> Recording:
    if ref.problem is not None:
        raise BadRecord(ref.problem)
    recording: Recording
    recording, annotation = source.read(ref)
    metadata = recording.metadata | annotation.metadata
    if annotation.labels:
        metadata["labels"] = annotation.labels
    patient = annotation.patient_id or recording.patient_id
    return replace(recording, record_id=ref.record_id, patient_id=patient, metadata=metadata)


def _write(
    recording: Recording, to: FileKind, folder: Path, name: str
) -> tuple[dict[str, object], list[str]]:
    """A recording to its files; its row of the table, and what the files have no place for.

    Raises:
        BadRecord: the format does not hold it.
    """
    writer, metadata = FILE_WRITERS[to], recording.metadata
    quanta = writer.write(recording, folder / name)
    files = [folder / f"{name}{suffix}" for suffix in writer.suffixes]
    again = read_with(files[0], ReadOptions(None, recording.sampling_rate, "mV"))
    _compare(recording, again, quanta)
    for file in files:
        sync(file)
    lost = [*_not_carried(recording, again), *(["sampling_rate"] if to == "csv" else [])]
    about = {key: metadata[key] for key in _ABOUT if key in metadata}
    if "derived_leads" in about:
        about["derived_leads"] = " ".join(about["derived_leads"])
    row = {
        "record_id": name,
        "file": name + writer.suffixes[0],
        "patient_id": recording.patient_id or "",
        "sampling_rate": f"{recording.sampling_rate:.12g}",
        "labels": ";".join(metadata.get("labels", ())),
        **about,
    }
    return row, lost


def _free_name(record_id: str, names: set[str]) -> str:
    """A name of letters, digits, ``-`` and ``_`` that no recording in the folder has."""
    name, number = re.sub(r"[^A-Za-z0-9_-]", "_", record_id) or "record", 1
    while (free := name if number == 1 else f"{name}-{number}").lower() in names:
        number += 1
    return free


def _compare(recording: Recording, again: Recording, quanta: Any) -> None:
    """Raises BadRecord: what was written is not what was to be written."""
    if again.leads != recording.leads:
        raise BadRecord(f"leads {' '.join(recording.leads)} come back as {' '.join(again.leads)}")
    if not np.isclose(again.sampling_rate, recording.sampling_rate, rtol=1e-9, atol=0):
        raise BadRecord(f"{recording.sampling_rate} Hz come back as {again.sampling_rate} Hz")
    if again.signal.shape != recording.signal.shape or not np.array_equal(
        np.isnan(again.signal), np.isnan(recording.signal)
    ):
        raise BadRecord("samples that were measured, or not, are others when they are read again")
    difference = np.abs(again.signal.astype(np.float64) - recording.signal)
    if (np.nan_to_num(difference) > quanta[:, None]).any():
        raise BadRecord(f"samples come back with an error of {np.nanmax(difference):.3g} mV")


def _not_carried(recording: Recording, again: Recording) -> Iterator[str]:
    """Metadata that are not read again as they were; numbers may come back as text."""
    if recording.patient_id is not None and again.patient_id != recording.patient_id:
        yield "patient_id"
    for key, value in recording.metadata.items():
        other = again.metadata.get(key)
        if key == "labels" and other is not None and other != value and set(other) == set(value):
            yield "likelihood of labels"
        elif other != value and str(other) != str(value):
            yield key
