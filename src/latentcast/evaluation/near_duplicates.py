"""Held-out images that look like a training image: frames of one patient, scene or video.

Compared are small grey copies of images, by correlation: it depends on neither brightness nor
contrast, and hardly on noise, compression and size. Different photographs come to 0.8, handwritten
digits to 0.98, frames of one recording to more than 0.99.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store

SIDE = 16
"""Pixels of a small copy."""
ALIKE = 0.99
SHARE = 0.01
"""Of the compared held-out images; fewer may be chance where images are simple."""
HELD_OUT, TRAINED = 1_000, 20_000
"""Images compared at the most, evenly over the store: a leak of many frames shows in a part."""
BATCH = 256

Floats = npt.NDArray[np.float32]


def near_duplicates(store: Store) -> set[str]:
    """Ids of validation and test images that a training image nearly equals; none where fewer than
    :data:`SHARE` of them do, and none where every image has a patient."""
    if (store.patient_ids != "").all():
        return set()
    rows = np.concatenate([store.rows("validation"), store.rows("test")])
    rows, trained = _some(rows, HELD_OUT), _some(store.rows("train"), TRAINED)
    alike = {one for one, _ in similar_images(store, rows, store, trained)}
    return alike if len(alike) >= SHARE * len(rows) else set()


def similar_images(
    store: Store, rows: npt.NDArray[np.int64], others: Store, trained: npt.NDArray[np.int64]
) -> list[tuple[str, str]]:
    """Ids of the ``rows`` that an image of a store, the same or another, nearly equals; and its."""
    if not len(rows) or not len(trained):
        return []
    held_out = np.concatenate([*_copies(store, rows)])
    nearest, names = np.full(len(rows), -1.0, np.float32), np.zeros(len(rows), np.int64)
    for begin, block in enumerate(_copies(others, trained)):
        if block.shape[1] != held_out.shape[1]:  # one of them is smaller than a small copy
            return []
        alike = held_out @ block.T
        closer = alike.max(axis=1) > nearest
        names[closer] = begin * BATCH + alike.argmax(axis=1)[closer]
        nearest = np.maximum(nearest, alike.max(axis=1))
    found = np.flatnonzero(nearest > ALIKE)
    return [(str(store.record_ids[rows[n]]), str(others.record_ids[trained[names[n]]]))
            for n in found]  # fmt: skip


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
