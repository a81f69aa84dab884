"""PTB-XL: its table of patients, folds and SCP codes, and its folder of WFDB records.

Source: Wagner et al., PTB-XL, PhysioNet 1.0.3, doi 10.13026/kfzx-aw45.
"""

from __future__ import annotations

import ast
import csv
from pathlib import Path

from latentcast.errors import LatentcastError
from latentcast.signals.readers.source import Annotation, RecordRef

TABLE = "ptbxl_database.csv"
_NEEDED = ("ecg_id", "patient_id", "scp_codes", "strat_fold")
_NOT_METADATA = frozenset({"patient_id", "scp_codes", "strat_fold"})
_NUMBERS = frozenset({"age", "height", "weight"})


def record_id(ecg_id: str) -> str:
    """The id of a PTB-XL record in every store, at any rate: ``"7"`` -> ``"00007"``."""
    return f"{int(float(ecg_id)):05d}"


def parse_codes(text: str) -> dict[str, float]:
    """The ``scp_codes`` cell: a Python dict of code to likelihood (0.0 means unknown, not absent).

    Raises:
        ValueError: the cell is no such dict.
    """
    codes = ast.literal_eval(text)
    if not isinstance(codes, dict):
        raise ValueError(f"scp_codes is {text[:40]!r}, not a dict")
    return {str(code): float(likelihood) for code, likelihood in codes.items()}


def annotation(row: dict[str, str]) -> Annotation:
    """One line of the table; empty cells are left out of the metadata.

    An age of 300 is PTB-XL's mark for "over 89" and stays as it is.
    """
    metadata: dict[str, object] = {}
    for column, cell in row.items():
        if cell and column not in _NOT_METADATA:
            metadata[column] = float(cell) if column in _NUMBERS else cell
    patient = row["patient_id"]
    return Annotation(
        patient_id=str(int(float(patient))) if patient else None,
        fold=int(float(row["strat_fold"])),
        labels=parse_codes(row["scp_codes"]),
        metadata=metadata,
    )


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of ``ptbxl_database.csv``, as text, in the order of the file.

    Raises:
        LatentcastError: a needed column is missing or the file is no text.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise LatentcastError(
                    f"{path}: has no column {', '.join(missing)}; use the table of PTB-XL 1.0.x"
                )
            return list(reader)
    except UnicodeDecodeError as error:
        raise LatentcastError(f"{path}: is not UTF-8 text; {error}") from error


def file_column(path: Path, rows: list[dict[str, str]], sampling_rate: float | None) -> str:
    """Which of the two sets of files to read: ``filename_lr`` (100 Hz) or ``filename_hr`` (500).

    Where both lie in the folder the wanted rate decides; nothing is assumed in its place.

    Raises:
        LatentcastError: both rates are there and none was asked for, or none is there.
    """
    there = [
        column
        for column in ("filename_lr", "filename_hr")
        if any((path.parent / f"{row.get(column, '')}.hea").is_file() for row in rows)
    ]
    if not there:
        raise LatentcastError(
            f"{path}: none of the records it lists is in {path.parent}; unpack records100 or "
            "records500 beside it"
        )
    if len(there) == 1:
        return there[0]
    if sampling_rate is None:
        raise LatentcastError(
            f"{path.parent}: holds every record at 100 Hz and at 500 Hz; choose with --fs 100 or "
            "--fs 500"
        )
    return "filename_lr" if sampling_rate <= 100 else "filename_hr"


def list_records(
    root: Path, sampling_rate: float | None
) -> tuple[list[RecordRef], dict[str, Annotation]]:
    """The records of a PTB-XL folder, and the annotation of each by record id.

    A row without its file and a file without its row are listed with the problem, so that neither
    goes missing unseen.
    """
    table = root / TABLE
    rows = read_table(table)
    column = file_column(table, rows, sampling_rate)
    refs: list[RecordRef] = []
    annotations: dict[str, Annotation] = {}
    listed = set()
    for line, row in enumerate(rows, start=2):
        file = f"{row[column]}.hea"
        listed.add(file)
        try:
            key = record_id(row["ecg_id"])
            annotations.setdefault(key, annotation(row))
        except (ValueError, SyntaxError) as error:
            refs.append(RecordRef(f"line {line}", file, problem=f"{TABLE} line {line}: {error}"))
            continue
        missing = not (root / file).is_file()
        problem = f"header {file} is missing, {TABLE} lists it" if missing else None
        refs.append(RecordRef(key, file, problem=problem))
    tops = {file.split("/")[0] for file in listed}
    for top in sorted(tops):
        for path in sorted((root / top).rglob("*.hea")):
            file = path.relative_to(root).as_posix()
            if file not in listed:
                refs.append(RecordRef(path.stem, file, problem=f"is not listed in {TABLE}"))
    refs.sort(key=lambda ref: (ref.file, ref.record_id))
    return refs, annotations
