"""CODE-15%: 345,779 recordings of 233,770 patients in 18 HDF5 files, with ``exams.csv``.

400 Hz, the twelve leads in their usual order, seven or ten seconds between zeros that fill up 4,096
samples. Its documents give the unit as 1e-4 V and, in the same sentence, as mV; its authors advise
mV, and the PhysioNet Challenge of 2025 reads it so. Such a thing is asked for.

Source: Ribeiro et al. 2021, https://zenodo.org/records/4916206.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers.arrays import LAYOUTS
from latentcast.signals.readers.hdf5 import Hdf5Source
from latentcast.signals.readers.numbers import number
from latentcast.signals.readers.table import (
    Packed,
    Row,
    check_cells,
    each_row,
    not_a_table,
    read_header,
)
from latentcast.signals.recording import Recording
from latentcast.source import Annotation, BadRecord, RecordRef

TABLE = "exams.csv"
RATE = 400.0
LABELS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
_METADATA = ("normal_ecg", "death", "timey", "nn_predicted_age")
_TRUE, _FALSE = {"true", "1", "1.0"}, {"false", "0", "0.0", ""}


class Code15(Hdf5Source):
    """The recordings of a folder of HDF5 files with ``exams.csv``.

    Args:
        path: the folder.
        unit: of the samples, which the data set leaves open.

    Raises:
        LatentcastError: the unit is not given, or a file or the table cannot be read.
    """

    kind = "code-15"
    title = "CODE-15%"
    about = "patients are its patient_id, labels its six columns of diagnoses"

    def __init__(self, path: Path, *, unit: str | None = None) -> None:
        if unit is None:
            raise LatentcastError(
                f"{path}: is {self.title}, which states its unit as 1e-4 V and as mV at once; give "
                "--unit mV, as its authors advise, and look at the amplitudes"
            )
        super().__init__(
            path, sampling_rate=RATE, leads=CANONICAL_LEADS, unit=unit, layout=LAYOUTS[1]
        )
        # Which of them the store is to have is free to choose.
        self.leads = None
        self.name = path.resolve().name
        table = path / TABLE
        self._rows = Packed(table, read_header(table), each_row(table), "exam_id")
        named = sum(ref.record_id in self._rows for ref in self._refs)
        self.remarks = (
            f"{path} is read as {self.title}: {self.about}; {TABLE} has a row for {named:,} of "
            f"{len(self._refs):,} recordings, and {len(self._rows) - named:,} rows without one",
        )

    @classmethod
    def detects(cls, path: Path) -> bool:
        table = path / TABLE
        if not path.is_dir() or not (
            not_a_table(table) or {"exam_id", "trace_file"} <= {*read_header(table)}
        ):
            return False
        return super().detects(path)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(super().fingerprint().encode())
        with (self.root / TABLE).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        recording, _ = super().read(ref)
        if ref.record_id not in self._rows:
            return recording, Annotation()
        try:
            row = self._rows[ref.record_id]
            check_cells(row)
            return recording, self.annotation(row)
        except ValueError as error:
            raise BadRecord(f"{TABLE}, exam_id {ref.record_id}: {error}") from None

    def annotation(self, row: Row) -> Annotation:
        """What the table has of a recording.

        Raises:
            ValueError: a cell cannot be read.
        """
        metadata: dict[str, Any] = {name: row[name] for name in _METADATA if row.get(name)}
        if age := row.get("age"):
            metadata["age"] = number(age)
        if male := row.get("is_male"):
            metadata["sex"] = "male" if is_true(male) else "female"
        labels = {name: 1.0 for name in LABELS if is_true(row.get(name, ""))}
        return Annotation(row.get("patient_id") or None, labels=labels, metadata=metadata)


def is_true(cell: str) -> bool:
    """Raises ValueError: the cell is neither true nor false."""
    lower = cell.strip().lower()
    if lower not in _TRUE | _FALSE:
        raise ValueError(f"'{cell[:40]}' is neither True nor False")
    return lower in _TRUE
