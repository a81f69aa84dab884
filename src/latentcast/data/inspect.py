"""What is in a store, counted, and as tables for a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table

from latentcast.data.flags import Flagged, flags_of
from latentcast.data.store import Store
from latentcast.data.writer import kind_of, read_quarantine
from latentcast.signals.channels import LEFT_OUT, MILLIVOLTS
from latentcast.signals.quality import assess
from latentcast.signals.recording import Recording
from latentcast.signals.suspicions import SUSPICIONS, suspect
from latentcast.terminal import Terminal

EXAMPLES = 3
LOOKED_AT = 500
"""ECGs of a store whose samples are looked through; a millisecond or two each."""
OF_LEADS = ("flat", "saturated", "noise", "lead-off")
"""Kinds of findings that are counted by lead: records in which it has one."""
_Channels = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


@dataclass
class Kind:
    """Findings, or records in quarantine, of one kind: how many, and a few of them in words."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True)
class Description:
    """The contents of a store.

    Attributes:
        contents: name and text of what is true of all of it.
        channels: title, column names and rows of the table of leads or colour channels.
        labels: records that carry each code or class; codes by frequency, classes in their order.
        findings: quality findings by kind, the most frequent first.
        quarantine: rows of ``quarantine.csv`` by reason without its names and numbers, likewise.
    """

    path: str
    contents: dict[str, str]
    channels: _Channels
    labels: dict[str, int]
    findings: dict[str, Kind]
    quarantine: dict[str, Kind]


def describe(store: Store, flagged: Sequence[Flagged] | None = None) -> Description:
    """Count what a store holds; reads index and metadata, and recordings for what is not valid.

    Args:
        flagged: of all ECGs, where they were looked at; by default :data:`LOOKED_AT` of them are.
    """
    manifest = store.manifest
    findings: defaultdict[str, Kind] = defaultdict(Kind)
    for row, metadata in enumerate(store.all_metadata()):
        for finding in metadata.get("quality_findings", []):
            findings[finding["kind"]].add(f"{store.record_ids[row]}: {finding['message']}")
    if store.modality == "ecg":
        flagged = _looked_at(store) if flagged is None else flagged
        contents, channels = _recordings(store, flagged)
        for record in flagged:
            for finding in record.findings:
                if finding.kind in SUSPICIONS:
                    findings[finding.kind].add(f"{record.record_id}: {finding.message}")
        labels = store.labels.counts()
    else:
        contents, channels = _images(store)
        counts = store.labels.counts()
        labels = {name: counts[name] for name in store.classes}
    quarantine: defaultdict[str, Kind] = defaultdict(Kind)
    for line in read_quarantine(store.path):
        quarantine[kind_of(line["reason"])].add(f"{line['record']}: {line['reason']}")
    splits = ", ".join(f"{name} {len(store.rows(name)):,}" for name in manifest.splits)
    return Description(
        path=str(store.path),
        contents={
            "source": str(manifest.provenance.get("source", "")),
            **contents,
            "splits": splits,
        },
        channels=channels,
        labels=labels,
        findings=_most_frequent(findings),
        quarantine=_most_frequent(quarantine),
    )


def _looked_at(store: Store) -> list[Flagged]:
    """Of at most so many records, evenly spread."""
    rows = np.linspace(0, len(store) - 1, min(len(store), LOOKED_AT)).astype(int)
    return flags_of(store, rows.tolist())


def _recordings(store: Store, flagged: Sequence[Flagged]) -> tuple[dict[str, str], _Channels]:
    manifest, seconds = store.manifest, store.lengths / store.sampling_rate
    shortest, median, longest = seconds.min(), np.median(seconds), seconds.max()
    step = f"{store.scale:g} {manifest.unit}"
    if manifest.unit == MILLIVOLTS:
        step = f"{1000 * store.scale:g} µV"
    contents = {
        "records": f"{len(store):,}{_patients(store)}, {seconds.sum() / 3600:,.1f} hours",
        "length": f"{median:g} s" if shortest == longest else f"{shortest:g} to {longest:g} s",
        "sampling rate": f"{store.sampling_rate:g} Hz, {step} per count",
    }
    if store.signal == "other":
        contents["signal"] = LEFT_OUT
    elif rates := [record.heart_rate for record in flagged if record.heart_rate is not None]:
        low, middle, high = np.percentile(rates, (5, 50, 95))
        contents["heart rate"] = f"{middle:.0f} a minute, nine of ten {low:.0f} to {high:.0f}"
    if len(flagged) < len(store):
        contents["looked at"] = (
            f"{len(flagged)} records, evenly spread: heart rate, {', '.join(OF_LEADS)}, reversed "
            "electrodes (--flags: all)"
        )
    statistics, invalid = manifest.statistics, store.invalid_share()
    flags = Counter((f.kind, lead) for r in flagged for f in r.findings for lead in f.leads)
    rows: list[tuple[str, ...]] = [
        (
            lead, _number(mean), _number(std), f"{100 * share:.3f} %",
            *(f"{flags[kind, lead]:,}" for kind in OF_LEADS),
        )
        for lead, mean, std, share in zip(
            store.leads, statistics.mean, statistics.std, invalid, strict=True
        )
    ]  # fmt: skip
    title = f"leads (training split, {manifest.unit})"
    return contents, (title, ("lead", "mean", "std", "not valid", *OF_LEADS), rows)


