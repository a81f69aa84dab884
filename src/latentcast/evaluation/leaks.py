"""Does the test fold share a patient or a recording with what the model has seen?

Recordings are compared bit by bit in the store's counts: a copy that was resampled, rescaled or
shifted is not found this way, which is why ids and patients are compared as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.signals.recording import INVALID

SHOWN = 5  # examples named in a finding


@dataclass(frozen=True)
class Finding:
    """One kind of leak: how many cases, a few of them, and what to do.

    An ``error`` makes a test score meaningless; a ``warning`` may be a coincidence of names.
    """

    kind: str
    severity: Literal["error", "warning"]
    count: int
    examples: tuple[str, ...]
    message: str


def check(store: Store, pretraining: Store | None = None) -> list[Finding]:
    """All leaks within ``store`` and between its test fold and the pretraining records.

    ``pretraining`` is the store the encoder was pretrained on, of which the train split was read
    (``None``: not known). An id that both have is an error where both stores come from the same
    source, and a warning elsewhere: numbers such as 17 occur in many sources.
    """
    splits = {name: store.rows(name) for name in store.manifest.splits}
    patients = {name: _named(store.patient_ids[rows]) for name, rows in splits.items()}
    prints = {name: _fingerprints(store, rows) for name, rows in splits.items()}
    findings = [
        *_finding(
            "patient in two splits",
            "error",
            _shared(patients.values()),
            "a patient has records in two splits; re-ingest with the source's folds or patient ids",
        ),
        *_finding(
            "recording in two splits",
            "error",
            (prints[name][mark] for name, mark in _repeats(prints)),
            "the same waveform is stored in two splits; remove the copies and re-ingest",
        ),
    ]
    if pretraining is None:
        return findings
    rows = pretraining.rows("train")
    test = splits["test"]
    seen_prints = _fingerprints(pretraining, rows)
    copies = [prints["test"][mark] for mark in prints["test"].keys() & seen_prints.keys()]
    seen = set(zip(pretraining.record_ids[rows], pretraining.patient_ids[rows], strict=True))
    held = set(zip(store.record_ids[test], store.patient_ids[test], strict=True))
    same = {str(record) for record, patient in held & seen if patient}
    names = {str(record) for record, _ in held} & {str(record) for record, _ in seen}
    people = patients["test"] & _named(pretraining.patient_ids[rows])
    severity, why = _meaning_of_ids(store, pretraining)
    return [
        *findings,
        *_finding(
            "test recording in pretraining",
            "error",
            copies,
            "waveforms of the test fold were pretrained on; pretrain without them",
        ),
        *_finding(
            "test record and patient in pretraining",
            "error",
            same,
            "records of the test fold, by record and patient id, were pretrained on; "
            "pretrain without them",
        ),
        *_finding(
            "record id in pretraining",
            severity,
            names - same,
            f"record ids of the test fold also occur in the pretraining data; {why}",
        ),
        *_finding(
            "patient id in pretraining",
            severity,
            people,
            f"patient ids of the test fold also occur in the pretraining data; {why}",
        ),
    ]


def _meaning_of_ids(store: Store, pretraining: Store) -> tuple[Literal["error", "warning"], str]:
    """How much an id says that two stores share, and why."""
    mine, theirs = _source(store), _source(pretraining)
    if mine == theirs != "":
        return "error", (
            f"both stores come from {mine}: pretrain without them, or, if these are different "
            "data of one name, ingest one of them from a folder of another name"
        )
    return "warning", (
        f"the stores come from {mine or 'an unnamed source'} and "
        f"{theirs or 'an unnamed source'}, so the ids may agree by chance; "
        "if they do not, pretrain without them"
    )


def _source(store: Store) -> str:
    """Name and kind of the data a store was made from; "" when it does not say."""
    told = store.manifest.provenance
    return f"{told['source']} ({told.get('kind', 'unknown kind')})" if told.get("source") else ""


def _finding(
    kind: str, severity: Literal["error", "warning"], cases: Iterable[str], message: str
) -> list[Finding]:
    found = sorted(set(cases))
    if not found:
        return []
    return [Finding(kind, severity, len(found), tuple(found[:SHOWN]), message)]


def _named(ids: Iterable[str]) -> set[str]:
    """Ids without the empty one, which stands for "not known"."""
    return {str(name) for name in ids} - {""}


def _shared(groups: Iterable[set[str]]) -> set[str]:
    seen: set[str] = set()
    shared: set[str] = set()
    for group in groups:
        shared |= seen & group
        seen |= group
    return shared


def _repeats(prints: dict[str, dict[bytes, str]]) -> list[tuple[str, bytes]]:
    owner: dict[bytes, str] = {}
    return [
        (name, mark)
        for name, marks in prints.items()
        for mark in marks
        if owner.setdefault(mark, name) != name
    ]


def _fingerprints(store: Store, rows: npt.NDArray[np.int64]) -> dict[bytes, str]:
    """Record id by hash of the whole recording; recordings without a valid sample left out."""
    prints: dict[bytes, str] = {}
    for row in rows.tolist():
        samples = store.take(np.array([row]), np.array([0]), int(store.lengths[row]))
        if (samples != INVALID).any():
            digest = hashlib.blake2b(np.ascontiguousarray(samples).tobytes(), digest_size=16)
            prints[digest.digest()] = str(store.record_ids[row])
    return prints
