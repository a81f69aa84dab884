"""Hugging Face datasets on disk: ``save_to_disk`` folders and parquet files, read with pyarrow.

pyarrow alone is the lighter of the two packages that can: ``datasets`` needs it in any case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any

from latentcast.errors import LatentcastError, missing_extra, nearest
from latentcast.files import parse_object, read_object
from latentcast.images.folder import found_in, walk
from latentcast.images.source import (
    HELD_OUT_FIRST,
    ImageSource,
    SplitChoice,
    check_classes,
    hash_of_sizes,
    splits_of,
)
from latentcast.source import (
    SPLIT_NAMES,
    Annotation,
    BadRecord,
    RecordRef,
    Split,
    record_file,
    remark_of_hidden,
)

_DICT = "dataset_dict.json"
_STATE = "state.json"
LABELS = ("label", "labels", "target", "targets", "class", "y")
"""How columns of labels are called, in any case of letters."""
SMALL, DENSEST = 2**28, 100
"""Bytes that a parquet file may unpack to in any case, and times its size for a larger one."""


@dataclass(frozen=True)
class _Columns:
    """Names of the columns that are read; ``classes`` where the dataset names them."""

    image: str
    label: str | None
    classes: tuple[str, ...] | None


class HuggingFaceImages(ImageSource):
    """Images of an Arrow dataset, with the labels of one column; a list holds several.

    A file that cannot be read is one record with that problem; hidden files are passed over.

    That column is ``label``, else the one of the type ``ClassLabel`` or of :data:`LABELS`.

    Args:
        splits: what the names of splits or parquet files mean where some are unknown, see
            :func:`~latentcast.images.source.splits_of`.
        label_column: that of the labels, where it has another name or there are several.
        annotated: whether labels and splits are wanted; without them neither is unclear.

    Raises:
        LatentcastError: pyarrow is not installed, the dataset names its files wrongly, none of them
            can be read, or several columns could hold the images or the labels.
    """

    kind = "hugging face dataset"
    encoded = True

    def __init__(
        self,
        path: Path,
        splits: SplitChoice | None = None,
        label_column: str | None = None,
        annotated: bool = True,
    ) -> None:
        self.root = path if path.is_dir() else path.parent
        self.name = path.name
        hidden = walk(path)[1] if path.is_dir() else []
        self.remarks = remark_of_hidden(
            [name for name in hidden if Path(name).suffix == ".parquet"]
        )
        listed = _listing(path, splits, annotated)
        self._files = dict(listed)
        if not listed or len(self._files) < len(listed):
            what = "lists a file twice" if listed else "lists no files"
            raise LatentcastError(f"{path}: {what}; save the dataset anew")
        with _reading():
            self._columns = self._choose(label_column, annotated)
        self._damaged: dict[str, str] = {}
        self._problems: dict[tuple[str, int], str] = {}
        self.classes, self._labels = self._read_labels()

    @classmethod
    def detects(cls, path: Path) -> bool:
        if path.is_file():
            return path.suffix == ".parquet"
        return (
            (path / _DICT).is_file()
            or (path / _STATE).is_file()
            or any(name.endswith(".parquet") for name, hidden in found_in(path) if not hidden)
        )

    def refs(self) -> list[RecordRef]:
        rows: dict[Split | None, int] = {}
        refs = []
        for name, split in self._files.items():
            if name in self._damaged:
                refs.append(RecordRef(name, name, problem=self._damaged[name], split=split))
                continue
            begin, labels = rows.get(split, 0), self._labels[name]
            for row in range(len(labels)):
                record = f"{split or self.root.name}-{begin + row:06d}"
                refs.append(RecordRef(record, name, row, self._problems.get((name, row)), split))
            rows[split] = begin + len(labels)
        return sorted(refs, key=lambda ref: HELD_OUT_FIRST.index(ref.split))

    def fingerprint(self) -> str:
        return hash_of_sizes(self.root, self._files)

    def read(self, ref: RecordRef) -> tuple[bytes, Annotation]:
        table = self._images(ref.file)
        with _reading():
            cell = table.column(self._columns.image)[ref.row].as_py()
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

    def _images(self, name: str) -> Any:
        table = self._tables[name]
        if isinstance(table, BadRecord):
            raise BadRecord(str(table))
        return table

    @cached_property
    def _tables(self) -> dict[str, Any]:
        """By file, its column of images, or why there is none."""
        # Arrow files are mapped; parquet files are read, one column of them.
        tables: dict[str, Any] = {}
        for name in self._files:
            try:
                tables[name] = _table(record_file(self.root, name), [self._columns.image])
            except BadRecord as problem:
                tables[name] = problem
        return tables

    def _first(self) -> tuple[Path, Any, dict[str, Any]]:
        """The first file that can be opened, its schema, and the features that describe it."""
        problems = []
        for name in self._files:
            try:
                file = record_file(self.root, name)
                parquet = file.suffix == ".parquet"
                schema = _parquet(file).schema_arrow if parquet else _arrow(file).schema
                return file, schema, _features(schema, file)
            except BadRecord as problem:
                problems.append(f"{self.root / name}: {problem}")
        raise LatentcastError(problems[0])

    def _choose(self, label: str | None, annotated: bool) -> _Columns:
        first, schema, features = self._first()
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
        if not annotated:
            return _Columns(images[0], None, None)
        named = {
            name: tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
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
                f"({', '.join(candidates)}); choose one, such as --label-column {candidates[0]}"
            )
        elif label is None and candidates:
            (label,) = candidates
        elif label is None and others:
            self.remarks += (
                f"none of the columns {', '.join(others)} is read as the label; --label-column "
                f"{others[0]} would read it so",
            )
        return _Columns(images[0], label, named.get(label or ""))

    def _read_labels(self) -> tuple[tuple[str, ...], dict[str, list[tuple[int, ...]]]]:
        """The classes, and by file those of each row; none where it has no label.

        A label that is none of the classes, or neither text nor a whole number, is a problem of
        its row.
        """
        label, classes = self._columns.label, self._columns.classes
        columns: dict[str, list[list[Any]]] = {}
        for name in self._files:
            try:
                if label is None:
                    columns[name] = [[]] * len(self._images(name))
                else:
                    cells = _column(record_file(self.root, name), label)
                    columns[name] = [_several(cell) for cell in cells]
            except BadRecord as problem:
                self._damaged[name] = str(problem)
        if not columns:
            name, why = next(iter(self._damaged.items()))
            raise LatentcastError(f"{self.root / name}: {why}")
        if label is None:
            return (), {name: [()] * len(rows) for name, rows in columns.items()}
        every = [value for column in columns.values() for row in column for value in row]
        values = {value for value in every if isinstance(value, int | str)}
        if every and not values:
            raise LatentcastError(
                f"{self.root / self.name}: {label} is neither whole numbers nor text; cast it, or "
                "name another column with --label-column"
            )
        if classes is None:
            if len({isinstance(value, str) for value in values}) > 1:
                raise LatentcastError(
                    f"{self.root / self.name}: {label} holds whole numbers and text; cast it to "
                    "ClassLabel, or name another column with --label-column"
                )
            order: list[Any] = sorted(values)
            classes = tuple(map(str, order))
            check_classes(str(self.root / self.name), classes)
        else:
            order = list(range(len(classes)))
        ids = {value: i for i, value in enumerate(order)}
        labels = dict[str, list[tuple[int, ...]]]()
        for name, column in columns.items():
            labels[name] = []
            for row, found in enumerate(column):
                strange = [v for v in found if not isinstance(v, int | str) or v not in ids]
                if strange:
                    what = f"one of the {len(classes)} classes" if order else "a number or text"
                    text = str(strange[0])[:40]
                    self._problems[name, row] = f"its {label} {text!r} is not {what}"
                labels[name].append(() if strange else tuple(ids[value] for value in found))
        return classes, labels


def _several(value: Any) -> list[Any]:
    """The labels of a cell, which may hold a list; none for an empty one and for -1."""
    return [v for v in (value if isinstance(value, list) else [value]) if v not in (None, -1)]


def _listing(
    path: Path, choice: SplitChoice | None, annotated: bool
) -> list[tuple[str, Split | None]]:
    """The files by their name below the dataset, none of them opened."""
    if (path / _STATE).is_file():
        return [(name, None) for name in _saved(path)]
    if (path / _DICT).is_file():
        names = _json(path, _DICT).get("splits")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise LatentcastError(f"{path / _DICT}: lists no splits; save the dataset anew")
        words = {name: name for name in names}
        splits = splits_of(str(path), words, choice, "one set", annotated)
        return [(file, splits[name]) for name in names for file in _saved(path, name)]
    names = [path.name] if path.is_file() else walk(path)[0]
    listed = [name for name in names if Path(name).suffix == ".parquet"]
    words = {name: _word(Path(name)) for name in listed}
    splits = splits_of(str(path), words, choice, "one set", annotated)
    return list(splits.items())


def _saved(root: Path, split: str = "") -> list[str]:
    """The files of one ``save_to_disk`` folder, in their order."""
    state = str(PurePath(split, _STATE))
    parts = _json(root, state).get("_data_files")
    parts = parts if isinstance(parts, list) else []
    names = [p.get("filename") if isinstance(p, dict) else None for p in parts]
    if not names or not all(isinstance(name, str) for name in names):
        raise LatentcastError(f"{root / state}: names no data files; save the dataset anew")
    files = [PurePath(split, str(name)).as_posix() for name in names]
    for file in files:
        _inside(root, file)
    return files


def _inside(root: Path, name: str) -> Path:
    try:
        return record_file(root, name)
    except BadRecord as problem:
        raise LatentcastError(f"{root}: {problem}") from None


def _word(file: Path) -> str:
    """What may name a split, in a file such as ``train-00000-of-00004`` or its folder, of a path
    within the dataset: what the dataset itself is called names none."""
    words = [re.split(r"[-_.]", name)[0] for name in (file.stem, file.parent.name)]
    return next((word for word in words if word.lower() in SPLIT_NAMES), words[0])


def _json(root: Path, name: str) -> dict[str, Any]:
    try:
        return read_object(_inside(root, name))
    except (OSError, ValueError) as error:
        raise LatentcastError(
            f"{root / name}: cannot be read ({error}); save the dataset anew"
        ) from error


def _features(schema: Any, file: Path) -> dict[str, Any]:
    """The description of the columns: in the schema, or beside the file."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    with _reading():
        info = parse_object(metadata).get("info") if metadata else None
    if not info and (file.parent / "dataset_info.json").exists():
        info = _json(file.parent, "dataset_info.json")
    features = info.get("features") if isinstance(info, dict) else None
    return features if isinstance(features, dict) else {}


