"""Predictions as a table: CSV, or parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from latentcast.artifacts.classifier import Predicted
from latentcast.data.writer import REJECTED, write_rejected
from latentcast.errors import LatentcastError, missing_extra
from latentcast.files import replacing, write_text


def write_predictions(found: Predicted, file: Path) -> Path:
    """An id, a column of each label, ``LABEL_spread`` of each, and ``crops``.

    A label whose column would have the name of another is called ``label NAME``.

    The records left out, and why, are in a table beside it, NAME.rejected.csv, where there are
    any; one of an earlier call is replaced.

    Returns:
        that table.

    Raises:
        LatentcastError: as of :func:`check_place`, or the file cannot be written.
    """
    check_place(file)
    rejected = rejected_beside(file)
    columns: dict[str, list[object]] = {"id": list(found.ids)}
    names = column_names(found.names)
    for n, name in enumerate(names):
        columns[name] = found.values[:, n].tolist()
    for n, name in enumerate(names):
        columns[f"{name}_spread"] = found.spread[:, n].tolist()
    columns["crops"] = found.crops.tolist()
    try:
        if file.suffix == ".csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
            write_text(file, text.getvalue())
        else:
            with replacing(file) as draft:
                pyarrow("parquet").write_table(pyarrow().table(columns), draft)
        if found.rejected or rejected.exists():
            write_rejected(rejected, map(asdict, found.rejected))
    except OSError as problem:
        raise LatentcastError(f"{file}: cannot be written ({problem}); name another file") from None
    return rejected


def column_names(labels: Sequence[str]) -> list[str]:
    """Of the labels' columns, so that no two columns of a table have one name."""
    taken = {"id", "crops", *(f"{label}_spread" for label in labels)}
    found: list[str] = []
    for label in labels:
        name = label
        while name in taken or f"{name}_spread" in found:
            name = f"label {name}"
        found.append(name)
        taken |= {name, f"{name}_spread"} - {f"{label}_spread"}
    return found


def check_place(file: Path) -> None:
    """Before anything is predicted: may predictions be written there?

    Raises:
        LatentcastError: the file has another suffix, or is a table of something else, such as of
            labels, named by mistake; earlier predictions are replaced.
    """
    if file.suffix not in (".csv", ".parquet"):
        raise LatentcastError(
            f"{file}: predictions are written as .csv or .parquet; name it {file.stem}.csv"
        )
    if file.suffix == ".parquet":
        pyarrow()  # missing is better said now than after an hour
    columns = columns_of(file)
    if columns and (columns[0], columns[-1]) != ("id", "crops"):
        raise LatentcastError(
            f"{file}: exists and holds no predictions; name another file, or remove that one"
        )
    check_rejected(file)


def check_rejected(file: Path) -> None:
    """Raises LatentcastError: where the records left out would be listed, there is another file."""
    rejected = rejected_beside(file)
    if columns_of(rejected) not in ([], REJECTED):
        raise LatentcastError(
            f"{rejected}: exists, and is where records that are left out are listed; name another "
            f"file than {file.name}, or remove that one"
        )


def rejected_beside(file: Path) -> Path:
    """The table of the records that are left out of a table."""
    return file.with_name(f"{file.stem}.rejected.csv")


def columns_of(file: Path) -> list[str]:
    """Of the table at a path; none where it is empty or missing, ``[""]`` where it is no table."""
    if not file.is_file() or not file.stat().st_size:
        return []
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", errors="replace", newline="") as lines:
            return next(csv.reader(lines), [])
    try:
        return list(pyarrow("parquet").read_schema(file).names) or [""]
    except (OSError, ValueError):
        return [""]


def pyarrow(part: str | None = None) -> Any:
    """The package, or a module of it. Raises LatentcastError: it is not installed."""
    try:
        return import_module("pyarrow" if part is None else f"pyarrow.{part}")
    except ImportError as error:
        raise missing_extra("pyarrow", "huggingface", "writing parquet") from error
