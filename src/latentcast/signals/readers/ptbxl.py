"""PTB-XL: its table of patients, folds and SCP codes, and its folder of WFDB records.

Source: Wagner et al., PTB-XL, PhysioNet 1.0.3, doi 10.13026/kfzx-aw45.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from latentcast.errors import LatentcastError
from latentcast.files import inside
from latentcast.signals.readers.numbers import integral, number
from latentcast.signals.readers.table import Row, check_cells, read_rows
from latentcast.source import Annotation, BadRecord, RecordRef, find_files, record_file

Number = TypeVar("Number", int, float, str)

TABLE = "ptbxl_database.csv"
_NEEDED = ("ecg_id", "patient_id", "scp_codes", "strat_fold")
_NOT_METADATA = frozenset({"patient_id", "scp_codes", "strat_fold"})
_NUMBERS = frozenset({"age", "height", "weight"})


def record_id(ecg_id: str) -> str:
    """The id of a PTB-XL record in every store, at any rate: ``"7"`` -> ``"00007"``.

    Raises:
        ValueError: it is no number.
    """
    return f"{integral(ecg_id):05d}"


def parse_codes(text: str) -> dict[str, float]:
    """The ``scp_codes`` cell: a Python dict of code to likelihood (0.0 means unknown, not absent).

    Raises:
        ValueError: the cell is no such dict.
    """
    try:
        codes = ast.literal_eval(text)
        return {str(code): number(str(likelihood)) for code, likelihood in codes.items()}
    # Any cell may be met here, and the parser answers deep nesting with the last two.
    except (
        ValueError, SyntaxError, TypeError, AttributeError, OverflowError, MemoryError,
        RecursionError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"scp_codes {text[:40]!r} is no dict of code to likelihood ({type(error).__name__})"
        ) from error


def annotation(row: Row) -> Annotation:
    """One line of the table; empty cells are left out of the metadata.

    An age of 300 is PTB-XL's mark for "over 89" and stays as it is.

    Raises:
        ValueError: a cell is missing or cannot be read.
    """
    check_cells(row)
    metadata: dict[str, object] = {}
    for column, cell in row.items():
        if cell and column not in _NOT_METADATA:
            metadata[column] = _named(column, number, cell) if column in _NUMBERS else cell
    patient = row["patient_id"]
    return Annotation(
        patient_id=str(_named("patient_id", integral, patient)) if patient else None,
        fold=_named("strat_fold", integral, row["strat_fold"]),
        labels=parse_codes(row["scp_codes"]),
        metadata=metadata,
    )


def _named(column: str, parse: Callable[[str], Number], cell: str) -> Number:
    try:
        return parse(cell)
    except ValueError as error:
        raise ValueError(f"{column} {error}") from None


def read_table(path: Path) -> list[Row]:
    """The rows of ``ptbxl_database.csv``, as text, in the order of the file.

    Raises:
        LatentcastError: the file is missing, a needed column is, or it is no text.
    """
    columns, rows = read_rows(path)
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise LatentcastError(
            f"{path}: has no column {', '.join(missing)}; use the table of PTB-XL 1.0.x"
        )
    return rows


def identify(row: Row, line: int) -> tuple[str, Annotation | None, str | None]:
    """Record id and annotation of a row; ``"line <n>"`` and the problem where it cannot be read."""
    try:
        return _named("ecg_id", record_id, row["ecg_id"] or ""), annotation(row), None
    except ValueError as error:
        return f"line {line}", None, f"{TABLE} line {line}: {error}"


def _folders(parent: str | Path) -> list[str]:
    """In a folder; none where it cannot be listed, which its own listing says."""
    try:
        with os.scandir(parent) as entries:
            return [entry.path for entry in entries if entry.is_dir()]
    except OSError:
        return []


def folder_of(root: Path) -> tuple[Path, str] | None:
    """The folder of PTB-XL's table, and how the paths in it begin that lie in ``root``.

    It is ``root`` itself, one of the two above, where the table lists files of ``root``, or the
    one below that has a table, where all headers below ``root`` are in it.

    Raises:
        LatentcastError: one folder below has the table, and all headers lie beside that folder.
    """
    if (root / TABLE).exists():
        return root, ""
    real = root.resolve()
    for folder in real.parents[:2]:
        below = f"{real.relative_to(folder).as_posix()}/"
        path = folder / TABLE
        if path.is_file() and columns_present(path, read_table(path), below):
            return folder, below
    folders = folders_at(root)
    if len(folders) != 1:
        return None
    (folder,) = folders
    inside_it = f"{folder.relative_to(root).as_posix()}/"
    inside = [file.startswith(inside_it) for file in find_files(root, "*.hea")[0]]
    if inside and not any(inside):
        raise LatentcastError(
            f"{root}: {TABLE} lies in {folder}, the records beside that folder; move the table to "
            f"{root}"
        )
    return (folder, "") if all(inside) else None


def folders_at(root: Path) -> list[Path]:
    """The folder ``root`` where it has a table, else those below it, at most two levels."""
    if (root / TABLE).exists():
        return [root]
    tops = _folders(root)
    lower = [*tops, *(folder for top in tops for folder in _folders(top))]
    return sorted(Path(folder) for folder in lower if (Path(folder) / TABLE).exists())


class _Files:
    """Headers below a folder, as the cells of a table name them.

    Tables that were edited have other separators, an ending, or a folder of another machine before
    the path.
    """

    def __init__(self, root: Path, below: str) -> None:
        self.root, self.below = root, below
        self._tops = {path.name for path in root.iterdir()}

    def named(self, cell: str) -> str:
        """The path of a header in the folder, whether it is there or not."""
        name = cell.strip().replace("\\", "/").removesuffix(".hea").removesuffix(".dat")
        parts = PurePosixPath(name).parts
        for begin, part in enumerate(parts):
            file = f"{'/'.join(parts[begin:])}.hea"
            if (part in self._tops or file in self._tops) and _problem(self.root, file) is None:
                return file
        return f"{name}.hea"

    def present(self, cell: str) -> bool:
        """Whether it is one of those to be read."""
        file = self.named(cell)
        return file.startswith(self.below) and _problem(self.root, file) is None


def columns_present(path: Path, rows: list[Row], below: str = "") -> list[str]:
    """The columns of the table of which a file is there."""
    files = _Files(path.parent, below)
    return [
        column
        for column in ("filename_lr", "filename_hr")
        if any(files.present(row.get(column) or "") for row in rows)
    ]


def file_column(path: Path, rows: list[Row], sampling_rate: float | None, below: str = "") -> str:
    """Which of the two sets of files to read: ``filename_lr`` (100 Hz) or ``filename_hr`` (500).

    Where both lie in the folder the given rate decides; nothing is assumed in its place.

    Args:
        below: how the paths of the files begin that are read; empty for all.

    Raises:
        LatentcastError: both lie there and no rate is given, or none does.
    """
    present = columns_present(path, rows, below)
    if not present:
        raise LatentcastError(
            f"{path}: none of the records it lists is in {path.parent / below}; unpack records100 "
            "or records500 beside it"
        )
    if len(present) == 1:
        return present[0]
    if sampling_rate is None:
        raise LatentcastError(
            f"{path.parent}: holds every record at 100 Hz and at 500 Hz; choose with --fs 100 or "
            "--fs 500"
        )
    return "filename_lr" if sampling_rate <= 100 else "filename_hr"


def _problem(root: Path, name: str) -> str | None:
    """Why a file that the table lists cannot be read; None where it can."""
    try:
        record_file(root, name)
    except BadRecord as error:
        if str(error).startswith(f"{name!r} is missing"):
            return f"header {name} is missing, {TABLE} lists it"
        return f"header {name}, which {TABLE} lists: {error}"
    return None


def list_records(
    root: Path, sampling_rate: float | None, below: str = ""
) -> tuple[list[RecordRef], dict[str, Annotation]]:
    """The records of a PTB-XL folder, and the annotation of each by record id.

    Args:
        below: how the paths of the files begin that are read, such as ``records100/``.

    A row without its file and a file without its row are listed with the problem, so that neither
    goes missing unseen.
    """
    table = root / TABLE
    rows = read_table(inside(root, TABLE))
    column = file_column(table, rows, sampling_rate, below)
    refs: list[RecordRef] = []
    annotations: dict[str, Annotation] = {}
    listed, files = set(), _Files(root, below)
    for line, row in enumerate(rows, start=2):
        # A row that is cut off may have lost this cell too.
        file = files.named(row[column]) if row[column] else TABLE
        if file != TABLE and not file.startswith(below):
            continue
        listed.add(file)
        key, found, problem = identify(row, line)
        if found is not None:
            annotations.setdefault(key, found)
            if file == TABLE:
                problem = f"{TABLE} line {line}: {column} is empty"
            else:
                problem = _problem(root, file)
        refs.append(RecordRef(key, file, problem=problem))
    tops = {PurePath(file).parts[0] for file in listed if _problem(root, file) is None}
    for top in sorted(tops):
        for name in find_files(root / top, "*.hea")[0]:
            file = f"{top}/{name}"
            if file not in listed and file.startswith(below):
                stem = PurePath(file).stem
                refs.append(RecordRef(stem, file, problem=f"is not listed in {TABLE}"))
    refs.sort(key=lambda ref: (ref.file, ref.record_id))
    return refs, annotations