def _holds_bytes(kind: Any) -> bool:
    text = str(kind)
    return text in ("binary", "large_binary") or (
        text.startswith("struct<") and "bytes: binary" in text
    )


def _column(file: Path, name: str) -> list[Any]:
    with _reading():
        values: list[Any] = _table(file, [name]).column(name).to_pylist()
        return values


def _table(file: Path, columns: list[str]) -> Any:
    """Some columns of a file, of which every offset and text was checked.

    pyarrow trusts what a file says of itself until it is asked to look: one wrong byte, and a cell
    is read from elsewhere in memory, or the process ends.
    """
    with _reading():
        if file.suffix == ".parquet":
            table = _parquet(file).read(columns)
        else:
            table = _arrow(file).read_all().select(columns)
        table.validate(full=True)
        return table


def _parquet(file: Path) -> Any:
    with _reading():
        opened = _package("pyarrow.parquet").ParquetFile(file, page_checksum_verification=True)
        groups = map(opened.metadata.row_group, range(opened.metadata.num_row_groups))
        unpacked = sum(group.total_byte_size for group in groups)
        if unpacked > max(SMALL, DENSEST * file.stat().st_size):
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
        return opened


def _arrow(file: Path) -> Any:
    mapped = _package("pyarrow").memory_map
    with _reading():
        return _package("pyarrow.ipc").open_stream(mapped(str(file)))


@contextmanager
def _reading() -> Iterator[None]:
    """pyarrow reports bad files by whatever exception its parsing runs into."""
    try:
        yield
    except LatentcastError:
        raise
    except Exception as error:
        raise BadRecord(f"cannot be read ({error}); copy it anew") from error


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise missing_extra(
            "pyarrow", "huggingface", "reading Hugging Face datasets and parquet files"
        ) from error
