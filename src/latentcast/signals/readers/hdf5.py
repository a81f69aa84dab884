"""HDF5 files of many recordings, such as CODE-15: one array of numbers with three axes.

As of any array, rate, leads, unit and axes must be given. ``exam_id`` (or ``record_id``, ``id``)
beside the array names the records, ``patient_id`` their patients. Zeros of all leads before and
after a recording pad it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, missing_extra
from latentcast.signals.channels import Signal
from latentcast.signals.readers.arrays import (
    LAYOUTS,
    array_recording,
    channels_of,
    check_array,
    not_measured,
)
from latentcast.signals.readers.comments.field import patient_of
from latentcast.signals.readers.file_format import MOST_VALUES, ends_of
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.recording import Recording, hertz
from latentcast.source import Annotation, BadRecord, RecordRef, find_files, record_file

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".hdf5", ".h5", ".hdf")
IDS = ("exam_id", "record_id", "id")
PATIENTS = ("patient_id", "patient", "subject_id")
DENSEST = 1100
"""Bytes of samples for each byte of a file: what its compression can reach."""


class Hdf5Source(RecordingSource):
    """The records of an HDF5 file, or of all in a folder.

    Args:
        path: the file or folder.
        sampling_rate: theirs, in Hz.
        leads: name of each channel, in file order.
        unit: V, mV, uV or nV; with signal ``other`` any.
        layout: one of :data:`~latentcast.signals.readers.arrays.LAYOUTS`.
        signal: ``other`` for channels that are no ECG leads.

    Raises:
        LatentcastError: an argument is missing or contradicts a file, or h5py is not installed.
    """

    kind = "hdf5"

    def __init__(
        self,
        path: Path,
        *,
        sampling_rate: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
        layout: str | None = None,
        signal: Signal = "ecg",
    ) -> None:
        needed = {
            "--sampling-rate": sampling_rate, "--leads": leads, "--unit": unit, "--layout": layout,
        }  # fmt: skip
        missing = [flag for flag, value in needed.items() if value is None]
        if sampling_rate is None or leads is None or unit is None or layout is None:
            raise LatentcastError(
                f"{path}: an HDF5 file does not name its {', '.join(missing)}; give what it has, "
                "for example --sampling-rate 400 --leads I,II,III --unit mV --layout "
                f"{LAYOUTS[1]}"
            )
        self.root, self.name = (path.parent, path.name) if path.is_file() else (path, path.name)
        self.sampling_rate, self.layout = hertz(sampling_rate, "--sampling-rate"), layout
        self._channels, self._factor = channels_of(leads, unit, signal)
        self.leads = self._channels
        self._files = [path.name] if path.is_file() else _files(path)
        self._patients: dict[str, list[str]] = {}
        self._refs = [ref for file in self._files for ref in self._of_file(file)]

    @classmethod
    def detects(cls, path: Path) -> bool:
        return is_hdf5(path) if path.is_file() else path.is_dir() and bool(_files(path))

    def refs(self) -> Sequence[RecordRef]:
        return self._refs

    def fingerprint(self) -> str:
        """Of the size and the first and last bytes of each file, and of the ids."""
        digest = hashlib.sha256()
        for name in self._files:
            digest.update(f"{name}\t".encode())
            digest.update(ends_of(record_file(self.root, name)))
        for ref in self._refs:
            digest.update(f"{ref.record_id}\n".encode())
        for name, patients in self._patients.items():
            digest.update("\n".join([name, *patients]).encode())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        array = self._open(ref.file)[1]
        try:
            block = array[ref.row]
        except (OSError, ValueError, RuntimeError) as error:
            raise BadRecord(f"cannot be read ({error})") from None
        if self.layout == LAYOUTS[1]:
            block = block.T
        assert self.sampling_rate is not None
        block = _without_padding(block)
        owners = self._patients.get(ref.file)
        return (
            array_recording(block, self._channels, self._factor, self.sampling_rate, ref.record_id),
            Annotation(None if owners is None else patient_of(owners[ref.row])),
        )

    def _of_file(self, name: str) -> list[RecordRef]:
        file, array = self._open(name)
        records, stem = int(array.shape[0]), Path(name).stem
        ids = self._texts(file, IDS, records) or [f"{stem}-{row:06d}" for row in range(records)]
        if (patients := self._texts(file, PATIENTS, records)) is not None:
            self._patients[name] = patients
        return [RecordRef(record_id, name, row) for row, record_id in enumerate(ids)]

    def _texts(self, file: Any, names: Sequence[str], records: int) -> list[str] | None:
        """The first dataset of these names, as text for each recording; None without any.

        Raises:
            LatentcastError: it is not one value for each recording.
        """
        for name in names:
            if not _is_plain(file, name):
                continue
            if file[name].shape != (records,):
                raise LatentcastError(
                    f"{file.filename}: '{name}' has shape {file[name].shape} for {records} "
                    "recordings; give it one value for each, or another name"
                )
            values = file[name][:].tolist()
            return [
                v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values
            ]
        return None

    def _open(self, name: str) -> tuple[Any, Any]:
        """The file, and the array of its recordings."""
        path = record_file(self.root, name)
        stamp = path.stat()
        file, array = _load(path, stamp.st_mtime_ns, stamp.st_size, os.getpid())
        check_array(f"{path}: '{array.name}'", array, len(self._channels), self.layout)
        return file, array


def is_hdf5(path: Path) -> bool:
    """A file that begins as HDF5 does."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def _files(root: Path) -> list[str]:
    names = sorted(name for suffix in SUFFIXES for name in find_files(root, f"*{suffix}")[0])
    return [name for name in names if is_hdf5(root / name)]


# The stamp is part of the key, as of arrays; and the process, since a fork shares the open file.
@lru_cache(maxsize=1)
def _load(path: Path, modified: int, size: int, process: int) -> tuple[Any, Any]:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "ecg", f"{path.name} (HDF5)") from error
    try:
        file = h5py.File(path, "r")
        keys = [key for key in file if _is_plain(file, key)]
        arrays = [
            file[key] for key in keys if file[key].ndim == 3 and file[key].dtype.kind in "iuf"
        ]
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise LatentcastError(f"{path}: is no readable HDF5 file ({error})") from error
    if len(arrays) != 1:
        found = ", ".join(keys[:8]) or "none"
        raise LatentcastError(
            f"{path}: has {len(arrays)} arrays of recordings with 3 axes among its datasets "
            f"({found}); save the signals as its one array of records"
        )
    (array,) = arrays
    values = int(np.prod([float(n) for n in array.shape]))
    if values * array.dtype.itemsize > DENSEST * size or values > MOST_VALUES * array.shape[0]:
        raise LatentcastError(
            f"{path}: announces {values:,} samples in {size:,} bytes, which cannot be; restore it"
        )
    return file, array


def _is_plain(file: Any, key: str) -> bool:
    """A dataset in the file itself: links, virtual datasets and external storage lead elsewhere."""
    import h5py

    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        return False
    item = file[key]
    return isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external


def _without_padding(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``(leads, samples)`` with NaN where all leads are 0 from the beginning on or to the end."""
    some = np.flatnonzero((block != 0).any(axis=0))
    if not len(some) or (some[0] == 0 and some[-1] == block.shape[1] - 1):
        return block
    block = np.where(not_measured(block), np.nan, block.astype(np.float64))
    block[:, : some[0]] = np.nan
    block[:, some[-1] + 1 :] = np.nan
    return block
