"""Does the test fold share a patient or a sample with what the model was trained on?

Recordings and images are compared bit by bit as they are stored, which finds no copy that was
resampled, resized, rescaled or compressed again. So patients are compared as well, of images small
copies, and of recordings ids and :mod:`~latentcast.evaluation.same_recordings`, which finds a copy
that was resampled, rescaled or cropped. An image that was cropped is not found.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.near_duplicates import near_duplicates, similar_images
from latentcast.evaluation.results import Finding
from latentcast.evaluation.same_recordings import same_recordings
from latentcast.signals.recording import INVALID

T = TypeVar("T")
Severity = Literal["error", "warning"]

EXAMPLES = 5  # named in a finding
MOST = 1_000, 20_000
"""Held-out and trained recordings compared at the most, evenly over the store."""
SURE = 0.98
"""Correlation above which a recording is a copy: two different ECGs of PTB-XL reach 0.943."""
BATCH = 256  # images read at a time


def check(store: Store, pretraining: Store | None = None) -> list[Finding]:
    """All leaks within ``store`` and between its test fold and the pretraining records.

    ``pretraining`` is the store the encoder was pretrained on, of which the train split was read
    (``None``: unknown). Labels do not matter. An id that both have is an error where both stores
    come from the same source, and a warning elsewhere: numbers such as 17 occur in many sources.
    """
    noun = "image" if store.modality == "image" else "recording"
    splits = {name: store.rows(name) for name in store.manifest.splits}
    patients = {name: _named(store.patient_ids[rows]) for name, rows in splits.items()}
    prints = {name: _fingerprints(store, rows) for name, rows in splits.items()}
    names = {mark: name for marks in prints.values() for mark, name in marks.items()}
    copies = _shared(prints.values())
    found: list[tuple[str, Severity, set[str], str]] = [
        ("patient in two splits", "error", _shared(patients.values()),
         "a patient has records in two splits; re-ingest with the source's folds or patient ids"),
        (f"{noun} in two splits", "error", {names[mark] for mark in copies},
         f"the same {noun} is stored in two splits; remove the copies and re-ingest"),
    ]  # fmt: skip
    if noun == "image":
        found.append(
            ("similar images in two splits", "warning",
             near_duplicates(store)
             - {name for marks in prints.values() for mark, name in marks.items()
                if mark in copies},
             "images of the validation or test split nearly equal training images, as frames of "
             "one patient or video do; ingest with --patients, and with --splits none where the "
             "source has splits, so that they are drawn by patient")
        )  # fmt: skip
    else:
        held_out = np.concatenate([splits["validation"], splits["test"]])
        found.append(
            ("similar recordings in two splits", "warning",
             _alike(store, held_out, store, splits["train"]).keys()
             - {names[mark] for mark in copies},
             "recordings of the validation or test split equal training recordings but for gain, "
             "sampling rate or cropping, as an ECG in two files does; remove one of them and "
             "re-ingest")
        )  # fmt: skip
    if pretraining is not None and not _same(store, pretraining):
        rows, test = pretraining.rows("train"), splits["test"]
        trained = _fingerprints(pretraining, rows).keys()
        people = patients["test"] & _named(pretraining.patient_ids[rows])
        severity, why = _meaning_of_ids(store, pretraining)
        found.append(
            (f"test {noun} in pretraining", "error",
             {name for mark, name in prints["test"].items() if mark in trained},
             f"{noun}s of the test fold were pretrained on; pretrain without them")
        )  # fmt: skip
        if noun == "recording":  # ids of images are file names, and 0001.jpg occurs everywhere
            tested, trained_on = (
                set(zip(data.record_ids[part], data.patient_ids[part], strict=True))
                for data, part in ((store, test), (pretraining, rows))
            )
            same = {str(record) for record, patient in tested & trained_on if patient}
            others = _alike(store, test, pretraining, rows)
            for name in same | {n for mark, n in prints["test"].items() if mark in trained}:
                others.pop(name, None)
            sure = {name for name, alike in others.items() if alike > SURE}
            found += [
                ("same test recording in pretraining", "error", sure,
                 "recordings that equal those of the test fold but for gain, sampling rate or "
                 "cropping were pretrained on; pretrain without them"),
                ("similar test recording in pretraining", "warning", others.keys() - sure,
                 "recordings that resemble those of the test fold as one ECG in two files does "
                 "were pretrained on; if they are, pretrain without them"),
            ]  # fmt: skip
            ids = {str(record) for record, _ in tested} & {str(record) for record, _ in trained_on}
            found += [
                ("test record and patient in pretraining", "error", same,
                 "records of the test fold, by record and patient id, were pretrained on; "
                 "pretrain without them"),
                ("record id in pretraining", severity, ids - same,
                 f"record ids of the test fold also occur in the pretraining data; {why}"),
            ]  # fmt: skip
        found.append(
            ("patient id in pretraining", severity, people,
             f"patient ids of the test fold also occur in the pretraining data; {why}")
        )  # fmt: skip
    return [
        Finding(kind, severity, len(cases), tuple(sorted(cases)[:EXAMPLES]), message)
        for kind, severity, cases, message in found
        if cases
    ]


def duplicates(store: Store, others: Store) -> list[tuple[str, str, str]]:
    """Records that two stores share: the id in each, and how alike they are, in words.

    Raises:
        LatentcastError: one holds images, and the other recordings.
    """
    if store.modality != others.modality:
        raise LatentcastError(
            f"{others.path}: holds {others.modality} data, {store.path} {store.modality}; compare "
            "stores of one kind"
        )
    rows, theirs = np.arange(len(store)), np.arange(len(others))
    prints = _fingerprints(others, theirs)
    found = {
        name: (name, prints[mark], "the same samples")
        for mark, name in _fingerprints(store, rows).items()
        if mark in prints
    }
    rest = rows[[name not in found for name in store.record_ids.tolist()]]
    if store.modality == "image":
        near = [(*pair, "nearly the same") for pair in similar_images(store, rest, others, theirs)]
    else:
        near = [
            (m.record_id, m.other_id, f"correlation {m.correlation:.3f}, begins at {m.shift:g} s")
            for m in same_recordings(store, rest, others, theirs)
        ]
    return [*found.values(), *near]


def _alike(
    store: Store, rows: npt.NDArray[np.int64], others: Store, trained: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Of the recordings that may be copies, the highest correlation with a trained one."""
    found = dict[str, float]()
    for match in same_recordings(store, rows, others, trained, MOST):
        found[match.record_id] = max(match.correlation, found.get(match.record_id, 0.0))
    return found


