"""A table beside the records, as text; a row that was cut off differs from one with empty cells."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from latentcast.errors import LatentcastError

Row = dict[str, str]
SEPARATORS = ",;\t|"
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d{1,5},\d+\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[+-]?\d*\s*", re.ASCII)


def read_rows(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """The column names and the rows, in the order of the file.

    Columns are separated by what the header line has most of: ``,``, ``;``, a tab or ``|``. Where
    that is no comma, the comma of a column of numbers is its decimal point. A row with too few or
    too many cells is kept, for :func:`check_cells` to refuse in its turn.

    Raises:
        LatentcastError: the file is missing or is no table in UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("is no regular file")
        with path.open("rb") as file:
            # "Unicode text" of a spreadsheet.
            wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        # Spreadsheets write a byte order mark, which would be part of the first column's name.
        with path.open(newline="", encoding="utf-16" if wide else "utf-8-sig") as file:
            first = file.readline()
            separator = _separator(first)
            file.seek(0)
            # A blank after the separator is part of no name; elsewhere it may be part of a cell.
            spaced = f"{separator} " in first
            reader = csv.DictReader(file, delimiter=separator, skipinitialspace=spaced)
            rows = list(reader)
            header = tuple(name.strip() for name in reader.fieldnames or ())
    except FileNotFoundError:
        raise LatentcastError(f"{path}: does not exist; name the table, or restore it") from None
    except (OSError, ValueError, csv.Error) as error:
        raise LatentcastError(
            f"{path}: cannot be read as CSV in UTF-8 ({error}); restore the table"
        ) from error
    if header != tuple(reader.fieldnames or ()):
        rows = [{_stripped(name): cell for name, cell in row.items()} for row in rows]
    if separator != ",":
        _replace_decimal_commas(header, rows)
    return header, rows


def _separator(header: str) -> str:
    times = Counter(re.sub(r'"[^"]*"', "", header))
    return max(SEPARATORS, key=lambda separator: times[separator])


def _stripped(name: str | None) -> str:
    return name if name is None else name.strip()  # type: ignore[return-value]


def _replace_decimal_commas(header: tuple[str, ...], rows: list[Row]) -> None:
    """In columns of nothing but whole numbers and numbers with one comma."""
    for name in header:
        cells = [row[name] for row in rows if row[name]]
        commas = sum("," in cell for cell in cells)
        if commas and all(
            (_DECIMAL_COMMA if "," in cell else _WHOLE).fullmatch(cell) for cell in cells
        ):
            for row in rows:
                row[name] = row[name] and row[name].replace(",", ".")


def check_cells(row: Row) -> None:
    """Refuse a row that was cut off or has cells beyond the header line.

    Raises:
        ValueError: with the number of its cells.
    """
    # csv.DictReader fills what is missing with None and files what is too much under None.
    surplus = row.get(None, ())  # type: ignore[call-overload]
    missing = sum(cell is None for cell in row.values())
    columns = len(row) - (None in row)
    if surplus or missing:
        raise ValueError(
            f"has {columns - missing + len(surplus)} cells, the header line {columns}; is the "
            "table cut off, or a quote missing?"
        )
