"""Arrays in ``.npy`` and ``.npz`` files that may be damaged: sizes are checked before memory is
taken, and whatever is wrong is one kind of error.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from latentcast.files import regular

Array = npt.NDArray[Any]

_SMALL = 2**28
"""Bytes that a compressed array may unpack to in any case."""
_DENSEST = 100
"""Times its size that a larger one may unpack to; deflate reaches 1,000 on what holds nothing."""


def map_array(path: Path) -> Array:
    """The array of a ``.npy`` file, mapped.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds Python objects.
    """
    try:
        with regular(path).open("rb") as file:
            _check_header(file, path.stat().st_size)
        mapped: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped
    except OSError:
        raise
    except Exception as problem:  # of the header's parser: tokenize, ast, overflow, recursion
        raise ValueError(str(problem) or type(problem).__name__) from None


def array_of(body: bytes) -> Array:
    """The array in the bytes of a ``.npy`` file.

    Raises:
        ValueError: they are damaged, or hold Python objects.
    """
    try:
        _check_header(file := BytesIO(body), len(body))
        file.seek(0)
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array
    except Exception as problem:
        raise ValueError(str(problem) or type(problem).__name__) from None


Header = tuple[tuple[int, ...], np.dtype[Any]]
"""Shape and type."""


def read_headers(path: Path) -> dict[str, Header]:
    """Shape and type of each array of a ``.npy`` or ``.npz`` file, by name; no array is read.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    try:
        if path.suffix == ".npy":
            with regular(path).open("rb") as file:
                return {path.stem: _check_header(file, path.stat().st_size, True)}
        headers: dict[str, Header] = {}
        with zipfile.ZipFile(regular(path)) as archive:
            for info in archive.infolist():
                with archive.open(info) as member:
                    headers[info.filename.removesuffix(".npy")] = _check_header(
                        member, info.file_size, listing=True
                    )
        return headers
    except OSError:
        raise
    except Exception as problem:
        raise ValueError(str(problem) or type(problem).__name__) from None


def read_array(path: Path, name: str) -> Array:
    """One array of a file, by its name in :func:`read_headers`; that of a ``.npy`` is mapped.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or would unpack to far more than the file.
    """
    return map_array(path) if path.suffix == ".npy" else read_members(path, [name])[name]


def read_members(path: Path, names: Iterable[str], optional: bool = False) -> dict[str, Array]:
    """Arrays of an ``.npz`` file, in memory; those that are ``optional`` may be missing.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, an array is missing, or would unpack to far more than the file.
    """
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(regular(path)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name in names:
                if name not in members:
                    if optional:
                        continue
                    raise ValueError(f"the array {name} is missing")
                info = members[name]
                if info.file_size > max(_SMALL, _DENSEST * info.compress_size):
                    raise ValueError(f"the array {name} would unpack to {info.file_size:,} bytes")
                with archive.open(info) as file:
                    _check_header(file, info.file_size)
                with archive.open(info) as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                    file.read(1)  # only at its end is the checksum compared
    except OSError:
        raise
    except Exception as problem:  # of zipfile, zlib and the header's parser: a dozen kinds
        raise ValueError(str(problem) or type(problem).__name__) from None
    return arrays


def _check_header(file: IO[bytes], size: int, listing: bool = False) -> Header:
    """Shape and type by a header; Python objects may be listed, and not read.

    Raises:
        ValueError: the array that it declares does not fill the bytes that are left.
    """
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"is of .npy version {version}")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        if listing:
            return shape, dtype
        raise ValueError("holds Python objects, which are not unpickled")
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or dtype.itemsize == 0 or declared != size - file.tell():
        raise ValueError(f"declares {dtype} {shape}, and has {size - file.tell():,} bytes")
    return shape, dtype
