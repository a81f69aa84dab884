"""``index.npz``: whether its columns fit the records and the shards, so none is read beyond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.labels import Labels

Array = npt.NDArray[Any]

_BOUNDARIES = ("metadata_offset", "label_indptr")
"""Columns of one value more than there are records: where each begins and the last one ends."""
_VALUES = ("label_indices", "label_values", "label_codes")
"""Columns of as many values as there are labels."""
_KINDS = {"record_id": "SU", "patient_id": "U", "label_codes": "U", "label_values": "f"}


def check_columns(columns: Mapping[str, Array], records: int) -> None:
    """Raises ValueError: a column is of another type, or not of as many values as records."""
    for name, column in columns.items():
        if column.dtype.kind not in _KINDS.get(name, "iu"):
            raise ValueError(f"the column {name} holds {column.dtype}")
        if name == "invalid":
            fits = column.ndim == 2 and column.shape[1] == 4
        elif name in _BOUNDARIES:
            fits = column.shape in ((records + 1,), (0,))
            if (np.diff(column) < 0).any() or (column[:1] != 0).any():
                raise ValueError(f"the column {name} does not ascend from 0")
        else:
            fits = column.ndim == 1 and (name in _VALUES or len(column) == records)
        if not fits:
            raise ValueError(
                f"the column {name} is {column.shape}, and there are {records} records"
            )


def check_places(columns: Mapping[str, Array], shards: Sequence[Array], *, single: bool) -> None:
    """Whether every record lies within its shard.

    Args:
        single: a record is one entry of the shard's first axis, not ``length`` of them.

    Raises:
        ValueError: one does not.
    """
    shard, offset, length = (columns[name] for name in ("shard", "offset", "length"))
    if (shard < 0).any() or (shard >= len(shards)).any():
        raise ValueError(f"a record lies in a shard that is none of the {len(shards)}")
    extent = np.array([len(array) for array in shards], dtype=np.int64)[shard]
    taken = np.ones_like(length) if single else length
    # Without adding: the sum of two damaged numbers may be beyond int64.
    if ((taken < 0) | (taken > extent) | (offset < 0) | (offset > extent - taken)).any():
        raise ValueError("a record lies beyond the end of its shard")


def check_runs(invalid: Array, lengths: Array, leads: int) -> None:
    """Raises ValueError: a stretch that is not valid is of no record, lead or sample there is."""
    record, lead, start, stop = invalid.T
    if (record < 0).any() or (record >= len(lengths)).any() or (np.diff(record) < 0).any():
        raise ValueError("a stretch that is not valid is of no record")
    wrong = (lead < 0) | (lead >= leads) | (start < 0) | (stop < start) | (stop > lengths[record])
    if wrong.any():
        raise ValueError("a stretch that is not valid lies outside its record")


def check_labels(labels: Labels) -> None:
    """Raises ValueError: a label is none of the codes, or of no record."""
    count = len(labels.indices)
    if len(labels.values) != count or labels.indptr[-1:].tolist() != [count]:
        raise ValueError(f"{count} labels, and {len(labels.values)} values of them")
    if ((labels.indices < 0) | (labels.indices >= len(labels.codes))).any():
        raise ValueError(f"a label is none of the {len(labels.codes)} codes")
