"""A table beside the records, as text; a row that was cut off differs from one with empty cells."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from latentcast.errors import LatentcastError, missing_extra

Row = dict[str, str]
SEPARATORS = ",;\t|"
LONGEST_HEADER = 2**16
"""Bytes of the line of column names that are looked at to tell what a table is."""
_UNIT = "\x1f"
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)
"""What Excel reads, and some programs write, above the column names."""
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d{1,5},\d+\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[+-]?\d*\s*", re.ASCII)


def read_rows(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """The column names and the rows, in the order of the file: a ``.parquet``, or text.

    Columns of text are separated by what the header line has most of: ``,``, ``;``, a tab or ``|``.
    Where that is no comma, the comma of a column of numbers is its decimal point. A row with too
    few or too many cells is kept, for :func:`check_cells` to refuse in its turn.

    Raises:
        LatentcastError: the file is missing, is no table in UTF-8, or two columns have one name.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    try:
        if not_a_table(path):
            raise OSError("is no regular file")
        with path.open("rb") as file:
            # "Unicode text" of a spreadsheet.
            wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        # Spreadsheets write a byte order mark, which would be part of the first column's name.
        with path.open(newline="", encoding="utf-16" if wide else "utf-8-sig") as file:
            first = file.readline()
            if not first:
                raise ValueError("is empty")
            begins, named = 0, _SEPARATOR_LINE.fullmatch(first)
            if named is not None:
                begins, first = file.tell(), file.readline()
            separator = _separator(first) if named is None else named[1]
            file.seek(begins)
            # A blank after the separator is part of no name; elsewhere it may be part of a cell.
            spaced = f"{separator} " in first
            reader = csv.DictReader(file, delimiter=separator, skipinitialspace=spaced)
            rows = list(reader)
            names = tuple(reader.fieldnames or ())  # of a file of empty lines it reads once more
    except FileNotFoundError:
        raise LatentcastError(f"{path}: does not exist; name the table, or restore it") from None
    except (OSError, ValueError, csv.Error) as error:
        raise LatentcastError(
            f"{path}: cannot be read as CSV in UTF-8 ({error}); restore the table, or save it in "
            "UTF-8"
        ) from error
    header = tuple(name.strip() for name in names)
    if header != names:
        rows = [{_stripped(name): cell for name, cell in row.items()} for row in rows]
    # Of two columns of one name a row has the last; those without a name hold nothing.
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        raise LatentcastError(f"{path}: has two columns '{repeated[0]}'; rename one")
    if separator != ",":
        _replace_decimal_commas(header, rows)
    return header, rows


def read_header(path: Path) -> tuple[str, ...]:
    """The column names alone; empty where the file is no table that can be read."""
    try:
        if not path.is_file():  # a pipe would never end
            return ()
        if path.suffix.lower() == ".parquet":
            return tuple(import_module("pyarrow.parquet").read_schema(path).names)
        with path.open("rb") as file:
            first = file.readline(LONGEST_HEADER)
            wide = first[:2] in (b"\xff\xfe", b"\xfe\xff")
            if not wide and _SEPARATOR_LINE.fullmatch(first.decode("utf-8-sig")):
                first = file.readline(LONGEST_HEADER)
        text = first.decode("utf-16" if wide else "utf-8-sig", "replace" if wide else "strict")
        names = next(csv.reader([text], delimiter=_separator(text)), [])
    # Whatever pyarrow says of a file that is none; detecting a format never fails.
    except Exception:
        return ()
    return tuple(name.strip() for name in names)


def not_a_table(path: Path) -> bool:
    """Whether a FIFO, a device or a folder has the name of a table."""
    return path.exists() and not path.is_file()


def each_row(path: Path) -> Iterator[Row]:
    """The rows of a large table of a data set, one at a time: in UTF-8, with ``,`` between them.

    Raises:
        LatentcastError: the file cannot be read.
    """
    try:
        if not_a_table(path):
            raise OSError("is no regular file")
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise LatentcastError(
            f"{path}: cannot be read as CSV in UTF-8 ({error}); restore the table"
        ) from error


class Packed:
    """The rows of a large table in a few hundred bytes each, by place or by the cell of a column.

    Args:
        path: the table, for errors.
        header: the columns to keep.
        rows: in their order.
        key: the column to look rows up by; by default their place.

    Raises:
        LatentcastError: two rows of one key differ.
    """

    def __init__(
        self, path: Path, header: Sequence[str], rows: Iterable[Row], key: str | None = None
    ) -> None:
        self.header = tuple(header)
        self._rows: dict[int | str, str | Row] = {}
        for place, row in enumerate(rows):
            cells = [row.get(name) for name in self.header]
            # A row that was cut off stays as it is, for check_cells to refuse.
            complete = None not in row and None not in cells
            packed = _UNIT.join(cell.replace(_UNIT, " ") for cell in cells if cell is not None)
            name = place if key is None else (row.get(key) or "").strip()
            kept = packed if complete else row
            if self._rows.setdefault(name, kept) != kept:
                raise LatentcastError(
                    f"{path}: two rows of {key} '{name}' differ, the second in line {place + 2}; "
                    "keep one of them"
                )

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: int | str) -> bool:
        return key in self._rows

    def __getitem__(self, key: int | str) -> Row:
        """Raises KeyError: no row has this key."""
        row = self._rows[key]
        if isinstance(row, str):
            return dict(zip(self.header, row.split(_UNIT), strict=True))
        return row


def _read_parquet(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    try:
        parquet = import_module("pyarrow.parquet")
        damaged = import_module("pyarrow").ArrowException
    except ImportError as error:
        raise missing_extra("pyarrow", "huggingface", "reading parquet files") from error
    if not path.exists():
        raise LatentcastError(f"{path}: does not exist; name the table, or restore it")
    try:
        if not_a_table(path):
            raise OSError("is no regular file")
        table = parquet.read_table(path)
        table.validate(full=True)
    except (OSError, damaged) as error:
        raise LatentcastError(f"{path}: cannot be read ({error}); copy it anew") from error
    rows = [{name: _text(v) for name, v in row.items()} for row in table.to_pylist()]
    return tuple(table.column_names), rows


def _text(value: Any) -> str:
    """A value as a CSV would hold it; lists are codes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, list | tuple):
        return ";".join(str(item) for item in value)
    return str(value)


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
