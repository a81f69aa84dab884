"""Predictions as a table: CSV, or parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from latentcast.artifacts.classifier import Predicted
from latentcast.errors import LatentcastError, missing_extra
from latentcast.files import replacing, write_text


def write_predictions(found: Predicted, file: Path) -> None:
    """An id, a column of each label, ``LABEL_spread`` of each, and ``crops``.

    A label whose column would have the name of another is called ``label NAME``.

    Raises:
        LatentcastError: the file has another suffix, is a .csv of no predictions, or cannot
            be written.
    """
    if file.suffix not in (".csv", ".parquet"):
        raise LatentcastError(
            f"{file}: predictions are written as .csv or .parquet; name it {file.stem}.csv"
        )
    _keep_other_tables(file)
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
            return
        try:
            arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        except ImportError as error:
            raise missing_extra("pyarrow", "huggingface", "writing parquet") from error
        with replacing(file) as draft:
            parquet.write_table(arrow.table(columns), draft)
    except OSError as problem:
        raise LatentcastError(f"{file}: cannot be written ({problem}); name another file") from None


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


def _keep_other_tables(file: Path) -> None:
    """A table of labels named by mistake is not written over; earlier predictions are."""
    if file.suffix != ".csv" or not file.is_file() or not file.stat().st_size:
        return
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        header = next(csv.reader(lines), [])
    if header[:1] != ["id"] or header[-1:] != ["crops"]:
        raise LatentcastError(
            f"{file}: exists and holds no predictions; name another file, or remove that one"
        )
