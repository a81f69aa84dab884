"""What looks wrong in a store that was just made, in sentences: its unit, its splits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentcast.data.folds import stable_fold
from latentcast.data.store import Store

LEAST, MOST = 0.02, 50.0
"""Millivolts that the largest lead of an ECG spans: fetal and paced ones lie well between."""
_LOOKED_AT = 200


def doubts(store: Store) -> Iterator[str]:
    """One sentence for each thing that whoever made the store should look at."""
    if store.modality == "ecg" and store.signal == "ecg":
        span = _median_span(store)
        if not LEAST <= span <= MOST:
            yield (
                f"half of the records span {span:.3g} mV or {'less' if span < LEAST else 'more'}, "
                "which no ECG does; check the gain, or the --unit of an array"
            )
        elif _standardised(store):
            yield (
                "every lead has mean 0 and standard deviation 1, in mV; were the ECGs normalised "
                "over the data set before? Training expects them as measured"
            )
    if store.modality == "ecg" and (unnamed := _by_record(store)):
        yield (
            f"{unnamed:,} of {len(store):,} records name no patient and are divided one by one, so "
            "that records of one patient may be trained and tested on; where a patient has "
            "several, give --patients with a pattern of the paths, or --metadata with a table (to "
            "write_store patient_ids)"
        )
    if empty := [split for split in store.manifest.splits if not len(store.rows(split))]:
        yield (
            f"no record is in the split{'s' * (len(empty) > 1)} {' and '.join(empty)}, and a probe "
            "needs all three; name it for some records, where the source or its table names "
            "splits, or ingest more records, of more patients"
        )


def _by_record(store: Store) -> int:
    """Records without a patient, where the hash of each record's own id decided about its fold."""
    rows = np.flatnonzero(store.patient_ids == "")
    folds = store.folds[rows].tolist()
    own = [stable_fold(name) for name in store.record_ids[rows].tolist()]
    return len(rows) if len(rows) > 1 and folds == own else 0


def _median_span(store: Store) -> float:
    """Of what the largest lead of a record spans, in mV, over records all through the store."""
    spans = []
    for row in np.linspace(0, len(store) - 1, min(len(store), _LOOKED_AT)).astype(int):
        recording = store.recording(int(row))
        signal = np.where(recording.valid, recording.signal, np.nan)
        spans.append(np.fmax.reduce(np.fmax.reduce(signal, 1) - np.fmin.reduce(signal, 1)))
    return float(np.median(spans))


def _standardised(store: Store) -> bool:
    """Whether ECGs look as if a data set's mean and deviation had been taken off each lead."""
    statistics = store.manifest.statistics
    return all(mean is not None and abs(mean) < 0.02 for mean in statistics.mean) and all(
        std is not None and abs(std - 1) < 0.05 for std in statistics.std
    )
