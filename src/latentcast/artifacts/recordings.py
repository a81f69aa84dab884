"""Recordings, wherever they lie, as the windows of counts that an encoder reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.config import EcgInput
from latentcast.data.formats import is_array_file, open_source
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.signals.counts import to_counts
from latentcast.signals.leads import canonical_names
from latentcast.signals.readers import read_recording
from latentcast.signals.readers.arrays import LAYOUTS
from latentcast.signals.recording import INVALID, Recording, from_signal, millivolts_per
from latentcast.signals.windows import window_starts
from latentcast.source import BadRecord, Source

Counts = npt.NDArray[np.int16]
ACCEPTED = (
    "a Recording, the path of a record, of a folder or of an array file, an array with fs, leads "
    "and unit, a store, or a list of these"
)


@dataclass(frozen=True)
class ArrayAxes:
    """What has to be given with an array; see :class:`~latentcast.signals.readers.arrays`."""

    fs: float | None
    leads: Sequence[str] | None
    unit: str | None
    layout: str


class RecordingReader:
    """Brings recordings to int16 windows ``(windows, length, leads)``, as ingest and evaluation do.

    Args:
        config: what the encoder was trained on.
        axes: of the arrays among the inputs.
        resample: a recording at another rate is resampled, as ``ingest --fs`` does it, instead of
            refused.
    """

    def __init__(self, config: EcgInput, axes: ArrayAxes, resample: bool) -> None:
        self.config, self.axes, self.resample = config, axes, resample

    def read(self, source: Any, rows: npt.ArrayLike | None = None) -> Iterator[tuple[str, Counts]]:
        """The id and the windows of every recording, in the order of the source.

        Raises:
            LatentcastError: it is nothing that can be read, or a recording cannot be used.
        """
        if isinstance(source, Store):
            yield from self._of_store(source, rows)
            return
        if rows is not None:
            raise LatentcastError("rows: are of a store; leave them out, or choose from the list")
        for recording in self._recordings(source):
            yield recording.record_id, self.windows(self.counts(recording))

    def counts(self, recording: Recording) -> Counts:
        """A recording as the store would hold it: int16 ``(samples, leads)``.

        Raises:
            LatentcastError: another sampling rate, a missing lead, or an amplitude beyond int16.
        """
        rate = self.config.sampling_rate
        if recording.sampling_rate != rate and not self.resample:
            raise LatentcastError(
                f"{recording.record_id}: sampling_rate is {recording.sampling_rate:g}, the encoder "
                f"needs {rate:g}; embed it with resample=True"
            )
        return to_counts(recording, self.config.leads, self.config.scale, sampling_rate=rate)

    def windows(self, counts: Counts) -> Counts:
        """Counts ``(samples, leads)`` cut to windows of the training length; a short one padded."""
        length = self.config.length
        starts = window_starts(len(counts), length)
        windows = np.full((len(starts), length, counts.shape[1]), INVALID, np.int16)
        for window, start in zip(windows, starts, strict=True):
            piece = counts[start : start + length]
            window[: len(piece)] = piece
        return windows

    def _of_store(self, store: Store, rows: npt.ArrayLike | None) -> Iterator[tuple[str, Counts]]:
        config = self.config
        equal = (store.sampling_rate, store.leads, store.scale) == (
            config.sampling_rate, config.leads, config.scale,
        )  # fmt: skip
        for row in np.arange(len(store)) if rows is None else np.asarray(rows, np.int64):
            name = f"{store.record_ids[row]} (row {row})"
            if equal:
                starts = window_starts(int(store.lengths[row]), config.length)
                yield name, store.take([row] * len(starts), starts, config.length)
            else:
                yield name, self.windows(self.counts(store.recording(int(row))))

    def _recordings(self, source: Any) -> Iterator[Recording]:
        match source:
            case Recording():
                self._refuse_axes(source.record_id)
                yield source
            case str() | Path():
                yield from self._of_path(Path(source))
            case np.ndarray():
                yield from self._of_array(source)
            case _ if hasattr(source, "refs") and hasattr(source, "read"):
                yield from _of_source(source)
            case Iterable():
                for item in source:
                    yield from self._recordings(item)
            case _:
                raise LatentcastError(
                    f"{type(source).__name__}: is nothing that can be embedded; give {ACCEPTED}"
                )

    def _of_path(self, path: Path) -> Iterator[Recording]:
        if is_array_file(path):
            yield from _of_source(open_source(path, "ecg", **vars(self.axes)))
            return
        self._refuse_axes(str(path))
        if path.is_dir():
            # Of PTB-XL's two sets of files the one at the encoder's rate.
            yield from _of_source(open_source(path, "ecg", fs=self.config.sampling_rate))
        else:
            yield read_recording(path)

    def _of_array(self, array: npt.NDArray[Any]) -> Iterator[Recording]:
        axes = self.axes
        missing = [name for name in ("fs", "leads", "unit") if getattr(axes, name) is None]
        if axes.fs is None or axes.leads is None or axes.unit is None:
            raise LatentcastError(
                f"array {array.shape}: comes without its {', '.join(missing)}; give them, for "
                'example embed(x, fs=500, leads=["I", "II", "V1"], unit="mV")'
            )
        if axes.layout not in LAYOUTS:
            raise LatentcastError(
                f"layout '{axes.layout}': is unknown; write {' or '.join(LAYOUTS)}"
            )
        records = array[np.newaxis] if array.ndim == 2 else array
        if axes.layout == "records,samples,leads":
            records = records.swapaxes(-1, -2)
        if records.ndim != 3 or records.shape[1] != len(axes.leads):
            raise LatentcastError(
                f"array {array.shape}: is not ({axes.layout}) with {len(axes.leads)} leads, nor "
                "one record of these; name every lead, or give another layout"
            )
        if array.dtype.kind not in "iuf":
            raise LatentcastError(f"array of {array.dtype}: is no signal; give numbers")
        leads, factor = canonical_names(list(axes.leads)), np.float64(millivolts_per(axes.unit))
        for number, block in enumerate(records):
            signal = (block * factor).astype(np.float32)
            yield from_signal(signal, leads, float(axes.fs), f"record {number} of the array")

    def _refuse_axes(self, name: str) -> None:
        axes = self.axes
        for option, value in (("fs", axes.fs), ("leads", axes.leads), ("unit", axes.unit)):
            if value is not None:
                raise LatentcastError(
                    f"{option}: is for arrays, {name} is none; leave it out"
                    + (" (resample=True brings it to the encoder's rate)" * (option == "fs"))
                )


def _of_source(source: Source[Recording]) -> Iterator[Recording]:
    for ref in source.refs():
        try:
            if ref.problem is not None:
                raise BadRecord(ref.problem)
            yield source.read(ref)[0]
        except BadRecord as error:
            raise BadRecord(f"{ref.record_id} of {source.name}: {error}") from error
