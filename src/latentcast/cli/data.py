"""Verbs of the data: ingest, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from latentcast.errors import LatentcastError


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
    signal: Literal["ecg", "other"] | None = None,
    missing_leads: Literal["quarantine", "mask"] | None = None,
    scale: float | None = None,
    shortest: float | None = None,
    size: int | None = None,
    encoding: Literal["pixels", "encoded"] | None = None,
    bits: int | None = None,
    groups: str | None = None,
    splits: Literal["named", "none"] | None = None,
    label: str | None = None,
    workers: int | None = None,
) -> None:
    """Read recordings or images into a store; a killed ingest goes on where it was.

    Args:
        source: recordings: a WFDB, Challenge or PTB-XL folder, or an .npy/.npz file. Images: a
            folder of them (CLASS/FILE, SPLIT/CLASS/FILE or flat), an .npy/.npz file of uint8, a
            Hugging Face dataset on disk, parquet, or WebDataset shards. Or a .zip, .tar or .tar.gz
            of any of these.
        out: folder of the store.
        kind: whether they are recordings or images, where the source leaves that open.
        fs: sampling rate that the store shall have, in Hz; recordings at others are resampled to
            it.
        sampling_rate: of an array, what it was sampled at, in Hz.
        leads: comma-separated lead names; for arrays in file order, else the leads of the store.
        unit: unit of an array: V, mV, uV or nV.
        layout: axes of an array: "records,leads,samples" or "records,samples,leads".
        metadata: CSV with a row for each record of an array.
        signal: "other" for channels that are no ECG leads (EEG, PPG, names of your own): --leads
            then takes any names, --unit any unit, and what holds of ECGs alone is left out.
        missing_leads: quarantine a record without a lead (the default), or keep it with that lead
            masked.
        scale: millivolts of one stored count; 0.001 by default, which holds ±32 mV.
        shortest: seconds, 1 by default; a shorter recording goes to quarantine.
        size: pixels a side of the images: the short side is brought to it, the middle taken.
        encoding: store pixels (the default), or the image files as they are, decoded when taken.
        bits: bits in use of images in 16-bit files, such as 12, where they are in no header.
        groups: patients of images, which the splits are drawn by: a pattern in their paths (of
            shards: in their keys), as in 'patient(\\d+)', or a .csv with the columns image and
            patient. Patients in the JSON of shards (patient_id, patient, subject_id) need none.
        splits: where only some folders or files are named like splits: "named" trains on the
            others, "none" takes no name for that of a split.
        label: column of the labels of a parquet file or Hugging Face dataset.
        workers: reader processes (images: threads); all processors by default.
    """
    from collections import Counter

    from latentcast.data.ingest import ingest as read
    from latentcast.data.manifest import QUARANTINE
    from latentcast.data.writer import kind_of, read_quarantine
    from latentcast.terminal import Terminal

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
        signal=signal,
        missing_leads=missing_leads,
        scale=scale,
        shortest=shortest,
        size=size,
        encoding=encoding,
        bits=bits,
        groups=groups,
        splits=splits,
        label=label,
        workers=workers,
    )
    how = f"{done.seconds:.1f} s"
    if done.finished_before:
        how = f"finished before, nothing was read; latentcast inspect {out} compares its files"
    console = Terminal()
    console.print(
        f"{out}: {done.records} records, {done.quarantined} in quarantine, {how}", soft_wrap=True
    )
    kinds = Counter(kind_of(row["reason"]) for row in read_quarantine(out))
    for reason, times in kinds.most_common(1):
        console.print(
            f"quarantine: most often ({times}) '{reason}'; all are in {out / QUARANTINE}",
            soft_wrap=True,
        )


def inspect(store: Positional[Path], plot: Path | None = None, record: str | None = None) -> None:
    """Check a store, print what it holds, plot a recording on clinical grid.

    Args:
        store: folder of the store, of recordings or images.
        plot: picture to write (.png, .svg, .pdf).
        record: record id to plot; the first by default.
    """
    from latentcast.data.inspect import describe, print_description
    from latentcast.data.store import Store
    from latentcast.files import apart
    from latentcast.terminal import Terminal

    if plot is not None:
        apart(plot, store=store)
    opened = Store.open(store)
    opened.verify()
    console = Terminal()
    if opened.modality == "image" and (plot is not None or record is not None):
        raise LatentcastError(
            f"{store}: holds images, --plot and --record are for recordings; leave them out"
        )
    if record is not None and plot is None:
        raise LatentcastError(f"--record {record}: is the one to plot; add --plot {record}.png")
    print_description(describe(opened), console)
    if plot is not None:
        from latentcast.report.ecg import plot_recording
        from latentcast.report.style import save_figure

        row = 0 if record is None else opened.row_of(record)
        save_figure(plot_recording(opened.recording(row)), plot)
        console.print(f"plotted {plot}")
