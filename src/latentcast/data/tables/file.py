"""A label table as a file, and which of its columns name record, patient and split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from latentcast.data.folds import FOLDS, held_out_folds
from latentcast.data.manifest import SPLITS
from latentcast.errors import LatentcastError, nearest
from latentcast.signals.readers.comments.field import patient_of
from latentcast.signals.readers.numbers import integral
from latentcast.signals.readers.roles import Role, columns_of
from latentcast.signals.readers.table import check_cells, read_rows
from latentcast.source import SPLIT_NAMES


@dataclass(frozen=True)
class TableFile:
    """The cells of a table, as text.

    Attributes:
        path: the file.
        rows: a mapping from column to cell for each row.
        record, patient, split, fold: the columns that name these; None where there is none.
        columns: all others, which are labels.
        lines: what was taken for what, in sentences.
    """

    path: Path
    rows: tuple[Mapping[str, str], ...]
    record: str | None
    patient: str | None
    split: str | None
    fold: str | None
    columns: tuple[str, ...]
    lines: tuple[str, ...] = field(default=())

    def patient_of(self, row: Mapping[str, str]) -> str:
        """The patient of a row; ``""`` where it names none."""
        return "" if self.patient is None else patient_of(row[self.patient]) or ""

    def fold_of(self, row: Mapping[str, str]) -> int | None:
        """1 to 10; None where the table has neither fold nor split for the row.

        Raises:
            LatentcastError: the cell is neither a split nor a fold.
        """
        if self.fold is not None and (text := row[self.fold].strip()):
            try:
                fold = integral(text)
            except ValueError:
                fold = 0
            if not 1 <= fold <= FOLDS:
                raise self._bad(self.fold, text, f"a fold from 1 to {FOLDS}")
            return fold
        if self.split is not None and (text := row[self.split].strip().lower()):
            if text not in SPLIT_NAMES:
                raise self._bad(self.split, text, "train, validation or test")
            return SPLITS[SPLIT_NAMES[text]][0]
        return None

    @property
    def held_out(self) -> frozenset[int] | None:
        """The folds of the held-out splits that the ``split`` column names; None without such a
        column, and where a ``fold`` column divides the records one by one."""
        if self.split is None or self.fold is not None:
            return None
        cells = {row[self.split].strip().lower() for row in self.rows}
        return held_out_folds(SPLIT_NAMES.get(cell) for cell in cells)

    def lacks(self, split: str) -> bool:
        """Whether the table divides by a ``split`` column in which this held-out one is missing."""
        return self.held_out is not None and not self.held_out & set(SPLITS[split])

    def _bad(self, column: str, text: str, needed: str) -> LatentcastError:
        return LatentcastError(
            f"{self.path}: column '{column}' holds '{text[:40]}', which is not {needed}; correct "
            "the cell or leave it empty"
        )


def read_table(
    path: str | Path,
    record: str | None = None,
    patient: str | None = None,
    columns: Sequence[str] = (),
    *,
    of_labels: bool = True,
) -> TableFile:
    """Read a ``.parquet``, or a CSV of any separator.

    Args:
        record: the column of record ids or file names; by default the one of a usual name, see
            :mod:`latentcast.signals.readers.roles`.
        patient: the column of patient ids; by default the one of a usual name.
        columns: the columns of labels; by default all that name neither record, patient nor split.
        of_labels: a table of labels; one of patients or metadata needs none, and its columns are
            chosen by their names alone.

    Raises:
        LatentcastError: no table, a column that does not exist, two that could name the record,
            none that names a record or patient, a row that was cut off.
    """
    path = Path(path)
    header, rows = _cells(path)
    if not rows:
        raise LatentcastError(f"{path}: holds no rows; give it one for each labelled record")
    for name in (record, patient, *columns):
        if name is not None and name not in header:
            raise LatentcastError(f"{path}: has no column '{name}'; {nearest(name, header)}")
    ids = [name for name in columns_of(header, "record") if name != patient]
    if record is None and len(ids) > 1 and of_labels:
        raise LatentcastError(
            f"{path}: columns {', '.join(ids)} could name the record; choose one, such as "
            f"--id-column {ids[0]}"
        )
    record = record or next(iter(ids), None)
    others = [name for name in header if name != record]
    found: dict[Role, str | None] = {
        role: next(iter(columns_of(others, role)), None) for role in ("patient", "split", "fold")
    }
    patient, split, fold = patient or found["patient"], found["split"], found["fold"]
    if record is None and patient is None:
        raise LatentcastError(
            f"{path}: no column names the record or the patient; call it record_id, or, of labels, "
            f"name it with --id-column COLUMN (it has {', '.join(header[:8])}, all taken for data)"
        )
    naming = {record, patient, split, fold, *ids}
    labels = tuple(columns) or tuple(name for name in header if name not in naming)
    if not labels and of_labels:
        raise LatentcastError(f"{path}: has no column of labels; add one, with a name of its own")
    roles = {"record": record, "patient": patient, "split": split, "fold": fold}
    taken = [f"{role} from column '{name}'" for role, name in roles.items() if name]
    line = f"{path}: {', '.join(taken)}"
    table = TableFile(path, rows, record, patient, split, fold, labels, (line,))
    missing = [name for name in ("validation", "test") if table.lacks(name)]
    lines = [line] + [f"{name}: a tenth of the training rows, by patient; the table names none"
                      for name in missing]  # fmt: skip
    return replace(table, lines=tuple(lines))


def _cells(path: Path) -> tuple[tuple[str, ...], tuple[dict[str, str], ...]]:
    header, rows = read_rows(path)
    for number, row in enumerate(rows, start=2):
        try:
            check_cells(row)
        except ValueError as error:
            raise LatentcastError(f"{path}, line {number}: {error}") from error
    return header, tuple(rows)
