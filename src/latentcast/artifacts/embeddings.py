"""Embeddings of many records: the table that ``latentcast embed`` writes, and what is nearest."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.tables import check_rejected, columns_of, pyarrow
from latentcast.errors import LatentcastError
from latentcast.files import replacing

SUFFIXES = (".parquet", ".csv", ".npz")
FIXED = ("id", "patient", "split")
"""The first columns of every table."""
ABOUT = ("age", "sex", "device", "site")
"""Further columns, those of them that any record has in its metadata."""
VECTOR = "embedding"
"""The column of parquet: a list of float32. CSV has a column for each number, e0000 and on."""
IDENTICAL = 1e-5
"""Of two vectors of length 1, the largest difference up to which they are of one recording."""
Vectors = npt.NDArray[np.float32]


class Part(NamedTuple):
    """Some records of a table: ids, patients ("" where none is named), splits (likewise), what is
    in :data:`ABOUT`, and float32 ``(n, features)``."""

    ids: Sequence[str]
    patients: Sequence[str]
    splits: Sequence[str]
    about: Sequence[Mapping[str, Any]]
    vectors: Vectors


class Neighbour(NamedTuple):
    """A record of a table, and the cosine between its vector and that of a query."""

    id: str
    patient: str
    split: str
    cosine: float


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A table, read.

    Attributes:
        ids, patients, splits: str ``(n,)``, "" where the table names none.
        vectors: float32 ``(n, features)``.
        model: which weights, layer and pooling; empty of CSV, which does not hold it.
    """

    ids: npt.NDArray[np.str_]
    patients: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    vectors: Vectors
    model: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises LatentcastError: it is no such table, or is damaged."""
        try:
            found = _READERS[file.suffix](file)
            ids, patients, splits = (np.array(column, dtype=np.str_) for column in found[:3])
            vectors = np.asarray(found[3], dtype=np.float32).reshape(len(ids), -1)
            return cls(ids, patients, splits, vectors, json.loads(found[4]))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as problem:
            raise LatentcastError(
                f"{file}: is no table of embeddings ({problem}); write one with latentcast embed"
            ) from None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _directions(self) -> Vectors:
        return _unit(self.vectors)

    def nearest(
        self, vector: Vectors, count: int, itself: bool = False
    ) -> tuple[list[Neighbour], int]:
        """The nearest by cosine, the nearest first; and how many records have the very vector of
        the query, which is that recording itself: they are among the nearest with ``itself``."""
        rows, query = self._directions, _unit(vector[np.newaxis])[0]
        same = np.abs(rows - query).max(axis=1, initial=0) <= IDENTICAL
        out = same & (not itself)
        cosines = np.where(out, -np.inf, rows @ query)
        order = np.argsort(-cosines, kind="stable")[: min(count, int((~out).sum()))]
        found = [
            Neighbour(
                str(self.ids[row]), str(self.patients[row]), str(self.splits[row]),
                float(cosines[row]),
            )
            for row in order
        ]  # fmt: skip
        return found, int(same.sum())


def check_table(file: Path) -> None:
    """Before anything is embedded: may a table be written there?

    Raises:
        LatentcastError: another suffix, or a file of something else; an earlier table is replaced.
    """
    if file.suffix not in SUFFIXES:
        raise LatentcastError(
            f"{file}: embeddings are written as {', '.join(SUFFIXES)}; name it {file.stem}.csv"
        )
    if file.suffix == ".parquet":
        pyarrow()
    if file.is_file() and file.stat().st_size and not is_table(file):
        raise LatentcastError(
            f"{file}: exists and holds no embeddings; name another file, or remove that one"
        )
    check_rejected(file)


def write_embeddings(
    parts: Callable[[], Iterable[Part]], about: Sequence[str], features: int,
    model: Mapping[str, Any], file: Path,
) -> None:  # fmt: skip
    """Write a table, part by part.

    Args:
        parts: gives all of them, in order, each time that it is called.
        about: those of :data:`ABOUT` that any record has.
        features: numbers of a vector.
        model: what made them.

    Raises:
        LatentcastError: the file cannot be written.
    """
    write = {".csv": _write_csv, ".npz": _write_npz, ".parquet": _write_parquet}[file.suffix]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            write(parts, about, features, json.dumps(dict(model)), draft)
    except OSError as problem:
        raise LatentcastError(f"{file}: cannot be written ({problem}); name another file") from None


def _write_csv(
    parts: Callable[[], Iterable[Part]],
    about: Sequence[str],
    features: int,
    model: str,
    draft: Path,
) -> None:
    with draft.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*FIXED, *about, *(f"e{n:04d}" for n in range(features))])
        for part in parts():
            for *names, metadata, vector in zip(*part, strict=True):
                cells = [metadata.get(name, "") for name in about]
                writer.writerow([*names, *cells, *map(str, vector)])  # shortest that reads the same


def _write_parquet(
    parts: Callable[[], Iterable[Part]],
    about: Sequence[str],
    features: int,
    model: str,
    draft: Path,
) -> None:
    arrow, parquet = pyarrow(), pyarrow("parquet")
    numbers = arrow.list_(arrow.float32(), features)
    fields = [(name, arrow.string()) for name in (*FIXED, *about)]
    schema = arrow.schema([*fields, (VECTOR, numbers)], metadata={"latentcast": model})
    with parquet.ParquetWriter(draft, schema) as writer:
        for part in parts():
            columns = [list(column) for column in part[:3]]
            columns += [[_text(metadata.get(name)) for metadata in part.about] for name in about]
            flat = arrow.array(part.vectors.reshape(-1), arrow.float32())
            vectors = arrow.FixedSizeListArray.from_arrays(flat, features)
            writer.write_table(arrow.table([*columns, vectors], schema=schema))


def _write_npz(
    parts: Callable[[], Iterable[Part]],
    about: Sequence[str],
    features: int,
    model: str,
    draft: Path,
) -> None:
    columns: dict[str, list[str]] = {"ids": [], "patients": [], "splits": []}
    columns |= {name: [] for name in about}
    for part in parts():
        for name, values in zip(columns, part[:3], strict=False):
            columns[name] += values
        for name in about:
            columns[name] += [_text(metadata.get(name)) for metadata in part.about]
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, values in {**columns, "model": model}.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, np.array(values, dtype=np.str_))
        with archive.open("vectors.npy", "w", force_zip64=True) as entry:
            shape = {"descr": "<f4", "fortran_order": False}
            rows = (len(columns["ids"]), features)
            np.lib.format.write_array_header_1_0(entry, {**shape, "shape": rows})
            for part in parts():
                entry.write(part.vectors.astype("<f4").tobytes())


def _read_csv(file: Path) -> tuple[Any, ...]:
    with file.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream)
        header = next(rows, [])
        if tuple(header[:3]) != FIXED or not header[-1].startswith("e0"):
            raise ValueError("its columns are others")
        first = header.index("e0000")
        table = list(rows)
    vectors = np.array([row[first:] for row in table], dtype=np.float32)
    return (*zip(*(row[:3] for row in table), strict=True), vectors, "{}")


def _read_npz(file: Path) -> tuple[Any, ...]:
    with np.load(file, allow_pickle=False) as arrays:
        empty = np.full(len(arrays["ids"]), "")
        others = [arrays.get(name, empty) for name in ("patients", "splits")]
        return (arrays["ids"], *others, arrays["vectors"], str(arrays.get("model", "{}")))


def _read_parquet(file: Path) -> tuple[Any, ...]:
    table = pyarrow("parquet").read_table(file)
    flat = table[VECTOR].combine_chunks().flatten().to_numpy()
    model = (table.schema.metadata or {}).get(b"latentcast", b"{}").decode()
    return (*(table[name].to_pylist() for name in FIXED), flat, model)


_READERS = {".csv": _read_csv, ".npz": _read_npz, ".parquet": _read_parquet}


def is_table(file: Path) -> bool:
    """Whether a file is a table of embeddings, by the names of its columns."""
    if file.suffix != ".npz":
        return tuple(columns_of(file)[:3]) == FIXED
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {"ids", "vectors"} <= {*arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def _text(value: Any) -> str:
    return "" if value is None else str(value)
