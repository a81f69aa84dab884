"""What is in a store, counted, and as tables for a terminal."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

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


def _quarantine(store: Store) -> dict[str, int]:
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
        if not counts:
            console.print(f"{title.split(' (')[0]}: none")
            continue
        table = Table(title=title, show_header=False, title_justify="left")
        for name, count in list(counts.items())[:top]:
            table.add_row(name, f"{count:,}")
        if len(counts) > top:
            table.add_row(f"… and {len(counts) - top} more", "")
        console.print(table)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
