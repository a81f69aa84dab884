"""Row numbers that a caller gives: whole, and of this store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError


class NoSuchRow(LatentcastError, IndexError):
    """A row that a store does not have; an IndexError, so that a loop over a store ends."""

    @classmethod
    def of(cls, path: Path, rows: int, row: int) -> NoSuchRow:
        """Made here and not by ``__init__``: an error of a reader process is sent as its text."""
        return cls(f"{path}: has no row {row}; it has {rows}, give one from 0 to {rows - 1}")


def whole_numbers(values: npt.ArrayLike, name: str) -> npt.NDArray[np.int64]:
    """``(n,)`` int64; a mask of truth values is none, and 3.7 is not row 3."""
    numbers = np.asarray(values)
    if numbers.ndim == 0 or (numbers.size and numbers.dtype.kind not in "iu"):
        what = "None" if values is None else f"of the type {numbers.dtype}"
        raise LatentcastError(f"{name}: is {what}; give a list of whole numbers")
    return numbers.astype(np.int64, copy=False)
