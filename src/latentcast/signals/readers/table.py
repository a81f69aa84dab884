"""A CSV beside the records, as text; a row that was cut off differs from one with empty cells."""

from __future__ import annotations

import csv
from pathlib import Path

from latentcast.errors import LatentcastError

Row = dict[str, str]


def read_rows(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """The column names and the rows, in the order of the file.

    A row with too few or too many cells is kept, for :func:`check_cells` to refuse in its turn.

    Raises:
        LatentcastError: the file is missing or is no CSV in UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("is no regular file")
        # Spreadsheets write a byte order mark, which would be part of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            return tuple(reader.fieldnames or ()), rows
    except FileNotFoundError:
        raise LatentcastError(f"{path}: does not exist; name the table, or restore it") from None
    except (OSError, ValueError, csv.Error) as error:
        raise LatentcastError(
            f"{path}: cannot be read as CSV in UTF-8 ({error}); restore the table"
        ) from error


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
