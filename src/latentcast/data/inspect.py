"""What is in a store, counted, and as tables for a terminal."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from latentcast.data.image_store import ImageStore
from latentcast.data.manifest import QUARANTINE
from latentcast.data.store import Store


@dataclass(frozen=True)
class Description:
    """The contents of a store.

    Attributes:
        seconds: shortest, median and longest record.
        splits: records of each split.
        labels: records that carry each code, most frequent first.
        invalid: share of samples per lead that is not valid.
        findings: quality findings by kind, and by message.
        quarantine: rows of ``quarantine.csv`` by reason, names and numbers left out.
    """

    path: str
    records: int
    patients: int
    leads: tuple[str, ...]
    sampling_rate: float
    scale: float
    seconds: tuple[float, float, float]
    hours: float
    splits: dict[str, int]
    labels: dict[str, int]
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    invalid: tuple[float, ...]
    findings: dict[str, int]
    finding_messages: dict[str, int]
    quarantine: dict[str, int]
    source: str


def describe(store: Store) -> Description:
    """Count what a store holds; reads the index and the metadata, and samples for validity."""
    seconds = store.lengths / store.sampling_rate
    statistics = store.manifest.statistics
    kinds: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    for metadata in store.all_metadata():
        findings = metadata.get("quality_findings", [])
        kinds.update({finding["kind"] for finding in findings})
        messages.update(finding["message"] for finding in findings)
    return Description(
        path=str(store.path),
        records=len(store),
        patients=store.patients,
        leads=store.leads,
        sampling_rate=store.sampling_rate,
        scale=store.scale,
        seconds=(float(seconds.min()), float(np.median(seconds)), float(seconds.max())),
        hours=float(seconds.sum()) / 3600,
        splits={name: len(store.rows(name)) for name in store.manifest.splits},
        labels=store.labels.counts(),
        mean=statistics.mean,
        std=statistics.std,
        invalid=tuple(store.invalid_share().tolist()),
        findings=dict(kinds.most_common()),
        finding_messages=dict(messages.most_common()),
        quarantine=_quarantine(store),
        source=str(store.manifest.provenance.get("source", "")),
    )


@dataclass(frozen=True)
class ImageDescription:
    """The contents of a store of images.

    Attributes:
        stored: what its shards hold, and how many bytes.
        splits: images of each split.
        classes: images of each class, in the order of the labels; empty without labels.
        unlabelled: images without a label.
        mean, std: per channel over the train split, of values in [0, 1].
        quarantine: as in :class:`Description`.
    """

    path: str
    records: int
    size: tuple[int, int, int]
    stored: str
    splits: dict[str, int]
    classes: dict[str, int]
    unlabelled: int
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    quarantine: dict[str, int]
    source: str


def describe_images(store: ImageStore) -> ImageDescription:
    """Count what a store of images holds; reads the index only."""
    manifest, labelled = store.manifest, store.labels[store.labels >= 0]
    counts = np.bincount(labelled, minlength=len(store.classes)).tolist()
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    kind = "pixels" if manifest.encoding == "pixels" else "encoded files"
    return ImageDescription(
        path=str(store.path),
        records=len(store),
        size=(store.height, store.width, store.channels),
        stored=f"{kind}, {megabytes:,.1f} MB",
        splits={name: len(store.rows(name)) for name in manifest.splits},
        classes=dict(zip(store.classes, counts, strict=True)),
        unlabelled=len(store) - len(labelled),
        mean=manifest.statistics.mean,
        std=manifest.statistics.std,
        quarantine=_quarantine(store),
        source=str(manifest.provenance.get("source", "")),
    )


def _quarantine(store: Store | ImageStore) -> dict[str, int]:
    try:
        with (store.path / QUARANTINE).open(newline="", encoding="utf-8") as file:
            reasons = Counter(_kind_of(row["reason"]) for row in csv.DictReader(file))
    except FileNotFoundError:
        return {}
    return dict(reasons.most_common())


def _kind_of(reason: str) -> str:
    """A reason without what differs from record to record: file names and numbers."""
    words = [
        "…" if any(c.isdigit() for c in word) or "/" in word else word for word in reason.split()
    ]
    return " ".join(words)[:90]


def print_description(
    description: Description, console: Console | None = None, top: int = 15
) -> None:
    """Print tables: contents, leads, the ``top`` labels, findings and quarantine."""
    d, console = description, console or Console()
    shortest, median, longest = d.seconds
    length = f"{median:g} s" if shortest == longest else f"{shortest:g} to {longest:g} s"
    contents = Table(title=d.path, show_header=False, title_justify="left")
    splits = ", ".join(f"{name} {count:,}" for name, count in d.splits.items())
    for name, value in (
        ("source", d.source),
        ("records", f"{d.records:,} of {d.patients:,} patients, {d.hours:,.1f} hours"),
        ("length", length),
        ("sampling rate", f"{d.sampling_rate:g} Hz, {1000 * d.scale:g} µV per count"),
        ("splits", splits),
    ):
        contents.add_row(name, value)
    console.print(contents)

    leads = Table(title="leads (training split, mV)", title_justify="left")
    for column in ("lead", "mean", "std", "not valid"):
        leads.add_column(column, justify="left" if column == "lead" else "right")
    for name, mean, std, invalid in zip(d.leads, d.mean, d.std, d.invalid, strict=True):
        leads.add_row(name, _number(mean), _number(std), f"{100 * invalid:.3f} %")
    console.print(leads)

    for title, counts in (
        (f"labels ({min(top, len(d.labels))} of {len(d.labels)})", d.labels),
        ("quality findings", d.finding_messages),
        ("quarantine", d.quarantine),
    ):
        _print_counts(title, counts, console, top)


def print_image_description(
    description: ImageDescription, console: Console | None = None, top: int = 15
) -> None:
    """Print tables: contents, channels, the first ``top`` classes and quarantine."""
    d, console = description, console or Console()
    height, width, channels = d.size
    labels = f"{len(d.classes)} classes" if d.classes else "none"
    if d.classes and d.unlabelled:
        labels += f", {d.unlabelled:,} images without a label"
    contents = Table(title=d.path, show_header=False, title_justify="left")
    for name, value in (
        ("source", d.source),
        ("records", f"{d.records:,} images"),
        ("size", f"{height} × {width} pixels, {channels} channel{'s' * (channels > 1)}"),
        ("stored as", d.stored),
        ("splits", ", ".join(f"{name} {count:,}" for name, count in d.splits.items())),
        ("labels", labels),
    ):
        contents.add_row(name, value)
    console.print(contents)

    table = Table(title="channels (training split, values in [0, 1])", title_justify="left")
    for column in ("channel", "mean", "std"):
        table.add_column(column, justify="left" if column == "channel" else "right")
    names = ("grey",) if channels == 1 else ("red", "green", "blue")
    for name, mean, std in zip(names, d.mean, d.std, strict=True):
        table.add_row(name, _number(mean), _number(std))
    console.print(table)

    shown = min(top, len(d.classes))
    _print_counts(f"classes ({shown} of {len(d.classes)})", d.classes, console, top)
    _print_counts("quarantine", d.quarantine, console, top)


def _print_counts(title: str, counts: dict[str, int], console: Console, top: int) -> None:
    if not counts:
        console.print(f"{title.split(' (')[0]}: none")
        return
    table = Table(title=title, show_header=False, title_justify="left")
    for name, count in list(counts.items())[:top]:
        table.add_row(name, f"{count:,}")
    if len(counts) > top:
        table.add_row(f"… and {len(counts) - top} more", "")
    console.print(table)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
