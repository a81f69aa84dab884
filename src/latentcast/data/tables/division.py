"""Patients and folds that a label table gives to the records of a source before they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from latentcast.data.folds import HELD_OUT, training_fold
from latentcast.data.manifest import SPLITS
from latentcast.data.tables.attached import positives_of
from latentcast.data.tables.file import TableFile
from latentcast.data.tables.match import Match, match, patients_of, refuse_shared_patients
from latentcast.data.tables.splits import stratified_folds
from latentcast.source import RecordRef


@dataclass(frozen=True)
class Division:
    """Patient and fold by record, fold by patient; nothing without a table.

    Attributes:
        patients: patient by record id.
        folds: fold by record id.
        folds_of_patients: fold by patient, for records without a row of their own.
        held_out: folds of the held-out splits that the table has, where it divides the records:
            whoever it does not name trains, and a held-out split that it has not is a tenth of
            those who train, by patient.
    """

    patients: dict[str, str] = field(default_factory=dict)
    folds: dict[str, int] = field(default_factory=dict)
    folds_of_patients: dict[str, int] = field(default_factory=dict)
    held_out: frozenset[int] | None = None

    def patient_of(self, record_id: str, named: str) -> str:
        """The patient that the source names, else the table's."""
        return named or self.patients.get(record_id, "")

    def fold_of(self, record_id: str, patient: str) -> int | None:
        """The fold that the table gives; None where the source and its hash decide."""
        fold = self.folds.get(record_id) or self.folds_of_patients.get(patient)
        if self.held_out is None or not (fold is None or self.held_out < HELD_OUT):
            return fold
        trains = fold is None or fold in SPLITS["train"]
        # Named as by patients_of, so that the table gives the same folds to a store that exists.
        name = patient or f"record {record_id}"
        return training_fold(name, self.held_out) if trains else fold

    @classmethod
    def of(cls, table: TableFile, refs: Sequence[RecordRef], seed: int) -> Division:
        """The table's ``split`` or ``fold``; without one, but with patients, folds that are drawn
        by patient and label; without patients nothing: those of the source are not read yet.

        Raises:
            LatentcastError: the table does not fit the source.
        """
        if table.record is None:
            return cls._by_patient(table)
        names = [ref.record_id for ref in refs]
        matched = match(table, names, [""] * len(names))
        rows = [(name, table.rows[r]) for name, r in zip(names, matched.row.tolist(), strict=True)
                if r >= 0]  # fmt: skip
        patients = {name: patient for name, row in rows if (patient := table.patient_of(row))}
        if table.split is not None or table.fold is not None:
            folds = {name: fold for name, row in rows if (fold := table.fold_of(row)) is not None}
        elif patients and all(ref.split is None for ref in refs):
            folds = cls._drawn(table, matched, names, seed)
        else:
            return cls(patients)
        _refuse_shared(table, patients, folds)
        shared = {patients[name]: fold for name, fold in folds.items() if name in patients}
        held_out = table.held_out
        return cls(patients, folds, shared, HELD_OUT if held_out is None else held_out)

    @classmethod
    def _by_patient(cls, table: TableFile) -> Division:
        folds = {
            patient: fold
            for row in table.rows
            if (patient := table.patient_of(row)) and (fold := table.fold_of(row)) is not None
        }
        held_out = table.held_out
        return cls(
            folds_of_patients=folds,
            held_out=None if not folds else HELD_OUT if held_out is None else held_out,
        )

    @classmethod
    def _drawn(
        cls, table: TableFile, matched: Match, names: Sequence[str], seed: int
    ) -> dict[str, int]:
        owners = patients_of(table, matched.row, names, [""] * len(names))
        folds = stratified_folds(owners, positives_of(table, matched), seed)
        chosen = np.flatnonzero(matched.row >= 0).tolist()
        return {names[place]: int(folds[place]) for place in chosen}


def _refuse_shared(table: TableFile, patients: dict[str, str], folds: dict[str, int]) -> None:
    """Raises LatentcastError: a patient has records in two splits; said before any is read."""
    named = [name for name in folds if name in patients]
    of = np.array([folds[name] for name in named], dtype=np.int64)
    rows = {split: np.flatnonzero(np.isin(of, SPLITS[split])) for split in SPLITS}
    refuse_shared_patients(table.path, rows, [patients[name] for name in named])
