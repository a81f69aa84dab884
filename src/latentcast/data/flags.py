"""The findings of a store's records: what ingest kept of each, and what looks wrong in it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.files import write_text
from latentcast.signals.quality import Finding
from latentcast.signals.suspicions import SUSPICIONS, Flag, suspect

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Flagged:
    """Of one record: its findings, and its heart rate in beats per minute where it has one."""

    record_id: str
    findings: tuple[Finding, ...]
    heart_rate: float | None


def flags_of(store: Store, rows: Sequence[int], *, suspicions: bool = True) -> list[Flagged]:
    """Of some records, in order; without ``suspicions`` only what ingest kept, and no sample is
    read."""
    flagged = []
    for row in rows:
        kept = store.metadata(row).get("quality_findings", [])
        findings = [Finding(f["kind"], tuple(f["leads"]), f["message"]) for f in kept]
        heart_rate = None
        if suspicions and store.signal == "ecg":
            suspected = suspect(store.recording(row))
            findings += suspected.findings
            heart_rate = suspected.heart_rate
        flagged.append(Flagged(str(store.record_ids[row]), tuple(findings), heart_rate))
    return flagged


@dataclass(frozen=True, eq=False)
class Kept:
    """The rows that are trained on, and what became of the others, in a sentence or ""."""

    rows: Ints
    summary: str


def keep(store: Store, rows: Ints, kinds: tuple[Flag, ...]) -> Kept:
    """The rows of which no finding is of one of ``kinds``.

    Raises:
        LatentcastError: none is left.
    """
    if not kinds:
        return Kept(rows, "")
    return _keep(store.path, store.manifest.index_sha256, tuple(rows.tolist()), kinds)


@lru_cache(maxsize=4)  # a training asks for the same more than once
def _keep(path: Path, _: str, rows: tuple[int, ...], kinds: tuple[Flag, ...]) -> Kept:
    store = Store.open(path)
    flagged = flags_of(store, rows, suspicions=bool({*kinds} & {*SUSPICIONS}))
    found = [{f.kind for f in record.findings} & {*kinds} for record in flagged]
    counts = Counter(kind for record in found for kind in record)
    kept = [row for row, record in zip(rows, found, strict=True) if not record]
    each = ", ".join(f"{kind} {counts[kind]:,}" for kind in kinds)
    summary = f"{len(rows) - len(kept):,} of {len(rows):,} training records left out ({each})"
    if rows and not kept:
        raise LatentcastError(
            f"{path}: {summary}, so that none remains; set train.leave_out=[] or to fewer kinds"
        )
    return Kept(np.array(kept, dtype=np.int64), summary)


def write_flags(file: Path, flagged: Sequence[Flagged]) -> None:
    """A CSV with a row for each record: its heart rate, and for each kind of finding the leads."""
    kinds = get_args(Flag)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["record_id", "heart_rate", *kinds])
    for record in flagged:
        leads = {f.kind: " ".join(f.leads) or "yes" for f in record.findings}
        rate = "" if record.heart_rate is None else f"{record.heart_rate:.1f}"
        writer.writerow([record.record_id, rate, *(leads.get(kind, "") for kind in kinds)])
    write_text(file, text.getvalue())
