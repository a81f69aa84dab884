"""Which fold a record is in: its source's, that of the split its source gives, or a hash's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from latentcast.data.manifest import SPLITS
from latentcast.source import Annotation, BadRecord, RecordRef

FOLDS = 10


def stable_fold(name: str) -> int:
    """A fold from 1 to 10 that depends on the name alone, on every machine and for ever."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "big") % FOLDS


def held_out_folds(splits: Iterable[str | None]) -> frozenset[int]:
    """The folds of the held-out splits among those that somebody named."""
    named = set(splits)
    return frozenset(
        fold for split in ("validation", "test") if split in named for fold in SPLITS[split]
    )


HELD_OUT = held_out_folds(SPLITS)
"""Where every split is named."""


def training_fold(name: str, held_out: frozenset[int]) -> int:
    """The fold of a patient or record that trains: a tenth each goes to a held-out split that
    nobody named, and what a hash would hold out for one that is named goes back to training."""
    fold = stable_fold(name)
    return fold % 8 + 1 if fold in held_out else fold


class Folds:
    """Fold of each record of a source.

    A held-out split that the source has not is a tenth of its training records, by a hash of the
    patient (of the record where it has none): one patient's records stay together.
    """

    def __init__(self, refs: Iterable[RecordRef]) -> None:
        self._held_out = held_out_folds(ref.split for ref in refs)

    def of(self, ref: RecordRef, patient_id: str = "", annotation: Annotation | None = None) -> int:
        """Raises BadRecord: the source gives a fold that is none."""
        if annotation is not None and annotation.fold is not None:
            if not 1 <= annotation.fold <= FOLDS:
                raise BadRecord(f"fold is {annotation.fold}, must be 1 to {FOLDS}")
            return annotation.fold
        if ref.split in ("validation", "test"):
            return SPLITS[ref.split][0]
        return training_fold(patient_id or ref.record_id, self._held_out)
