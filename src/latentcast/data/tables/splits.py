"""Folds drawn by patient, so that each label has its share of positives in every split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from latentcast.data.folds import FOLDS


def stratified_folds(
    patients: Sequence[str], positives: npt.NDArray[np.bool_], seed: int
) -> npt.NDArray[np.int16]:
    """A fold from 1 to 10 for each record, ``(N,)``; all records of a patient have the same.

    Patients with the rarest label come first, each into the fold that lacks most of that label,
    among equals into the one that lacks most records (iterative stratification, Sechidis et al.
    2011, over patients instead of records).

    Args:
        patients: of each of the ``N`` records.
        positives: ``(N, labels)``.
        seed: decides the order of patients that are alike; nothing else is drawn.
    """
    from latentcast import randomness  # loads torch, which an ingest without a table needs not

    members = defaultdict[str, list[int]](list)
    for row, patient in enumerate(patients):
        members[patient].append(row)
    names = sorted(members)
    counts = np.array([positives[members[name]].sum(axis=0) for name in names], dtype=np.float64)
    counts = counts.reshape(len(names), -1)
    sizes = np.array([len(members[name]) for name in names], dtype=np.float64)
    order = randomness.permutation(randomness.key(seed, "stratified folds"), len(names))
    lacking = np.tile(counts.sum(axis=0) / FOLDS, (FOLDS, 1))
    room = np.full(FOLDS, sizes.sum() / FOLDS)
    folds = np.zeros(len(patients), dtype=np.int16)
    waiting = np.ones(len(names), dtype=np.bool_)
    while waiting.any():
        left = counts[waiting].sum(axis=0)
        rare = int(np.argmin(np.where(left > 0, left, np.inf))) if (left > 0).any() else None
        for patient in order[waiting[order]]:
            if rare is not None and not counts[patient, rare]:
                continue
            need = room if rare is None else lacking[:, rare]
            best = np.flatnonzero(need == need.max())
            fold = int(best[np.argmax(room[best])])
            lacking[fold] -= counts[patient]
            room[fold] -= sizes[patient]
            folds[members[names[patient]]] = fold + 1
            waiting[patient] = False
    return folds
