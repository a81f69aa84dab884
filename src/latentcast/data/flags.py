"""The findings of a store's records: what ingest kept of each, and what looks wrong in it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from latentcast.data.manifest import library_version
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.files import check_digest, digested, read_object, write_text
from latentcast.signals.quality import Finding
from latentcast.signals.suspicions import SUSPICIONS, Flag, suspect

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Flagged:
    """Of one record: its findings, and its heart rate in beats per minute where it has one."""

    record_id: str
    findings: tuple[Finding, ...]
    heart_rate: float | None


FILE = "suspicions.json"
"""In the folder of a store: what :func:`suspect` found, for each record that a training asked
about."""
UNREAD = "-"
WRITTEN_AFTER = 2**14
"""Records, so that a kill costs less than a minute."""


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
    flagged = flags_of(store, rows, suspicions=False)
    found = [{f.kind for f in record.findings} & {*kinds} for record in flagged]
    if {*kinds} & {*SUSPICIONS} and store.signal == "ecg":
        for own, suspected in zip(found, _suspicions(store, rows), strict=True):
            own |= suspected & {*kinds}
    counts = Counter(kind for record in found for kind in record)
    kept = [row for row, record in zip(rows, found, strict=True) if not record]
    each = ", ".join(f"{kind} {counts[kind]:,}" for kind in kinds)
    summary = f"{len(rows) - len(kept):,} of {len(rows):,} training records left out ({each})"
    if rows and not kept:
        raise LatentcastError(
            f"{path}: {summary}, so that none remains; set train.leave_out=[] or to fewer kinds"
        )
    return Kept(np.array(kept, dtype=np.int64), summary)


def _suspicions(store: Store, rows: Sequence[int]) -> list[set[str]]:
    """The kinds of what looks wrong in some records; each record is read once in the life of a
    store, and again by another version of the library."""
    about = {
        "index": store.manifest.index_sha256, "shards": [*store.checksums.values()],
        "kinds": [*SUSPICIONS], "latentcast": library_version(),
    }  # fmt: skip
    file = store.path / FILE
    marks = _marks(file, about) or [UNREAD] * len(store)
    unread = [row for row in rows if marks[row] == UNREAD]
    for n, row in enumerate(unread, start=1):
        kinds = {finding.kind for finding in suspect(store.recording(row)).findings}
        marks[row] = f"{sum(1 << SUSPICIONS.index(kind) for kind in kinds):x}"
        if n == len(unread) or n % WRITTEN_AFTER == 0:
            with suppress(OSError):  # a store that only others may write to is read anew
                write_text(file, json.dumps(digested({**about, "records": "".join(marks)})))
    bits = [int(marks[row], 16) for row in rows]
    return [{kind for n, kind in enumerate(SUSPICIONS) if bit >> n & 1} for bit in bits]


def _marks(file: Path, about: Mapping[str, Any]) -> list[str] | None:
    """For each record a digit of its kinds, or UNREAD; None of other samples, or damaged."""
    try:
        record = read_object(file)
        check_digest(record)
    except (OSError, ValueError):
        return None
    same = all(record.get(name) == value for name, value in about.items())
    return [*record["records"]] if same else None


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
