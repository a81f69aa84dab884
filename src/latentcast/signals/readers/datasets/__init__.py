"""Public data sets of WFDB records, recognised by what lies in their folder.

What the reader of any WFDB folder does not know of them: whose a record is, and labels outside of
its header. Another one is a file here with ``recognise``, and a line in :data:`DATA_SETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from latentcast.signals.readers.datasets import challenge, cinc2011, ludb, mit_bih, ptb
from latentcast.signals.readers.datasets.dataset import DataSet
from latentcast.source import RecordRef

DATA_SETS: tuple[Callable[[Path, Sequence[RecordRef]], DataSet | None], ...] = (
    ptb.recognise,
    mit_bih.recognise,
    cinc2011.recognise,
    ludb.recognise,
    challenge.recognise,
)


def data_set_of(root: Path, refs: Sequence[RecordRef]) -> DataSet | None:
    """The data set that a folder holds; None for any other."""
    return next((found for of in DATA_SETS if (found := of(root, refs)) is not None), None)