def _patients(store: Store) -> str:
    if (store.patient_ids == "").all():
        return ", patients unknown, each record counts as one"
    return f" of {store.patients:,} patients"


def _images(store: Store) -> tuple[dict[str, str], _Channels]:
    manifest = store.manifest
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    stored = "pixels" if manifest.encoding == "pixels" else "encoded files"
    unlabelled = int((np.diff(store.labels.indptr) == 0).sum())
    labels = f"{len(store.classes)} classes" if store.classes else "none"
    if store.classes and unlabelled:
        labels += f", {unlabelled:,} images without a label"
    plural = "s" * (store.channels > 1)
    contents = {
        "records": f"{len(store):,} images{_patients(store)}",
        "size": f"{store.height} × {store.width} pixels, {store.channels} channel{plural}",
        "stored as": f"{stored}, {megabytes:,.1f} MB",
        "labels": labels,
    }
    names = ("grey",) if store.channels == 1 else ("red", "green", "blue")
    statistics = manifest.statistics
    rows: list[tuple[str, ...]] = [
        (name, _number(mean), _number(std))
        for name, mean, std in zip(names, statistics.mean, statistics.std, strict=True)
    ]
    title = "channels (training split, values in [0, 1])"
    return contents, (title, ("channel", "mean", "std"), rows)


def _most_frequent(kinds: dict[str, Kind]) -> dict[str, Kind]:
    return dict(sorted(kinds.items(), key=lambda item: -item[1].count))


def print_description(
    description: Description, console: Terminal | None = None, top: int = 15
) -> None:
    """Print tables: contents, leads or channels, the ``top`` labels, findings and quarantine."""
    console = console or Terminal()
    contents = Table(title=description.path, show_header=False, title_justify="left")
    for name, text in description.contents.items():
        contents.add_row(name, text)
    console.print(contents)

    title, columns, rows = description.channels
    channels = Table(title=title, title_justify="left")
    for column in columns:
        channels.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        channels.add_row(*row)
    console.print(channels)

    labels = description.labels
    shown = f"labels ({min(top, len(labels))} of {len(labels)})" if labels else "labels"
    print_counts(shown, [(name, f"{count:,}") for name, count in labels.items()], top, console)
    for title, kinds in (
        ("quality findings", description.findings),
        ("quarantine", description.quarantine),
    ):
        rows = [(name, f"{k.count:,}", "\n".join(k.examples)) for name, k in kinds.items()]
        print_counts(title, rows, top, console)


def print_counts(title: str, rows: Sequence[tuple[str, ...]], top: int, console: Terminal) -> None:
    """Print the first rows of a table, and how many more there are."""
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=title, show_header=False, title_justify="left")
    for row in rows[:top]:
        table.add_row(*row)
    if len(rows) > top:
        table.add_row(f"… and {len(rows) - top} more")
    console.print(table)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def print_recording(recording: Recording, name: str, console: Terminal) -> None:
    """What was read of one file, before anything is stored."""
    checked, findings = assess(recording)
    suspected = suspect(checked)
    findings = (*findings, *suspected.findings)
    derived = recording.metadata.get("derived_leads", ())
    contents = {
        "patient": recording.patient_id or "unknown",
        "length": f"{recording.seconds:g} s, {recording.samples:,} samples",
        "sampling rate": f"{recording.sampling_rate:g} Hz",
        "heart rate": _per_minute(suspected.heart_rate),
        **{key: str(value) for key, value in recording.metadata.items()},
    }
    table = Table(title=name, show_header=False, title_justify="left")
    for key, text in contents.items():
        table.add_row(key, text)
    console.print(table)
    columns = ("lead", "lowest", "highest", "std", "not valid", "origin", "flags")
    leads = Table(*columns, title="leads (mV)", title_justify="left")
    for lead, row, valid in zip(recording.leads, recording.signal, checked.valid, strict=True):
        numbers = ("-", "-", "-")
        if valid.any():
            some = row[valid].astype(np.float64)
            numbers = (_number(some.min()), _number(some.max()), _number(some.std()))
        origin = "I and II" if lead in derived else "recorded"
        flags = ", ".join(finding.kind for finding in findings if lead in finding.leads)
        leads.add_row(lead, *numbers, f"{100 * (1 - valid.mean()):.3f} %", origin, flags)
    console.print(leads)
    rows = [(finding.kind, finding.message) for finding in findings]
    print_counts("quality findings", rows, len(rows), console)


def _per_minute(heart_rate: float | None) -> str:
    return "not found" if heart_rate is None else f"{heart_rate:.0f} a minute"