def _same(store: Store, pretraining: Store) -> bool:
    """The same samples in the same splits: what they share is found within the one store."""
    return (
        store.checksums == pretraining.checksums
        and store.manifest.splits == pretraining.manifest.splits
        and np.array_equal(store.folds, pretraining.folds)
    )


def _meaning_of_ids(store: Store, pretraining: Store) -> tuple[Severity, str]:
    """How bad it is that two stores share an id, and why."""
    tested, trained = _source(store), _source(pretraining)
    if tested == trained != "":
        return "error", (
            f"both stores come from {tested}: pretrain without them, or, if these are different "
            "data of one name, ingest one of them from a folder of another name"
        )
    return "warning", (
        f"the stores come from {tested or 'an unnamed source'} and "
        f"{trained or 'an unnamed source'}, so the ids may agree by chance; "
        "if they do not, pretrain without them"
    )


def _source(store: Store) -> str:
    """Name and kind of the data a store was made from; "" when the manifest does not name it."""
    provenance = store.manifest.provenance
    if not provenance.get("source"):
        return ""
    return f"{provenance['source']} ({provenance.get('kind', 'unknown kind')})"


def _named(ids: Iterable[str]) -> set[str]:
    """Ids without the empty one, which stands for "unknown"."""
    return {str(name) for name in ids} - {""}


def _shared(groups: Iterable[Collection[T]]) -> set[T]:
    """What is in two groups or more."""
    times = Counter(item for group in groups for item in set(group))
    return {item for item, n in times.items() if n > 1}


def _fingerprints(store: Store, rows: npt.NDArray[np.int64]) -> dict[bytes, str]:
    """Record id by hash of the whole sample; recordings without a valid sample left out."""
    prints: dict[bytes, str] = {}
    for row, sample in _samples(store, rows):
        digest = hashlib.blake2b(repr(sample.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(sample).tobytes())
        prints[digest.digest()] = str(store.record_ids[row])
    return prints


def _samples(store: Store, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    if store.modality == "image":
        for begin in range(0, len(rows), BATCH):
            part = rows[begin : begin + BATCH]
            yield from zip(part.tolist(), store.take(part), strict=True)
        return
    for row in rows.tolist():
        (sample,) = store.take(np.array([row]), np.array([0]), int(store.lengths[row]))
        if (sample != INVALID).any():
            yield row, sample
