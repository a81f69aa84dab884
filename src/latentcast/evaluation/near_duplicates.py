"""Held-out records that look like a training record: frames of one patient, scene or video, and
one ECG at two sampling rates.

Compared are small grey copies of images, by correlation: it depends on neither brightness nor
contrast, and hardly on noise, compression and size. Different photographs come to 0.8, handwritten
digits to 0.98, frames of one recording to more than 0.99.

Of recordings it is how the mean of each 50 ms changes, in all leads: it depends on neither gain nor
offset nor rate. The files of PTB-XL at 100 and at 500 Hz come to 0.93 and more, different ECGs of
it to 0.8 at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.signals.recording import INVALID

SIDE = 16
"""Pixels of a small copy."""
ALIKE = 0.99
SHARE = 0.01
"""Of the compared held-out images; fewer may be chance where images are simple."""
HELD_OUT, TRAINED = 1_000, 20_000
"""Images compared at the most, evenly over the store: a leak of many frames shows in a part."""
BATCH = 256
BLOCKS = 20
"""A second, of a small copy of a recording ..."""
SECONDS = 10
"""... which has its beginning."""
SAME = 0.9

Floats = npt.NDArray[np.float32]


def near_duplicates(store: Store) -> set[str]:
    """Ids of validation and test images that a training image nearly equals; none where fewer than
    :data:`SHARE` of them do, and none where every image has a patient."""
    if (store.patient_ids != "").all():
        return set()
    rows = _some(np.concatenate([store.rows("validation"), store.rows("test")]), HELD_OUT)
    trained = _some(store.rows("train"), TRAINED)
    if not len(rows) or not len(trained):
        return set()
    held_out = np.concatenate([*_copies(store, rows)])
    nearest = np.full(len(rows), -1.0, np.float32)
    for block in _copies(store, trained):
        nearest = np.maximum(nearest, (held_out @ block.T).max(axis=1))
    alike = rows[nearest > ALIKE]
    return set(store.record_ids[alike].tolist()) if len(alike) >= SHARE * len(rows) else set()


def same_recordings(
    store: Store, rows: npt.NDArray[np.int64], others: Store, trained: npt.NDArray[np.int64]
) -> set[str]:
    """Ids of the ``rows`` that a ``trained`` recording of a store, the same or another, equals but
    for gain, offset, sampling rate and noise; in the leads that both have."""
    leads = [lead for lead in store.manifest.leads if lead in others.manifest.leads]
    rows, trained = _some(rows, HELD_OUT), _some(trained, TRAINED)
    if not len(rows) or not len(trained) or not leads:
        return set()
    held_out = np.concatenate([*_changes(store, rows, leads)])
    found = np.zeros(len(rows), dtype=np.bool_)
    for block in _changes(others, trained, leads):
        found |= (held_out @ block.T > SAME).any(axis=1)
    return set(store.record_ids[rows[found]].tolist())


def _changes(store: Store, rows: npt.NDArray[np.int64], leads: Sequence[str]) -> Iterator[Floats]:
    """Unit vectors ``(recordings, changes of all leads)``; an even recording is a zero vector."""
    columns = [store.manifest.leads.index(lead) for lead in leads]
    edges = np.round(np.arange(SECONDS * BLOCKS + 1) * store.manifest.sampling_rate / BLOCKS)
    starts = edges.astype(np.int64)
    for begin in range(0, len(rows), BATCH):
        part = rows[begin : begin + BATCH]
        counts = store.take(part, np.zeros_like(part), int(starts[-1]))[:, :, columns]
        measured = counts != INVALID
        sums = np.add.reduceat(np.where(measured, counts, 0), starts[:-1], 1, dtype=np.float32)
        number = np.add.reduceat(measured, starts[:-1], 1, dtype=np.float32)
        filled = number > 0
        means = np.divide(sums, number, out=np.zeros_like(sums), where=filled)
        change = np.diff(means, axis=1) * (filled[:, 1:] & filled[:, :-1])
        flat = change.reshape(len(part), -1)
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        yield np.divide(flat, length, out=np.zeros_like(flat), where=length > 0)


def _some(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]


def _copies(store: Store, rows: npt.NDArray[np.int64]) -> Iterator[Floats]:
    """Small grey copies as unit vectors ``(images, pixels)``; an even image is a zero vector."""
    for begin in range(0, len(rows), BATCH):
        grey = store.take(rows[begin : begin + BATCH]).mean(axis=3, dtype=np.float32)
        for axis in (1, 2):
            size = grey.shape[axis]
            starts = np.arange(min(SIDE, size)) * size // min(SIDE, size)
            counts = np.diff(np.append(starts, size)).astype(np.float32)
            sums = np.add.reduceat(grey, starts, axis)
            grey = sums / (counts[:, None] if axis == 1 else counts)
        flat = grey.reshape(len(grey), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        yield np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-3)
