"""SaMi-Trop: one recording of each of 1,631 patients, in ``exams.hdf5`` with ``exams.csv``.

As :mod:`~latentcast.signals.readers.datasets.code15`, but for the ids: recording i of the array is
row i of the table.

Source: Ribeiro et al. 2021, https://zenodo.org/records/4905618.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from latentcast.errors import LatentcastError
from latentcast.signals.readers.datasets.code15 import TABLE, Code15
from latentcast.signals.readers.table import Row, each_row, read_header
from latentcast.source import Annotation, RecordRef

FILE = "exams.hdf5"


class SamiTrop(Code15):
    """The recordings of a folder with ``exams.hdf5``; arguments as of :class:`Code15`."""

    kind = "sami-trop"
    title = "SaMi-Trop"
    about = "one recording of each patient, in the order of the table; it has no diagnoses"

    @classmethod
    def detects(cls, path: Path) -> bool:
        header = {*read_header(path / TABLE)} if path.is_dir() else set()
        return "exam_id" in header and "trace_file" not in header and (path / FILE).is_file()

    def _of_file(self, name: str) -> list[RecordRef]:
        refs = super()._of_file(name)
        rows: Iterable[Row] = each_row(self.root / TABLE)
        ids = [(row.get("exam_id") or "").strip() for row in rows]
        if len(ids) != len(refs):
            raise LatentcastError(
                f"{self.root / TABLE}: has {len(ids)} rows, {name} {len(refs)} recordings; restore "
                "the one that was changed, rows are in the order of the recordings"
            )
        return [replace(ref, record_id=own) for ref, own in zip(refs, ids, strict=True)]

    def annotation(self, row: Row) -> Annotation:
        return replace(super().annotation(row), patient_id=row["exam_id"])
