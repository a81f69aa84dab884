"""Label tables that a store has beside its samples: ``STORE/tables/NAME.npz``, one each."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.folds import HELD_OUT, training_fold
from latentcast.data.manifest import SPLITS
from latentcast.data.store import Store
from latentcast.data.tables.columns import (
    MOST_CLASSES,
    Column,
    Kind,
    column_of,
    kind_of,
    present,
)
from latentcast.data.tables.file import TableFile, read_table
from latentcast.data.tables.match import (
    Match,
    counted,
    examples,
    match,
    patients_of,
    refuse_shared_patients,
)
from latentcast.data.tables.splits import stratified_folds
from latentcast.errors import LatentcastError
from latentcast.files import replacing, sha256
from latentcast.signatures import checked

FOLDER = "tables"
MOST_GRADES = 10
"""Different whole numbers that may be grades rather than a quantity."""
_NAME = re.compile(r"[\w][\w .-]*")


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The labels of one table, in the order of the records of its store.

    Attributes:
        name: in the store.
        columns: by name.
        folds: int16 ``(N,)``, 1 to 10 and 0 for none, where the table divides the records itself;
            None where the folds of the store hold.
        patients: text ``(N,)``, where the table names patients and the store does not.
        source: name and sha256 of the file.
    """

    name: str
    columns: Mapping[str, Column]
    folds: npt.NDArray[np.int16] | None
    patients: npt.NDArray[np.str_] | None
    source: Mapping[str, str]


@dataclass(frozen=True)
class Attachment:
    """What :func:`label` did: the table, and every mismatch in a sentence."""

    table: LabelTable
    lines: tuple[str, ...]


@checked
def label(
    store: Store,
    path: str | Path | TableFile,
    *,
    name: str | None = None,
    record: str | None = None,
    patient: str | None = None,
    columns: Sequence[str] = (),
    kinds: Mapping[str, Kind] | None = None,
    stratify: bool = False,
    seed: int = 0,
) -> Attachment:
    """Keep the labels of a table beside the records of a store; no sample is read again.

    A table of the same name is replaced. With a column ``split`` or ``fold`` the table divides the
    records itself; with ``stratify`` folds are drawn by patient and by label; otherwise the folds
    of the store hold.

    Args:
        store: what :func:`~latentcast.data.store.open_store` gives, of recordings or images.
        path: ``.csv`` or ``.parquet``, see :func:`~latentcast.data.tables.file.read_table`; or
            what that has read, with ``record``, ``patient`` and ``columns``.
        name: of the table in the store; the file's by default.
        record, patient: the columns that name records and patients.
        columns: the columns of labels; by default all others.
        kinds: what a column holds, where its cells would be read as something else.
        stratify: draw folds anew.
        seed: of that draw.

    Raises:
        LatentcastError: the table cannot be read or does not fit the store; a patient would be in
            two splits.
    """
    table = path
    if not isinstance(table, TableFile):
        table = read_table(table, record, patient, columns)
    name = name or table.path.stem
    if not _NAME.fullmatch(name):
        raise LatentcastError(f"table '{name}': is no name of a file; give it one with --name")
    ids, owners = store.record_ids.tolist(), store.patient_ids.tolist()
    matched = match(table, ids, owners)
    read, lines = _columns(table, matched, kinds or {})
    patients = patients_of(table, matched.row, ids, owners)
    divided = _folds(table, matched, patients)
    with_row = matched.row >= 0
    if divided is not None and np.array_equal(divided[with_row], store.folds[with_row]):
        divided = None  # the store was ingested with this very table
    if stratify:
        if divided is not None:
            raise LatentcastError(
                f"{table.path}: has a split of its own; drop its column, or leave out --stratify"
            )
        divided = stratified_folds(patients, _positives(list(read.values())), seed)
        lines.append(f"split: drawn by patient and label, seed {seed}")
    folds = store.folds if divided is None else divided
    rows = {split: np.flatnonzero(np.isin(folds, SPLITS[split])) for split in SPLITS}
    own = table.split is not None or table.fold is not None
    refuse_shared_patients(table.path, rows, patients, column=own)
    for column in read.values():
        lines += _of_splits(column, rows)
    own = table.patient is not None and not any(owners)
    named = np.array(patients, dtype=np.str_) if own else None
    found = LabelTable(name, read, divided, named, table_source(table.path))
    _write(store, found)
    return Attachment(found, (*matched.lines, *lines))


def positives_of(table: TableFile, matched: Match) -> npt.NDArray[np.bool_]:
    """``(N, labels)``: the labels of each record of a match that are present."""
    read, _ = _columns(table, matched, {})
    return _positives(list(read.values()))


def tables_of(store: Store) -> dict[str, LabelTable]:
    """The label tables of a store, by name.

    Raises:
        LatentcastError: one is damaged, or belongs to the store that was here before.
    """
    files = sorted((Path(store.path) / FOLDER).glob("*.npz"))
    return {file.stem: _read(file, store.manifest.index_sha256) for file in files}


