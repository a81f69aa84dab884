"""Hugging Face datasets on disk: ``save_to_disk`` folders and parquet files, read with pyarrow.

pyarrow alone is the lighter of the two packages that can: ``datasets`` needs it in any case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from latentcast.errors import LatentcastError, missing_extra, nearest
from latentcast.images.source import (
    HELD_OUT_FIRST,
    SPLIT_NAMES,
    ImageSource,
    SplitChoice,
    check_classes,
    hash_of_sizes,
    splits_of,
)
from latentcast.source import Annotation, BadRecord, RecordRef, Split

_DICT = "dataset_dict.json"
_STATE = "state.json"
LABELS = ("label", "labels", "target", "targets", "class", "y")
"""How columns of labels are called, in any case of letters."""


@dataclass(frozen=True)
class _Columns:
    """Names of the columns that are read; ``classes`` where the dataset names them."""

    image: str
    label: str | None
    classes: tuple[str, ...] | None


class HuggingFaceImages(ImageSource):
    """Images of an Arrow dataset, with the labels of one column; a list holds several.

    That column is ``label``, else the one of the type ``ClassLabel`` or of :data:`LABELS`.

    Args:
        splits: what the names of splits or parquet files mean where some are unknown, see
            :func:`~latentcast.images.source.splits_of`.
        label: the column of the labels, where it has another name or there are several.

    Raises:
        LatentcastError: pyarrow is not installed, a file is missing or damaged, or several columns
            could hold the images or the labels.
    """

    kind = "hugging face dataset"
    encoded = True

    def __init__(
        self, path: Path, splits: SplitChoice | None = None, label: str | None = None
    ) -> None:
        self.root = path if path.is_dir() else path.parent
        self.name = path.name
        self._files = _listing(path, splits)
        self._columns = self._choose(label)
        self.classes, self._labels = self._read_labels()

    @classmethod
    def detects(cls, path: Path) -> bool:
        if path.is_file():
            return path.suffix == ".parquet"
        return (
            (path / _DICT).is_file()
            or (path / _STATE).is_file()
            or next(path.rglob("*.parquet"), None) is not None
        )

    def refs(self) -> list[RecordRef]:
        rows: dict[Split | None, int] = {}
        refs = []
        for (_, split), (name, labels) in zip(self._files, self._labels.items(), strict=True):
            begin = rows.get(split, 0)
            for row in range(len(labels)):
                record = f"{split or self.root.name}-{begin + row:06d}"
                refs.append(RecordRef(record, name, row, split=split))
            rows[split] = begin + len(labels)
        return sorted(refs, key=lambda ref: HELD_OUT_FIRST.index(ref.split))

    def fingerprint(self) -> str:
        return hash_of_sizes(self.root, (file for file, _ in self._files))

    def read(self, ref: RecordRef) -> tuple[bytes, Annotation]:
        cell = self._tables[ref.file].column(self._columns.image)[ref.row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            where = cell.get("path") if isinstance(cell, dict) else None
            raise BadRecord(
                f"names the file {where}, whose bytes are not in the dataset"
                if where
                else "holds no image"
            )
        labels = {self.classes[label]: 1.0 for label in self._labels[ref.file][ref.row]}
        return data, Annotation(labels=labels)

    @cached_property
    def _tables(self) -> dict[str, Any]:
        # Arrow files are mapped; parquet files are read, one column of them.
        files = zip(self._labels, self._files, strict=True)
        return {name: _table(file, [self._columns.image]) for name, (file, _) in files}

    def _choose(self, label: str | None) -> _Columns:
        first = self._files[0][0]
        parquet = first.suffix == ".parquet"
        schema = _parquet(first).schema_arrow if parquet else _arrow(first).schema
        features = _features(schema, first)
        images = [
            n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "Image"
        ]
        if not features:
            images = [field.name for field in schema if _holds_bytes(field.type)]
        if len(images) != 1:
            raise LatentcastError(
                f"{first}: {len(images) or 'no'} columns hold images (columns: "
                f"{', '.join(schema.names)}); keep one column of the type Image"
            )
        named = {
            name: tuple(feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
        others = [name for name in schema.names if name not in images]
        if label is not None and label not in others:
            raise LatentcastError(f"{first}: has no column {label}; {nearest(label, others)}")
        candidates = [name for name in others if name in named or name.lower() in LABELS]
        if label is None and "label" in candidates:
            label = "label"
        elif label is None and len(candidates) > 1:
            raise LatentcastError(
                f"{first}: {len(candidates)} columns could hold the labels "
                f"({', '.join(candidates)}); choose one, such as --label {candidates[0]}"
            )
        elif label is None and candidates:
            (label,) = candidates
        elif label is None and others:
            self.remarks = (
                f"none of the columns {', '.join(others)} is read as the label; --label "
                f"{others[0]} would read it so",
            )
        return _Columns(images[0], label, named.get(label or ""))

    def _read_labels(self) -> tuple[tuple[str, ...], dict[str, list[tuple[int, ...]]]]:
        """The classes, and by file those of each row; none where it has no label."""
        label, classes = self._columns.label, self._columns.classes
        files = {file.relative_to(self.root).as_posix(): file for file, _ in self._files}
        if label is None:
            return (), {name: [()] * _rows(file) for name, file in files.items()}
        columns = {
            name: [
                [v for v in (value if isinstance(value, list) else [value]) if v not in (None, -1)]
                for value in _table(file, [label]).column(label).to_pylist()
            ]
            for name, file in files.items()
        }
        every = [value for column in columns.values() for row in column for value in row]
        if not all(isinstance(value, int | str) for value in every):
            raise LatentcastError(
                f"{self.root / self.name}: {label} is neither whole numbers nor text; cast it, or "
                "name another column with --label"
            )
        if classes is None:
            order: list[Any] = sorted(set(every))
            classes = tuple(map(str, order))
            check_classes(str(self.root / self.name), classes)
        else:
            order = list(range(len(classes)))
        ids = {value: i for i, value in enumerate(order)}
        if others := set(every) - ids.keys():
            raise LatentcastError(
                f"{self.root / self.name}: {label} holds {others.pop()!r}, which is none of its "
                f"{len(classes)} classes; name every class"
            )
        return classes, {
            name: [tuple(ids[value] for value in row) for row in column]
            for name, column in columns.items()
        }


def _listing(path: Path, choice: SplitChoice | None) -> list[tuple[Path, Split | None]]:
    if (path / _STATE).is_file():
        return [(file, None) for file in _saved(path)]
    if (path / _DICT).is_file():
        names = _json(path / _DICT)["splits"]
        splits = splits_of(str(path), {name: name for name in names}, choice, "one set")
        return [(file, splits[name]) for name in names for file in _saved(path / name)]
    root = path.parent if path.is_file() else path
    found = [path] if path.is_file() else path.rglob("*.parquet")
    files = {file.relative_to(root).as_posix(): file for file in found}
    splits = splits_of(str(path), {name: _word(files[name]) for name in sorted(files)}, choice,
                       "one set")  # fmt: skip
    return [(files[name], split) for name, split in splits.items()]


def _saved(folder: Path) -> list[Path]:
    """The files of one ``save_to_disk`` folder, in their order."""
    files = [folder / part["filename"] for part in _json(folder / _STATE)["_data_files"]]
    for file in files:
        if not file.is_file():
            raise LatentcastError(f"{file}: is missing; copy the whole dataset folder")
    return files


def _word(file: Path) -> str:
    """What may name a split, in a file such as ``train-00000-of-00004`` or its folder."""
    words = [re.split(r"[-_.]", name)[0] for name in (file.stem, file.parent.name)]
    return next((word for word in words if word.lower() in SPLIT_NAMES), words[0])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LatentcastError(f"{path}: cannot be read ({error}); save the dataset anew") from error


def _features(schema: Any, file: Path) -> dict[str, Any]:
    """The description of the columns: in the schema, or beside the file."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    info = json.loads(metadata).get("info", {}) if metadata else {}
    if not info and (file.parent / "dataset_info.json").is_file():
        info = _json(file.parent / "dataset_info.json")
    features: dict[str, Any] = info.get("features") or {}
    return features


def _holds_bytes(kind: Any) -> bool:
    text = str(kind)
    return text in ("binary", "large_binary") or (
        text.startswith("struct<") and "bytes: binary" in text
    )


def _rows(file: Path) -> int:
    if file.suffix == ".parquet":
        return int(_parquet(file).metadata.num_rows)
    with _reading(file):
        return len(_arrow(file).read_all())


def _table(file: Path, columns: list[str]) -> Any:
    with _reading(file):
        if file.suffix == ".parquet":
            return _parquet(file).read(columns)
        return _arrow(file).read_all().select(columns)


def _parquet(file: Path) -> Any:
    with _reading(file):
        return _package("pyarrow.parquet").ParquetFile(file)


def _arrow(file: Path) -> Any:
    mapped = _package("pyarrow").memory_map
    with _reading(file):
        return _package("pyarrow.ipc").open_stream(mapped(str(file)))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    damaged = _package("pyarrow").ArrowException
    try:
        yield
    except (OSError, damaged) as error:
        raise LatentcastError(f"{file}: cannot be read ({error}); copy it anew") from error


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise missing_extra(
            "pyarrow", "huggingface", "reading Hugging Face datasets and parquet files"
        ) from error
