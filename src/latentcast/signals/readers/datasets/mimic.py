"""MIMIC-IV-ECG: 800,035 WFDB records of 161,352 patients, ten seconds at 500 Hz.

``record_list.csv`` has a path and a ``subject_id`` for each; ``machine_measurements.csv``, where it
is there, has the statements of the recorder, which are the labels, and its measurements.

Source: Gow et al. 2023, https://physionet.org/content/mimic-iv-ecg/1.0/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from latentcast.signals.channels import Signal
from latentcast.signals.readers.file_table import FileTable
from latentcast.signals.readers.numbers import number
from latentcast.signals.readers.table import Packed, check_cells, each_row, not_a_table, read_header
from latentcast.signals.recording import Recording
from latentcast.source import Annotation, BadRecord, RecordRef

RECORDS, MEASUREMENTS = "record_list.csv", "machine_measurements.csv"
_NUMBERS = (
    "rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis",
    "t_axis",
)  # fmt: skip
_UNMEASURED = 29999
"""What the recorder writes for an interval or an axis that it did not find."""


class MimicIvEcg(FileTable):
    """The records of a folder with ``record_list.csv``; arguments as of :class:`FileTable`."""

    kind = "mimic-iv-ecg"

    def __init__(
        self,
        path: Path,
        *,
        leads: Sequence[str] | None = None,
        signal: Signal = "ecg",
        verify_checksums: bool = True,
    ) -> None:
        super().__init__(
            path / RECORDS, leads=leads, signal=signal, verify_checksums=verify_checksums
        )
        self.name = path.resolve().name
        self._measured: Packed | None = None
        what = f"without {MEASUREMENTS} it has no labels"
        table = path / MEASUREMENTS
        if table.exists():
            header = read_header(table)
            reports = sorted(
                (name for name in header if name.startswith("report_")),
                key=lambda name: (len(name), name),
            )
            kept = (*reports, *(name for name in _NUMBERS if name in header))
            self._measured = Packed(table, kept, each_row(table), "study_id")
            named = (PurePosixPath(ref.file).stem in self._measured for ref in self._refs)
            what = (
                f"labels are the statements of the recorder in {MEASUREMENTS}, which has a row for "
                f"{sum(named):,} of {len(self._refs):,} records"
            )
        about = f"{path} is read as MIMIC-IV-ECG: patients are its subject_id; {what}"
        self.remarks = (about, *self.remarks[1:])

    @classmethod
    def detects(cls, path: Path) -> bool:
        # Something else under the name of the list is for its reader to refuse.
        return path.is_dir() and (
            not_a_table(path / RECORDS)
            or {"subject_id", "study_id", "path"} <= {*read_header(path / RECORDS)}
        )

    def fingerprint(self) -> str:
        digest = hashlib.sha256(super().fingerprint().encode())
        if self._measured is not None:
            with (self.root / MEASUREMENTS).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        recording, annotation = super().read(ref)
        study = PurePosixPath(ref.file).stem
        if self._measured is None or study not in self._measured:
            return recording, annotation
        row = self._measured[study]
        try:
            check_cells(row)
            found = measurements(row)
        except ValueError as error:
            raise BadRecord(f"{MEASUREMENTS}, study_id {study}: {error}") from None
        return recording, replace(
            annotation,
            labels=annotation.labels | found.labels,
            metadata=annotation.metadata | found.metadata,
        )


def measurements(row: dict[str, str]) -> Annotation:
    """Statements as labels, and in the metadata intervals in ms and axes in degrees.

    Raises:
        ValueError: a measurement is no number.
    """
    statements = [cell.strip() for name, cell in row.items() if name.startswith("report_")]
    metadata: dict[str, Any] = {}
    for name in _NUMBERS:
        if (cell := row.get(name, "").strip()) and (value := number(cell)) != _UNMEASURED:
            metadata[name] = value
    return Annotation(labels={text: 1.0 for text in statements if text}, metadata=metadata)
