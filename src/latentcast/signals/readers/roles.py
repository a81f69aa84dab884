"""Which columns of a table name record, patient, split, fold and labels, however they are spelled.

``Patient ID``, ``patient_id``, ``PatientID`` and ``patient-id`` are one spelling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentcast.errors import LatentcastError
from latentcast.signals.readers import ptbxl
from latentcast.signals.readers.comments.field import codes_in, patient_of
from latentcast.signals.readers.numbers import integral
from latentcast.signals.readers.table import Row, check_cells
from latentcast.source import SPLIT_NAMES, Annotation, Split

Role = Literal["record", "patient", "split", "fold", "labels", "scp_codes"]
SPELLINGS: dict[Role, tuple[str, ...]] = {
    "record": (
        "recordid", "ecgid", "record", "recordname", "id", "file", "filename", "filepath", "path",
        "image", "imageid", "recording", "recordingid", "examid",
    ),
    "patient": (
        "patientid", "patient", "subjectid", "subject", "patientno", "patientnumber",
        "patientcode", "patid", "pid", "participantid", "participant", "mrn",
    ),
    "split": ("split", "subset", "partition"),
    "fold": ("fold", "stratfold", "foldid", "cvfold"),
    "labels": ("labels", "label", "dx", "codes"),
    "scp_codes": ("scpcodes",),
}  # fmt: skip
"""In the order in which they count, without case, blanks and signs."""
PERSON = {"age", "sex", "gender"}
FILE_COLUMNS = ("path", "filepath", "filename", "file")
"""Of the columns of records those that name a file, where a table is to give the files."""
OF_A_ROW = SPELLINGS["record"][:4]
"""Where the order of the rows names the record: the file of one may be that of many."""


def columns_of(header: Sequence[str], role: Role) -> list[str]:
    """The columns that a role may have, the most usual name first."""
    places = {spelling: place for place, spelling in enumerate(SPELLINGS[role])}
    found = [name for name in header if _plain(name) in places]
    return sorted(found, key=lambda name: places[_plain(name)])


def file_column(header: Sequence[str]) -> str | None:
    """The column that names the file of a record; None where there is none."""
    named = {_plain(name): name for name in reversed(header)}
    return next((named[plain] for plain in FILE_COLUMNS if plain in named), None)


def id_column(header: Sequence[str]) -> str | None:
    """The column of the ids of records, beside one of their files; None where there is none."""
    return next((c for c in columns_of(header, "record") if _plain(c) not in FILE_COLUMNS), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


@dataclass(frozen=True)
class Roles:
    """The column of each role, by role, and all ``others``, which are metadata."""

    columns: dict[Role, str]
    others: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, header: Sequence[str], *, in_order: bool = False) -> Roles:
        """Of a table of metadata; ``in_order`` where its rows are those of an array.

        Raises:
            LatentcastError: no column has a role or is about a person, so that the table was not
                understood.
        """
        roles: tuple[Role, ...] = ("record", "patient", "split", "fold", "labels", "scp_codes")
        columns = {role: found[0] for role in roles if (found := columns_of(header, role))}
        if in_order and _plain(columns.get("record", "")) not in OF_A_ROW:
            columns.pop("record", None)
        others = tuple(name for name in header if name not in columns.values())
        if not columns and not PERSON & {_plain(name) for name in header}:
            listed = ", ".join(f"'{name[:40]}'" for name in header[:12])
            raise LatentcastError(
                f"{path}: no column is understood: {listed} would all be metadata; call the one "
                "of the patient patient_id, and others record_id, fold, split or labels"
            )
        return cls(columns, others)

    def __str__(self) -> str:
        taken = [f"{role} from '{name}'" for role, name in self.columns.items()]
        if self.others:
            more = ", …" if len(self.others) > 6 else ""
            taken.append(f"metadata from {', '.join(map(repr, self.others[:6]))}{more}")
        return "; ".join(taken)

    def cell(self, row: Row, role: Role) -> str:
        """What a row has of a role; ``""`` where it has none, and for a patient who is nobody."""
        text = (row[self.columns[role]] or "").strip() if role in self.columns else ""
        return patient_of(text) or "" if role == "patient" else text

    def split(self, row: Row) -> Split | None:
        """Raises ValueError: the cell is no split."""
        text = self.cell(row, "split").lower()
        if text and text not in SPLIT_NAMES:
            raise ValueError(f"'{text[:40]}' is not train, validation or test")
        return SPLIT_NAMES[text] if text else None

    def annotation(self, row: Row) -> Annotation:
        """What a row has of a record; codes of ``labels`` are divided by ``;`` or ``|``.

        Raises:
            ValueError: a cell is missing, or cannot be read.
        """
        check_cells(row)
        labels = dict.fromkeys(codes_in(self.cell(row, "labels")), 1.0)
        if codes := self.cell(row, "scp_codes"):
            labels |= ptbxl.parse_codes(codes)
        fold = self.cell(row, "fold")
        return Annotation(
            patient_id=self.cell(row, "patient") or None,
            fold=integral(fold) if fold else None,
            labels=labels,
            metadata={name: row[name] for name in self.others if row[name]},
        )
