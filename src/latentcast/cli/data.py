"""Verbs of the data: ingest, label, inspect, convert."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from latentcast.errors import LatentcastError

if TYPE_CHECKING:
    from latentcast.data.tables.columns import Kind
    from latentcast.signals.readers.file_format import ReadOptions


def ingest(
    source: Positional[Path],
    out: Path,
    kind: Literal["auto", "ecg", "image"] = "auto",
    fs: float | None = None,
    sampling_rate: float | None = None,
    leads: str | None = None,
    unit: str | None = None,
    layout: str | None = None,
    metadata: Path | None = None,
    labels: Path | None = None,
    id_column: str | None = None,
    patient_column: str | None = None,
    seed: int = 0,
    signal: Literal["ecg", "other"] | None = None,
    rename: str | None = None,
    missing_leads: Literal["quarantine", "mask"] | None = None,
    scale: float | None = None,
    shortest: float | None = None,
    size: int | None = None,
    encoding: Literal["pixels", "encoded"] | None = None,
    bits: int | None = None,
    patients: str | None = None,
    splits: Literal["named", "none"] | None = None,
    label_column: str | None = None,
    workers: int | None = None,
    cluster: str | None = None,
) -> None:
    """Read recordings or images into a store; a killed ingest goes on where it was.

    Args:
        source: recordings: a folder of files as ECG recorders write them (WFDB, GE MUSE, HL7 aECG,
            Philips Sierra and more, docs/formats.md), of the PhysioNet Challenge or of PTB-XL; one
            such file; a table (CSV, Parquet) with a column "path", or a pattern in quotes such as
            'a/**/*.xml' (docs/archives.md); or an .npy/.npz file. Images: a folder of them
            (CLASS/FILE, SPLIT/CLASS/FILE or flat), an .npy/.npz file of uint8, a Hugging Face
            dataset on disk, parquet, or WebDataset shards. Or a .zip, .tar or .tar.gz of any of
            these.
        out: folder of the store.
        kind: whether they are recordings or images, where the source leaves that open.
        fs: sampling rate that the store shall have, in Hz; recordings at others are resampled to
            it.
        sampling_rate: of an array, what it was sampled at, in Hz.
        leads: comma-separated lead names; for arrays in file order, else the leads of the store.
        unit: unit of an array: V, mV, uV or nV.
        layout: axes of an array: "records,leads,samples" or "records,samples,leads".
        metadata: table with a row for each recording (of an array: in its order): patients, folds,
            codes, age, sex and more.
        labels: CSV or parquet of your own labels, with a row for each record or patient; see
            latentcast label. Its patients and its split come before those of the source.
        id_column: the column of --labels that names the record, where that is not clear from its
            name.
        patient_column: the column of --labels that names the patient.
        seed: of the split, where --labels names patients and no split.
        signal: "other" for channels that are no ECG leads (EEG, PPG, names of your own): --leads
            then takes any names, --unit any unit, and what holds of ECGs alone is left out.
        rename: leads by what the files call them, as ECG1=II,ECG2=V1.
        missing_leads: quarantine a record without a lead (the default), or keep it with that lead
            masked.
        scale: millivolts of one stored count; 0.001 by default, which holds ±32 mV.
        shortest: seconds, 1 by default; a shorter recording goes to quarantine.
        size: pixels a side of the images: the short side is brought to it, the middle taken.
        encoding: store pixels (the default), or the image files as they are, decoded when taken.
        bits: bits in use of images in 16-bit files, such as 12, where they are in no header.
        patients: whose each record is, which the splits are drawn by: a pattern in the paths (of
            shards: in the keys), as in 'patient{patient}/' or 'patient(\\d+)', or a table with the
            columns record_id and patient_id. Patients in the files themselves need none.
        splits: where only some folders or files are named like splits: "named" trains on the
            others, "none" takes no name for that of a split.
        label_column: column of the labels of a parquet file or Hugging Face dataset.
        workers: reader processes (of large images: threads); all processors by default.
        cluster: of Ray, whose machines read instead: auto, local, ray://HOST:10001. The source is
            on a disk that all of them have.
    """
    from collections import Counter

    from latentcast.data.ingest import ingest as read
    from latentcast.data.manifest import QUARANTINE
    from latentcast.data.readers import tune_process
    from latentcast.data.tables.file import read_table
    from latentcast.data.writer import kind_of, read_quarantine
    from latentcast.signals.leads import name_pairs
    from latentcast.terminal import Terminal

    tune_process()
    done = read(
        source,
        out,
        kind=kind,
        fs=fs,
        sampling_rate=sampling_rate,
        leads=leads.split(",") if leads else None,
        unit=unit,
        layout=layout,
        metadata=metadata,
        labels=None if labels is None else read_table(labels, id_column, patient_column),
        seed=seed,
        signal=signal,
        rename=name_pairs(rename),
        missing_leads=missing_leads,
        scale=scale,
        shortest=shortest,
        size=size,
        encoding=encoding,
        bits=bits,
        patients=patients,
        splits=splits,
        label_column=label_column,
        workers=workers,
        cluster=cluster,
    )
    console = Terminal()
    for line in done.labels:
        console.print(line, soft_wrap=True)
    how = f"{done.seconds:.1f} s"
    if done.finished_before:
        how = f"finished before, nothing was read; latentcast inspect {out} compares its files"
    console.print(
        f"{out}: {done.records} records, {done.quarantined} in quarantine, {how}", soft_wrap=True
    )
    if done.projection is not None:
        console.print(f"rate: {done.projection}", soft_wrap=True)
    kinds = Counter(kind_of(row["reason"]) for row in read_quarantine(out))
    for reason, times in kinds.most_common(1):
        console.print(
            f"quarantine: most often ({times}) '{reason}'; all are in {out / QUARANTINE}",
            soft_wrap=True,
        )


def inspect(
    store: Positional[Path],
    plot: Path | None = None,
    record: str | None = None,
    summary: Path | None = None,
    sampling_rate: float | None = None,
    unit: str | None = None,
    rename: str | None = None,
    flags: Path | None = None,
    against: Path | None = None,
) -> None:
    """Check a store, print what it holds, plot a recording on clinical grid. Or do so with one ECG
    file of any format, as it would be read; or print what a model reads, its size and layers.

    Args:
        store: folder of the store, of recordings or images; one ECG file; or a run, RUN@STEP, an
            exported file or folder, or a model that ships.
        plot: picture to write (.png, .svg, .pdf).
        record: record id to plot; the first by default.
        summary: of a store of recordings, tables to be signed, to write as .html or .md: records,
            patients, durations, rates, leads, amplitudes, what is not valid, findings, duplicates.
        sampling_rate: of a file that has none (a table of leads), in Hz.
        unit: of a file that has none: V, mV, uV or nV.
        rename: leads by what the file calls them, as ECG1=II,ECG2=V1.
        flags: CSV to write, with the heart rate and the findings of every ECG of a store, which
            are then counted over all of them (docs/signals.md).
        against: another store: lists the records that both have, of recordings also those that
            differ in gain, sampling rate or cropping.
    """
    from latentcast.archives import archive_of
    from latentcast.data.flags import flags_of, write_flags
    from latentcast.data.formats import format_of
    from latentcast.data.inspect import describe, print_counts, print_description
    from latentcast.data.store import Store
    from latentcast.files import apart
    from latentcast.places import holds_weights, is_store, refuse_graph
    from latentcast.pretrained.models import at_step
    from latentcast.signals.leads import name_pairs, renamed
    from latentcast.signals.readers.ecg_files import is_ecg_file
    from latentcast.signals.readers.file_format import ReadOptions
    from latentcast.terminal import Terminal

    refuse_graph(store)
    if holds_weights(at_step(store)):
        if any((plot, record, summary, sampling_rate, unit, rename, flags, against)):
            raise LatentcastError(
                f"{store}: is a model, of which there is nothing to plot, count or rename; leave "
                "out the options"
            )
        _inspect_model(store)
        return
    for output in filter(None, (plot, summary, flags)):
        apart(output, store=store)
    if summary is not None:
        from latentcast.report.store_summary import check_suffix

        check_suffix(summary)
    if flags is not None and not is_store(store):
        raise LatentcastError(f"--flags {flags}: is of a store, {store} is none; leave it out")
    if is_ecg_file(store):
        if summary is not None:
            raise LatentcastError(
                f"--summary {summary}: is of a store, {store} is one ECG; leave it out"
            )
        if record is not None:
            raise LatentcastError(
                f"--record {record}: is of a store, {store} is one ECG; leave it out"
            )
        if against is not None:
            raise LatentcastError(
                f"--against {against}: is compared with a store, {store} is one ECG; ingest it, "
                "or leave --against out"
            )
        names = renamed(name_pairs(rename) or {})
        _inspect_file(store, plot, ReadOptions(None, sampling_rate, unit, names))
        return
    if (sampling_rate, unit, rename) != (None, None, None):
        raise LatentcastError(
            f"--sampling-rate, --unit, --rename: are for one ECG file, {store} is none; leave them "
            "out"
        )
    if store.is_file() and archive_of(store) is None:
        format_of(store)  # its error, where no store can be made of the file
    opened = Store.open(store)
    opened.verify()
    console = Terminal()
    options = {"plot": plot, "record": record, "summary": summary, "flags": flags}
    used = [name for name, value in options.items() if value is not None]
    if opened.modality == "image" and used:
        raise LatentcastError(
            f"{store}: holds images, and only recordings are plotted, summarised or have flags; "
            f"leave out --{' and --'.join(used)}"
        )
    if record is not None and plot is None:
        raise LatentcastError(f"--record {record}: is the one to plot; add --plot {record}.png")
    flagged = None if flags is None else flags_of(opened, range(len(opened)))
    description = describe(opened, flagged)
    print_description(description, console)
    if summary is not None:
        from latentcast.data.summary import summarise
        from latentcast.report.store_summary import write_summary

        write_summary(summary, summarise(opened, description))
        console.print(f"written {summary}")
    if flags is not None and flagged is not None:
        write_flags(flags, flagged)
        console.print(f"flags of {len(flagged):,} records: {flags}", soft_wrap=True)
    if against is not None:
        from latentcast.evaluation.leaks import duplicates

        other = Store.open(against)
        other.verify()
        pairs = duplicates(opened, other)
        print_counts(f"{len(pairs):,} records are in {against} as well", pairs, 15, console)
    if plot is not None:
        from latentcast.report.ecg import plot_recording
        from latentcast.report.style import save_figure

        row = 0 if record is None else opened.row_of(record)
        save_figure(plot_recording(opened.recording(row)), plot)
        console.print(f"plotted {plot}")


def _inspect_model(path: Path) -> None:
    from latentcast.artifacts.encoder import Encoder
    from latentcast.terminal import Terminal, plain_table

    table = plain_table(str(path))
    for name, text in Encoder.from_pretrained(path, device="cpu").description.items():
        table.add_row(name, text)
    table.show_header = False
    Terminal().print(table)


def _inspect_file(path: Path, plot: Path | None, options: ReadOptions) -> None:
    from latentcast.data.inspect import print_recording
    from latentcast.signals.readers import read_with
    from latentcast.terminal import Terminal

    recording = read_with(path, options)
    console = Terminal()
    print_recording(recording, str(path), console)
    if plot is not None:
        from latentcast.report.ecg import plot_recording
        from latentcast.report.style import save_figure

        save_figure(plot_recording(recording), plot)
        console.print(f"plotted {plot}")


def convert(
    sources: Positional[tuple[Path, ...]],
    to: Literal["wfdb", "edf", "parquet", "csv"],
    out: Path,
    anonymize: bool = False,
    key: Path | None = None,
    sampling_rate: float | None = None,
    leads: str | None = None,
    unit: str | None = None,
    layout: str | None = None,
    workers: int | None = None,
) -> int:
    """Write ECG files of any format as files of another, and records.csv with what is known of
    each; what is written is read again and compared. Exit status 1 where one was not converted.

    Args:
        sources: files, folders and archives, as ingest takes them.
        to: the format; docs/formats.md has what each holds.
        out: a new folder, or an empty one.
        anonymize: replace names and ids by a keyed hash, shift the dates of each patient by whole
            days of their own, and drop free text.
        key: file of the key that --anonymize needs; one is made where the file is missing. The
            same key gives the same hashes.
        sampling_rate: of files that have none (tables of numbers, arrays), in Hz.
        leads: of an array, comma-separated names of its channels.
        unit: of files that have none: V, mV, uV or nV.
        layout: axes of an array: "records,leads,samples" or "records,samples,leads".
        workers: processes; the usable processors by default, 1 converts in this process.
    """
    from latentcast.files import apart
    from latentcast.signals.anonymize import Key
    from latentcast.signals.readers.file_format import ReadOptions
    from latentcast.terminal import Terminal
    from latentcast.workflows.convert import TABLE
    from latentcast.workflows.convert import convert as write

    if not sources:
        raise LatentcastError("latentcast convert: names no file; name files or folders of ECGs")
    if anonymize != (key is not None):
        what = "needs a key; add --key FILE" if anonymize else "is for --anonymize; leave it out"
        raise LatentcastError(f"{'--anonymize' if anonymize else '--key'}: {what}")
    secret, console = None, Terminal()
    if key is not None:
        apart(key, folder=out)
        if not key.exists():
            console.print(
                f"{key}: is a new key; keep it apart from the files: who has it can find a "
                "patient in them again",
                soft_wrap=True,
            )
        secret = Key.read(key) if key.exists() else Key.create(key)
    done = write(
        sources,
        to,
        out,
        key=secret,
        options=ReadOptions(None, sampling_rate, unit),
        leads=leads.split(",") if leads else None,
        layout=layout,
        workers=workers,
    )
    errors = Terminal(stderr=True)
    for name, reason in done.rejected:
        errors.print(f"{name}: {reason}", soft_wrap=True)
    for title, counts in (
        (f"dropped, as they may name a patient ({TABLE} has them neither)", done.dropped),
        (f"without a place in the files ({TABLE} has what it has a column for)", done.not_in_files),
    ):
        if counts:
            listed = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common())
            console.print(f"{title}: {listed}", soft_wrap=True)
    rejected = f", {len(done.rejected):,} not converted" if done.rejected else ""
    console.print(f"{out}: {done.written:,} recordings as {to}{rejected}", soft_wrap=True)
    return int(bool(done.rejected))


def label(
    store: Positional[Path],
    table: Positional[Path],
    name: str | None = None,
    id_column: str | None = None,
    patient_column: str | None = None,
    columns: str | None = None,
    kinds: str | None = None,
    stratify: bool = False,
    seed: int = 0,
) -> None:
    """Give the records of a store labels of your own; no recording or image is read again.

    Args:
        store: folder of the store.
        table: CSV or parquet with a row for each record (or patient): a column of record ids or
            file names, columns of labels (0 and 1, classes, codes divided by ";" or "|",
            numbers; an empty cell is a missing label), and where it has them "patient", and "split"
            (train, validation, test) or "fold" (1 to 10).
        name: of the table in the store, its file name by default; the same name replaces it.
        id_column: the column that names the record, where that is not clear from its name.
        patient_column: the column that names the patient.
        columns: comma-separated columns of labels; by default all others.
        kinds: how to read a column, such as "grade=classes,qrs=number"; of binary, classes, codes
            and number.
        stratify: draw a new split 8 : 1 : 1 by patient and label.
        seed: of that draw.
    """
    from latentcast.data.store import Store
    from latentcast.data.tables.attached import label
    from latentcast.evaluation.tasks import label_tasks
    from latentcast.terminal import Terminal

    opened = Store.open(store)
    done = label(
        opened,
        table,
        name=name,
        record=id_column,
        patient=patient_column,
        columns=columns.split(",") if columns else (),
        kinds=_kinds(kinds),
        stratify=stratify,
        seed=seed,
    )
    console, table_name = Terminal(), done.table.name
    own = {f"{table_name}/{column}" for column in done.table.columns} | set(done.table.columns)
    first = next(task for task in label_tasks(opened) if task in own)
    for line in done.lines:
        console.print(line, soft_wrap=True)
    task = f"latentcast probe RUN --data {shlex.quote(str(store))} --task {shlex.quote(first)}"
    console.print(f"{store}: labelled; {task}", soft_wrap=True)


def _kinds(text: str | None) -> dict[str, Kind]:
    from latentcast.data.tables.columns import KINDS

    found: dict[str, Kind] = {}
    for part in text.split(",") if text else ():
        column, _, kind = part.partition("=")
        if kind not in KINDS:
            raise LatentcastError(
                f"--kinds {part}: write COLUMN=KIND, with a kind of {', '.join(KINDS)}"
            )
        found[column] = kind
    return found
