"""The labels of all records of a store: codes of recordings, classes of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, nearest

Ints = npt.NDArray[np.int64]


@dataclass(eq=False)
class Labels:
    """The codes of all records, sparse. A code is present whatever likelihood it carries.

    Attributes:
        codes: the vocabulary; sorted, or in the order that the source gives its classes.
        indptr, indices, values: CSR form; ``values`` are the likelihoods as the source gives them.
    """

    codes: tuple[str, ...]
    indptr: Ints
    indices: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]

    @classmethod
    def of_records(
        cls, records: Sequence[Mapping[str, float]], codes: tuple[str, ...] = ()
    ) -> Labels:
        """From code to likelihood of each record; ``codes`` are by default those that occur."""
        codes = codes or tuple(sorted({code for record in records for code in record}))
        position = {code: i for i, code in enumerate(codes)}
        ordered = [sorted(record.items()) for record in records]
        return cls(
            codes,
            np.cumsum([0, *map(len, ordered)], dtype=np.int64),
            np.array([position[code] for record in ordered for code, _ in record], dtype=np.int32),
            np.array([value for record in ordered for _, value in record], dtype=np.float32),
        )

    @classmethod
    def of_ids(cls, ids: Ints, codes: tuple[str, ...]) -> Labels:
        """From the one class of each record, -1 for none."""
        labelled = ids >= 0
        return cls(
            codes,
            np.concatenate([[0], np.cumsum(labelled, dtype=np.int64)]),
            ids[labelled].astype(np.int32),
            np.ones(int(labelled.sum()), dtype=np.float32),
        )

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def ids(self) -> Ints:
        """The position in ``codes`` of each record's one label; -1 where it has none or several."""
        single = np.diff(self.indptr) == 1
        ids = np.full(len(self), -1, dtype=np.int64)
        ids[single] = self.indices[self.indptr[:-1][single]]
        return ids

    def indicator(self, codes: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Presence ``(records, len(codes))``, 0.0 likelihood included.

        Raises:
            LatentcastError: no record carries the code; names the nearest one that is carried.
        """
        column = np.full(len(self.codes), -1)
        position = {code: i for i, code in enumerate(self.codes)}
        for j, code in enumerate(codes):
            if code not in position:
                raise LatentcastError(
                    f"label '{code}': no record of the store carries it; "
                    f"{nearest(code, self.codes)}"
                )
            column[position[code]] = j
        present = np.zeros((len(self), len(codes)), dtype=np.bool_)
        columns = column[self.indices]
        chosen = columns >= 0
        present[self._rows()[chosen], columns[chosen]] = True
        return present

    def of(self, row: int) -> dict[str, float]:
        """Code to likelihood of one record."""
        span = slice(int(self.indptr[row]), int(self.indptr[row + 1]))
        values = self.values[span].tolist()
        return {self.codes[i]: v for i, v in zip(self.indices[span], values, strict=True)}

    def counts(self, rows: Ints | None = None) -> dict[str, int]:
        """How many records (of ``rows``) carry each code, most frequent first."""
        chosen = np.ones(len(self), dtype=np.bool_)
        if rows is not None:
            chosen[:] = False
            chosen[rows] = True
        carried = np.bincount(self.indices[chosen[self._rows()]], minlength=len(self.codes))
        order = np.argsort(-carried, kind="stable")
        return {self.codes[i]: int(carried[i]) for i in order}

    def _rows(self) -> Ints:
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))