def _columns(
    table: TableFile, matched: Match, kinds: Mapping[str, Kind]
) -> tuple[dict[str, Column], list[str]]:
    unknown = sorted(kinds.keys() - set(table.columns))
    if unknown:
        raise LatentcastError(
            f"--kinds {unknown[0]}: is no column of labels; they are {', '.join(table.columns)}"
        )
    read, lines = dict[str, Column](), list[str]()
    for name in table.columns:
        cells = [table.rows[row][name] if row >= 0 else "" for row in matched.row.tolist()]
        if not any(map(present, cells)):
            lines.append(f"column '{name}': has no value for any record of the store, left out")
            continue
        kind = kinds.get(name) or kind_of([row[name] for row in table.rows])
        column = column_of(name, cells, kind)
        if kind == "classes" and name not in kinds and len(column.classes) > MOST_CLASSES:
            lines.append(
                f"column '{name}': {len(column.classes):,} different texts are notes rather than "
                f"classes, left out; keep them with --kinds {name}=classes"
            )
            continue
        read[name] = column
        if name not in kinds and (grades := _grades(column)):
            lines.append(
                f"column '{name}': has {grades} different whole numbers, read as a quantity; "
                f"if they are grades, label again with --kinds {name}=classes"
            )
        missing = int((~column.mask).sum())
        holds = {
            "binary": "0 and 1", "number": "numbers", "codes": f"{len(column.classes)} codes",
            "classes": counted(column.classes, "class"),
        }[kind]  # fmt: skip
        lines.append(
            f"column '{name}': {holds}" + (f", missing for {missing:,} records" * bool(missing))
        )
    if not read:
        raise LatentcastError(f"{table.path}: holds no label of a record of the store")
    return read, lines


def _grades(column: Column) -> int:
    """How many different whole numbers a column of numbers has, where they may be classes."""
    values = np.unique(column.values[column.mask]) if column.kind == "number" else np.empty(0)
    few = 2 < len(values) <= MOST_GRADES and len(values) < column.mask.sum() / 2
    return len(values) if few and (values == np.round(values)).all() else 0


def _folds(
    table: TableFile, matched: Match, patients: Sequence[str]
) -> npt.NDArray[np.int16] | None:
    """The table's own folds; 0 for a record without. A held-out split that the table has not is a
    tenth of its training rows, by patient."""
    if table.split is None and table.fold is None:
        return None
    folds = [0 if row < 0 else table.fold_of(table.rows[row]) or 0 for row in matched.row.tolist()]
    if table.held_out is not None and table.held_out < HELD_OUT:
        folds = [
            training_fold(patient, table.held_out) if fold in SPLITS["train"] else fold
            for fold, patient in zip(folds, patients, strict=True)
        ]
    return np.array(folds, dtype=np.int16)


def _positives(columns: Sequence[Column]) -> npt.NDArray[np.bool_]:
    """``(N, labels)``: what a split should have its share of."""
    parts = [np.zeros((len(columns[0].mask), 0), dtype=np.bool_)]
    for column in columns:
        if column.kind == "binary":
            parts.append((column.values == 1)[:, None])
        elif column.kind == "classes":
            parts.append(column.values[:, None] == np.arange(len(column.classes)))
        elif column.kind == "codes":
            parts.append(column.values)
    return np.concatenate(parts, axis=1)


def _of_splits(column: Column, rows: Mapping[str, npt.NDArray[np.int64]]) -> list[str]:
    """Labels that a split lacks."""
    if column.kind == "number":
        empty = [split for split, part in rows.items() if not column.mask[part].any()]
        return [f"column '{column.name}': no value in the {split} split" for split in empty]
    names = column.classes or (column.name,)
    positives = _positives([column])
    lines = []
    for split, part in rows.items():
        lacking = [n for n, c in zip(names, positives[part].sum(axis=0), strict=True) if not c]
        if lacking:
            of = "" if column.kind == "binary" else f" of {examples(lacking)}"
            lines.append(f"column '{column.name}': no positive{of} in the {split} split")
    return lines


def table_source(path: Path) -> dict[str, str]:
    """Name and sha256 of the file of a table."""
    return {"file": path.name, "sha256": sha256(path)}


def _write(store: Store, table: LabelTable) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {}
    for n, column in enumerate(table.columns.values()):
        arrays[f"values-{n}"], arrays[f"mask-{n}"] = column.values, column.mask
    if table.folds is not None:
        arrays["folds"] = table.folds
    if table.patients is not None:
        arrays["patients"] = table.patients
    header = {
        "version": 1,
        "store": store.manifest.index_sha256,
        "source": dict(table.source),
        "columns": [[c.name, c.kind, list(c.classes)] for c in table.columns.values()],
    }
    header["sha256"] = _digest(header, arrays)
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez_compressed(buffer, header=text, **arrays)  # type: ignore[arg-type]
    folder = store.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"{table.name}.npz") as draft:
            draft.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise LatentcastError(
            f"{folder}: cannot be written ({error}); make the store writable"
        ) from error


def _digest(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    named = {key: value for key, value in header.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _read(file: Path, index_sha256: str) -> LabelTable:
    stamp = file.stat()
    return _read_once(file, index_sha256, stamp.st_mtime_ns, stamp.st_size)


# A task and its advice read the tables several times; the stamp is part of the key.
@lru_cache(maxsize=8)
def _read_once(file: Path, index_sha256: str, modified: int, size: int) -> LabelTable:
    try:
        with np.load(file, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        header = json.loads(arrays.pop("header").tobytes())
        if header["sha256"] != _digest(header, arrays):
            raise ValueError("its checksum is another one")
        columns = {
            name: Column(name, kind, arrays[f"values-{n}"], arrays[f"mask-{n}"], tuple(classes))
            for n, (name, kind, classes) in enumerate(header["columns"])
        }
    except Exception as error:  # a damaged archive fails in many ways: zlib, zipfile, NumPy, JSON
        raise LatentcastError(
            f"{file}: is damaged ({error}); label the store again (latentcast label)"
        ) from error
    if header["store"] != index_sha256:
        raise LatentcastError(
            f"{file}: was made for the store that was here before; remove it and label the store "
            "again (latentcast label)"
        )
    return LabelTable(
        file.stem, columns, arrays.get("folds"), arrays.get("patients"), header["source"]
    )
