"""Bare arrays, ``.npy`` or ``.npz``: what an array does not hold must be given beside it.

Rate, lead names, unit and the order of the axes are arguments; none of them is read off a shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast import npy
from latentcast.errors import LatentcastError
from latentcast.signals.channels import Channels, Signal
from latentcast.signals.leads import canonical_names, check_names
from latentcast.signals.readers.roles import Roles
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.readers.table import Row, read_rows
from latentcast.signals.recording import INVALID, Recording, from_signal, hertz, millivolts_per
from latentcast.source import Annotation, BadRecord, RecordRef

LAYOUTS: tuple[str, ...] = ("records,leads,samples", "records,samples,leads")

NOT_FINITE: tuple[str, str] = ("nan_samples", "infinite_samples")
"""Of a record's metadata: how many of its samples are NaN, and infinite; absent where none is."""


class ArraySource(RecordingSource):
    """The records of one array ``(records, leads, samples)`` or ``(records, samples, leads)``.

    Args:
        path: the ``.npy`` file, or an ``.npz`` file that holds one array.
        sampling_rate: theirs, in Hz.
        leads: name of each channel, in file order.
        unit: V, mV, uV or nV; with signal ``other`` any.
        layout: one of :data:`LAYOUTS`.
        metadata: CSV with one row per record, in the order of the array; ``<name>.csv`` beside
            the array where it exists. The columns ``record_id``, ``patient_id``, ``fold`` (1 to
            10), ``split``, ``labels`` (codes divided by ``;`` or ``|``) and PTB-XL's ``ecg_id``,
            ``strat_fold``, ``scp_codes`` have their meaning, see
            :mod:`latentcast.signals.readers.roles`; all others are kept as metadata.
        signal: ``other`` for channels that are no ECG leads.

    Raises:
        LatentcastError: an argument is missing, or contradicts the file.
    """

    kind = "array"

    def __init__(
        self,
        path: Path,
        *,
        sampling_rate: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
        layout: str | None = None,
        metadata: str | Path | None = None,
        signal: Signal = "ecg",
    ) -> None:
        needed = {
            "--sampling-rate": sampling_rate, "--leads": leads, "--unit": unit, "--layout": layout,
        }  # fmt: skip
        missing = [flag for flag, value in needed.items() if value is None]
        if sampling_rate is None or leads is None or unit is None or layout is None:
            raise LatentcastError(
                f"{path}: an array does not name its {', '.join(missing)}; give what it has, for "
                "example --sampling-rate 500 --leads I,II,V1 --unit mV --layout "
                "records,leads,samples (--fs is another thing: the rate that the store shall have)"
            )
        self.path = path
        self.name = path.name
        self.sampling_rate = hertz(sampling_rate, "--sampling-rate")
        self.leads, self._factor = channels_of(leads, unit, signal)
        self.layout = layout
        array = _open(path)
        check_array(str(path), array, len(self.leads), layout)
        if array.ndim == 2:
            raise LatentcastError(
                f"{path}: has shape {array.shape}, one record; save it as array[np.newaxis]"
            )
        self.records = int(array.shape[0])
        beside = path.with_suffix(".csv")
        if metadata is None and beside.exists() and not beside.is_dir():
            metadata = beside
        self.metadata = None if metadata is None else Path(metadata)
        self._rows: list[Row] | None = None
        if self.metadata is not None:
            self._roles, self._rows = _read_rows(self.metadata, self.records)
            self.remarks = (f"{self.metadata}: {self._roles}",)

    @classmethod
    def detects(cls, path: Path) -> bool:
        return path.is_file() and path.suffix in (".npy", ".npz")

    def refs(self) -> list[RecordRef]:
        refs = []
        for row in range(self.records):
            record_id, split, problem = f"{self.path.stem}-{row:06d}", None, None
            if self._rows is not None:
                record_id = self._roles.cell(self._rows[row], "record") or record_id
                try:
                    split = self._roles.split(self._rows[row])
                except ValueError as error:
                    problem = f"its metadata row cannot be read: {error}"
            refs.append(RecordRef(record_id, self.path.name, row, problem, split))
        return refs

    def fingerprint(self) -> str:
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        if self.metadata is not None:
            digest.update(self.metadata.read_bytes())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        assert self.sampling_rate is not None and self.leads is not None
        block = _open(self.path)[ref.row]
        if self.layout == "records,samples,leads":
            block = block.T
        try:
            annotation = (
                Annotation() if self._rows is None else self._roles.annotation(self._rows[ref.row])
            )
        except ValueError as error:
            raise BadRecord(f"its metadata row cannot be read: {error}") from error
        recording = array_recording(
            block, self.leads, self._factor, self.sampling_rate, ref.record_id
        )
        return replace(recording, patient_id=annotation.patient_id), annotation


