"""Test recordings some leads of which are missing, for heads that were fitted on all leads."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.signals.recording import INVALID

Ints = npt.NDArray[np.int64]


class WithoutLeads(Store):
    """A store of recordings as it would be without some leads of each: their samples are invalid,
    as those of a recording that never had them.

    Which leads are missing follows from the seed and the id of the record alone; with the same seed
    a smaller number is a part of a larger one.

    Attributes:
        count: of the leads that are missing.
        about: ascending, the records that are read.
    """

    def __init__(self, store: Store, count: int, seed: int, about: Ints) -> None:
        """Raises LatentcastError: it has no such number of leads to do without: a token counts
        where half of its values were measured."""
        if store.modality != "ecg":
            raise LatentcastError(
                f"{store.path}: holds images, which have no leads; leave out --drop-leads"
            )
        half = len(store.leads) // 2
        if not 0 < count <= half:
            fix = f"give 1 to {half}" if half else "leave this out"
            raise LatentcastError(
                f"--drop-leads {count}: a token needs half of the {len(store.leads)} leads of "
                f"{store.path}; {fix}"
            )
        super().__init__(store.path, store.manifest)
        self.folds, self.patient_ids = store.folds, store.patient_ids
        self.count, self.seed, self.about = count, seed, about
        missing = np.zeros((len(store), len(store.leads)), dtype=bool)
        for row in about.tolist():
            stream = randomness.key(seed, "missing leads", str(store.record_ids[row]))
            missing[row, randomness.permutation(stream, len(store.leads))[:count]] = True
        self._missing = missing

    def take(
        self,
        rows: npt.ArrayLike,
        starts: npt.ArrayLike | None = None,
        length: int | None = None,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        samples = super().take(rows, starts, length, out)
        np.copyto(samples, INVALID, where=self._missing[np.asarray(rows)][:, None, :])
        return samples

    @property
    def files(self) -> dict[str, str]:
        """With what tells it from the store with all leads."""
        about = hashlib.sha256(self.about.tobytes()).hexdigest()
        return super().files | {"missing leads": f"{self.count}, seed {self.seed}, {about}"}
