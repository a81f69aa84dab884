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
from pathlib import Path
from typing import Any

from latentcast.errors import LatentcastError, missing_extra, nearest
from latentcast.files import inside, parse_object, read_object
from latentcast.images.source import (
    HELD_OUT_FIRST,
    SPLIT_NAMES,
    ImageSource,
    SplitChoice,
    check_classes,
    hash_of_sizes,
    splits_of,
)
from latentcast.source import (
    Annotation,
    BadRecord,
    RecordRef,
    Split,
    find_files,
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
        self._files, hidden = _listing(path, splits)
        self.remarks = remark_of_hidden(hidden)
        self._columns = self._choose(label)
        self._problems: dict[tuple[str, int], str] = {}
        self.classes, self._labels = self._read_labels()

    @classmethod
    def detects(cls, path: Path) -> bool:
        if path.is_file():
            return path.suffix == ".parquet"
        return (
            (path / _DICT).is_file()
            or (path / _STATE).is_file()
            or bool(find_files(path, "*.parquet")[0])
        )

    def refs(self) -> list[RecordRef]:
        rows: dict[Split | None, int] = {}
        refs = []
        for (_, split), (name, labels) in zip(self._files, self._labels.items(), strict=True):
            begin = rows.get(split, 0)
            for row in range(len(labels)):
                record = f"{split or self.root.name}-{begin + row:06d}"
                refs.append(RecordRef(record, name, row, self._problems.get((name, row)), split))
            rows[split] = begin + len(labels)
        return sorted(refs, key=lambda ref: HELD_OUT_FIRST.index(ref.split))

    def fingerprint(self) -> str:
        return hash_of_sizes(self.root, (file for file, _ in self._files))

    def read(self, ref: RecordRef) -> tuple[bytes, Annotation]:
        with _reading(self.root / ref.file):
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
        return {self._name(file): _table(file, [self._columns.image]) for file, _ in self._files}

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

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
                f"({', '.join(candidates)}); choose one, such as --label {candidates[0]}"
            )
        elif label is None and candidates:
            (label,) = candidates
        elif label is None and others:
            self.remarks += (
                f"none of the columns {', '.join(others)} is read as the label; --label "
                f"{others[0]} would read it so",
            )
        return _Columns(images[0], label, named.get(label or ""))

    def _read_labels(self) -> tuple[tuple[str, ...], dict[str, list[tuple[int, ...]]]]:
        """The classes, and by file those of each row; none where it has no label.

        A label that is none of the classes, or neither text nor a whole number, is a problem of
        its row.
        """
        label, classes = self._columns.label, self._columns.classes
        files = {self._name(file): file for file, _ in self._files}
        if label is None:
            return (), {name: [()] * len(table) for name, table in self._tables.items()}
        columns = {
            name: [_several(value) for value in _column(file, label)]
            for name, file in files.items()
        }
        every = [value for column in columns.values() for row in column for value in row]
        values = {value for value in every if isinstance(value, int | str)}
        if every and not values:
            raise LatentcastError(
                f"{self.root / self.name}: {label} is neither whole numbers nor text; cast it, or "
                "name another column with --label"
            )
        if classes is None:
            if len({isinstance(value, str) for value in values}) > 1:
                raise LatentcastError(
                    f"{self.root / self.name}: {label} holds whole numbers and text; cast it to "
                    "ClassLabel, or name another column with --label"
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
    path: Path, choice: SplitChoice | None
) -> tuple[list[tuple[Path, Split | None]], list[str]]:
    """The files and their splits, and those left out because they are hidden."""
    if (path / _STATE).is_file():
        return [(file, None) for file in _saved(path)], []
    if (path / _DICT).is_file():
        names = _json(path / _DICT).get("splits")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise LatentcastError(f"{path / _DICT}: lists no splits; save the dataset anew")
        splits = splits_of(str(path), {name: name for name in names}, choice, "one set")
        return [(file, splits[name]) for name in names for file in _saved(path / name)], []
    root = path.parent if path.is_file() else path
    listed, hidden = ([path.name], []) if path.is_file() else find_files(root, "*.parquet")
    splits = splits_of(str(path), {name: _word(Path(name)) for name in listed}, choice, "one set")
    return [(record_file(root, name), split) for name, split in splits.items()], hidden


def _saved(folder: Path) -> list[Path]:
    """The files of one ``save_to_disk`` folder, in their order."""
    parts = _json(folder / _STATE).get("_data_files")
    names = [p.get("filename") if isinstance(p, dict) else None for p in parts or ()]
    if not names or not all(isinstance(name, str) for name in names):
        raise LatentcastError(f"{folder / _STATE}: names no data files; save the dataset anew")
    return [inside(folder, str(name)) for name in names]


def _word(file: Path) -> str:
    """What may name a split, in a file such as ``train-00000-of-00004`` or its folder, of a path
    within the dataset: what the dataset itself is called names none."""
    words = [re.split(r"[-_.]", name)[0] for name in (file.stem, file.parent.name)]
    return next((word for word in words if word.lower() in SPLIT_NAMES), words[0])


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_object(inside(path.parent, path.name))
    except (OSError, ValueError) as error:
        raise LatentcastError(f"{path}: cannot be read ({error}); save the dataset anew") from error


def _features(schema: Any, file: Path) -> dict[str, Any]:
    """The description of the columns: in the schema, or beside the file."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    with _reading(file):
        info = parse_object(metadata).get("info") if metadata else None
    if not info and (file.parent / "dataset_info.json").is_file():
        info = _json(file.parent / "dataset_info.json")
    features = info.get("features") if isinstance(info, dict) else None
    return features if isinstance(features, dict) else {}


def _holds_bytes(kind: Any) -> bool:
    text = str(kind)
    return text in ("binary", "large_binary") or (
        text.startswith("struct<") and "bytes: binary" in text
    )


def _column(file: Path, name: str) -> list[Any]:
    with _reading(file):
        values: list[Any] = _table(file, [name]).column(name).to_pylist()
        return values


def _table(file: Path, columns: list[str]) -> Any:
    """Some columns of a file, of which every offset and text was checked.

    pyarrow trusts what a file says of itself until it is asked to look: one wrong byte, and a cell
    is read from elsewhere in memory, or the process ends.
    """
    with _reading(file):
        if file.suffix == ".parquet":
            table = _parquet(file).read(columns)
        else:
            table = _arrow(file).read_all().select(columns)
        table.validate(full=True)
        return table


def _parquet(file: Path) -> Any:
    with _reading(file):
        opened = _package("pyarrow.parquet").ParquetFile(file, page_checksum_verification=True)
        groups = map(opened.metadata.row_group, range(opened.metadata.num_row_groups))
        unpacked = sum(group.total_byte_size for group in groups)
        if unpacked > max(SMALL, DENSEST * file.stat().st_size):
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
        return opened


def _arrow(file: Path) -> Any:
    mapped = _package("pyarrow").memory_map
    with _reading(file):
        return _package("pyarrow.ipc").open_stream(mapped(str(file)))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """pyarrow reports bad files by whatever exception its parsing runs into."""
    try:
        yield
    except LatentcastError:
        raise
    except Exception as error:
        raise LatentcastError(f"{file}: cannot be read ({error}); copy it anew") from error


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise missing_extra(
            "pyarrow", "huggingface", "reading Hugging Face datasets and parquet files"
        ) from error
