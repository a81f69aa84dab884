"""The file formats, and the choice between them by what lies at a path.

A new one is a file in :mod:`latentcast.signals.readers` or :mod:`latentcast.images` and a line in
:data:`FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from latentcast.archives import archive_of
from latentcast.errors import LatentcastError, quoted
from latentcast.images.arrays import ImageArrays, looks_like_images
from latentcast.images.folder import ImageFolder
from latentcast.images.huggingface import HuggingFaceImages
from latentcast.images.webdataset import WebDataset
from latentcast.places import is_store
from latentcast.signals.readers.arrays import ArraySource
from latentcast.signals.readers.datasets.code15 import Code15
from latentcast.signals.readers.datasets.mimic import MimicIvEcg
from latentcast.signals.readers.datasets.samitrop import SamiTrop
from latentcast.signals.readers.ecg_files import EcgFiles, is_ecg_file
from latentcast.signals.readers.file_table import SUFFIXES as TABLES
from latentcast.signals.readers.file_table import FileTable
from latentcast.signals.readers.hdf5 import Hdf5Source
from latentcast.signals.readers.listed_files import FilePattern
from latentcast.signals.readers.packed import PackedSource
from latentcast.signals.readers.table import read_header
from latentcast.signals.readers.wfdb_folder import WfdbFolder
from latentcast.source import PACKED, Modality, Source, is_hidden, packed_files

FORMATS: tuple[type[Source[Any]], ...] = (
    FilePattern,
    FileTable,
    MimicIvEcg,
    Code15,
    SamiTrop,
    PackedSource,
    EcgFiles,
    WfdbFolder,
    ArraySource,
    Hdf5Source,
    ImageArrays,
    HuggingFaceImages,
    ImageFolder,
    WebDataset,
)
"""In the order in which they are tried: a recording counts more than the images beside it.
an option of ``ingest`` means to a format is an argument of its class by the same name."""

READER_ONLY = {"sampling_rate", "unit", "layout", "rename", "splits", "label_column"}
"""Options that mean nothing to a store whose reader does not take them."""


def open_source(path: str | Path, modality: Modality | None = None, **options: Any) -> Source[Any]:
    """The source at ``path``, with the options of :func:`latentcast.data.ingest.ingest`.

    Raises:
        LatentcastError: no format reads it, or an option is of another format.
    """
    return open_as(format_of(Path(path), modality), Path(path), options)


def format_of(path: Path, modality: Modality | None = None) -> type[Source[Any]]:
    """The first format (of the modality, where it is given) that detects itself at ``path``.

    Raises:
        LatentcastError: none does.
    """
    if modality is None and is_array_file(path):
        modality = "image" if looks_like_images(path) else "ecg"
    for reader in FORMATS:
        if modality in (None, reader.modality) and reader.detects(path):
            return reader
    what = {"ecg": "recordings", "image": "images", None: "records"}[modality]
    if is_store(path):
        raise LatentcastError(f"{path}: is already a store; name the source it was made from")
    if is_ecg_file(path):
        raise LatentcastError(
            f"{path}: is a single record; name its folder, {path.parent} (or embed the record)"
        )
    if path.is_dir():
        arrays = sorted(file.name for file in _arrays_in(path))
        files = [path / name for name in (arrays or packed_files(path))]
        hint = f"name one file, {files[0]}" if files else "is this the right folder?"
        raise LatentcastError(
            f"{path}: holds no {what} (no .hea header, no signals.json, no image file); {hint}"
        )
    if path.name.lower().endswith(PACKED) and path.is_file():
        raise LatentcastError(
            f"{path}: is no .zip, .tar or .tar.gz, and is not unpacked here; unpack it, and name "
            "what it held"
        )
    if path.suffix.lower() in TABLES and (columns := read_header(path)):
        listed = ", ".join(quoted(name, 40) for name in columns[:12])
        raise LatentcastError(
            f"{path}: its columns {listed} name neither the file of a recording nor leads; call "
            "the one of the files path, or those of leads by their names (I, II, V1)"
        )
    problem = "is of no format read here" if path.exists() else "does not exist"
    raise LatentcastError(f"{path}: {problem}; name the folder or array file of the {what}")


def takes(reader: type[Source[Any]] | Source[Any], name: str) -> bool:
    """Whether a format reads an option itself."""
    return isinstance(reader, type) and name in signature(reader).parameters


def open_as(reader: type[Source[Any]], path: Any, options: Mapping[str, Any]) -> Source[Any]:
    """The source at ``path`` in this format, with those of the options that its class takes.

    Raises:
        LatentcastError: what the class raises, or an option is of another format.
    """
    taken = signature(reader).parameters.keys() & options.keys()
    for name in sorted(READER_ONLY):
        if options.get(name) is not None and name not in taken:
            kinds = [r.kind for r in FORMATS if name in signature(r).parameters]
            raise LatentcastError(
                f"--{name.replace('_', '-')}: is for sources of kind {' or '.join(kinds)}, {path} "
                f"is read as {reader.kind}; leave it out"
            )
    make: Callable[..., Source[Any]] = reader
    return make(Path(path), **{name: options[name] for name in taken})


def is_archive(path: str | Path) -> bool:
    """Whether it is to be unpacked: an archive, or a path into one, and no format of its own."""
    path = Path(path)
    return archive_of(path) is not None and not any(reader.detects(path) for reader in FORMATS)


def only_array(folder: Path) -> Path:
    """The one array file of a folder that is of no format, or the folder."""
    arrays = _arrays_in(folder) if folder.is_dir() else []
    if len(arrays) == 1 and not any(reader.detects(folder) for reader in FORMATS):
        return arrays[0]
    return folder


def _arrays_in(folder: Path) -> list[Path]:
    files = filter(is_array_file, folder.iterdir())
    return [file for file in files if not is_hidden(Path(file.name))]


def is_array_file(path: Path) -> bool:
    """Whether it is a NumPy file, of recordings or of images."""
    return ArraySource.detects(path)