def check_array(
    name: str, array: npt.NDArray[Any], leads: int, layout: str = "records,leads,samples"
) -> None:
    """Refuse what is no array of recordings, or with two axes of one recording.

    Args:
        name: begins the message.
        leads: how many are named.
        layout: one of :data:`LAYOUTS`.

    Raises:
        LatentcastError: its layout is unknown, its leads are not where that has them, or it holds
            no numbers (truth values are none).
    """
    if layout not in LAYOUTS:
        raise LatentcastError(f"layout '{layout}': is unknown; give {' or '.join(LAYOUTS)}")
    if array.dtype.kind not in "iuf":
        raise LatentcastError(f"{name}: holds {array.dtype}, which is no signal; give numbers")
    shape = array.shape if array.ndim != 2 else (1, *array.shape)
    axis = layout.split(",").index("leads")
    if len(shape) == 3 and shape[axis] == leads:
        return
    fix = "name every lead, and leads alone"
    if len(shape) != 3:
        fix = "give it these axes"
    elif shape[3 - axis] == leads:
        fix = f"the other axis has {leads}: the layout is {LAYOUTS[2 - axis]}, or transpose it"
    raise LatentcastError(
        f"{name}: has shape {array.shape}; with {leads} leads and layout {layout} it needs 3 axes "
        f"(2 of one record) with {leads} of leads; {fix}"
    )


def array_recording(
    block: npt.NDArray[Any], leads: tuple[str, ...], factor: float, rate: float, record_id: str
) -> Recording:
    """One record ``(leads, samples)`` of an array that :func:`check_array` took.

    -32768 of int16 was not measured. ``metadata`` has :data:`NOT_FINITE`.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and counted
        signal = (block * np.float64(factor)).astype(np.float32)
    signal[not_measured(block)] = np.nan
    counts = (np.isnan(signal).sum(), np.isinf(signal).sum())
    metadata = {n: int(count) for n, count in zip(NOT_FINITE, counts, strict=True) if count}
    return from_signal(signal, leads, rate, record_id, metadata=metadata)


def not_measured(block: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where int16 counts are the lowest, by which WFDB and others mark such a sample."""
    int16 = block.dtype.kind == "i" and block.dtype.itemsize == 2
    return block == INVALID if int16 else np.zeros(block.shape, np.bool_)


def channels_of(leads: Sequence[str], unit: str, signal: Signal) -> tuple[tuple[str, ...], float]:
    """The names of an array's channels, and what its values are multiplied by.

    Raises:
        LatentcastError: a name or the unit cannot be used.
    """
    check_names(leads)
    if signal == "other":
        channels = Channels.of(leads, unit)
        return channels.names, channels.factor(unit)
    return canonical_names(tuple(leads)), millivolts_per(unit)


def _open(path: Path) -> npt.NDArray[Any]:
    try:
        stamp = path.stat()
    except OSError as error:
        raise LatentcastError(f"{path}: is no readable array file ({error})") from error
    return _load(path, stamp.st_mtime_ns, stamp.st_size)


# Opened once per process: a .npy is mapped, an .npz has to be unpacked into memory. The stamp is
# part of the key: a file that was saved anew must not be answered from the old one.
@lru_cache(maxsize=1)
def _load(path: Path, modified: int, size: int) -> npt.NDArray[Any]:
    try:
        names = list(npy.read_headers(path))
        if len(names) != 1:
            raise LatentcastError(
                f"{path}: holds {len(names)} arrays ({', '.join(names[:6])}); "
                "save the signals alone as .npy"
            )
        return npy.read_array(path, names[0])
    except (OSError, ValueError) as error:
        raise LatentcastError(f"{path}: is no readable array file ({error})") from error


def _read_rows(path: Path, records: int) -> tuple[Roles, list[Row]]:
    header, rows = read_rows(path)
    if len(rows) != records:
        raise LatentcastError(
            f"{path}: has {len(rows)} rows, the array {records} records; one row per record, in "
            "the order of the array"
        )
    return Roles.of(path, header, in_order=True), rows
