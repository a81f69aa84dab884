"""Does the test split share an image with what the model has seen?

Images are compared pixel by pixel on the store's canvas: a copy that was resized, cropped or
compressed again is not found this way.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.evaluation.leaks import SHOWN, Finding

SPLITS = ("train", "validation", "test")
BATCH = 256  # images held at a time


def check(store: Store, pretraining: Store | None = None) -> list[Finding]:
    """Images in two splits of ``store``, and test images among those of the pretraining.

    ``pretraining`` is the store the encoder was pretrained on, of which the train split was read
    (``None``: not known). Both findings are errors; labels do not matter.
    """
    prints = [_fingerprints(store, store.rows(split)) for split in SPLITS]
    train, validation, test = prints
    copies = [train[mark] for mark in train.keys() & (validation.keys() | test.keys())]
    copies += [validation[mark] for mark in validation.keys() & test.keys()]
    findings = _finding(
        "image in two splits",
        copies,
        "the same pixels are stored in two splits; remove the copies and re-ingest",
    )
    if pretraining is None or pretraining.checksums == store.checksums:
        return findings
    seen = _fingerprints(pretraining, pretraining.rows("train"))
    return findings + _finding(
        "test image in pretraining",
        [test[mark] for mark in test.keys() & seen.keys()],
        "images of the test split were pretrained on; pretrain without them",
    )


def _finding(kind: str, cases: list[str], message: str) -> list[Finding]:
    found = sorted(set(cases))
    if not found:
        return []
    return [Finding(kind, "error", len(found), tuple(found[:SHOWN]), message)]


def _fingerprints(store: Store, rows: npt.NDArray[np.int64]) -> dict[bytes, str]:
    """Record id by hash of the image."""
    prints: dict[bytes, str] = {}
    for begin in range(0, len(rows), BATCH):
        part = rows[begin : begin + BATCH]
        for image, name in zip(store.take(part), store.record_ids[part], strict=True):
            digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(image).tobytes())
            prints[digest.digest()] = str(name)
    return prints
