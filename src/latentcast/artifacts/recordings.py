"""Recordings, wherever they lie, as the windows of counts that an encoder reads."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from latentcast.artifacts.rejections import Rejections
from latentcast.artifacts.stores import readable_store
from latentcast.config import EcgInput
from latentcast.data.store import Store
from latentcast.errors import LatentcastError, printable
from latentcast.places import is_store
from latentcast.signals.channels import Channels
from latentcast.signals.counts import to_counts
from latentcast.signals.leads import with_derived
from latentcast.signals.readers import read_recording
from latentcast.signals.readers.arrays import (
    LAYOUTS,
    array_recording,
    channels_of,
    check_array,
)
from latentcast.signals.recording import INVALID, Recording, hertz
from latentcast.signals.windows import window_starts
from latentcast.source import BadRecord, RecordRef, Source

Counts = npt.NDArray[np.int16]
Load = Callable[[], Recording]
TAKEN = 16
"""Records of a store that are read together: a read costs more than the samples of one."""
AXES = ("sampling_rate", "leads", "unit")
"""What an array does not say."""
MissingLeads = Literal["refuse", "mean"]
"""What to do about a recording without one of the encoder's leads: refuse it, or read the lead at
its mean over the training split, which is 0 after normalisation."""
ACCEPTED = (
    "a Recording, the path of a record, of a folder or of an array file, an array with "
    "sampling_rate, leads and unit, a store, or a list of these"
)


@dataclass(frozen=True)
class ArrayAxes:
    """What has to be given with an array; see :class:`~latentcast.signals.readers.arrays`. A table
    of leads needs rate and unit likewise, and any file may call its leads by other names."""

    sampling_rate: float | None = None
    leads: Sequence[str] | None = None
    unit: str | None = None
    layout: str = LAYOUTS[0]
    rename: Mapping[str, str] | None = None


class RecordingReader:
    """Brings recordings to int16 windows ``(windows, length, leads)``, as ingest and evaluation do.

    Args:
        config: what the encoder was trained on.
        axes: of the arrays among the inputs.
        resample: a recording at another rate is resampled, as ``ingest --fs`` does it, instead of
            refused.
        length: samples of a window; those of training by default.
        rejections: of the recordings that cannot be read.
        missing_leads: of an encoder whose tokens are of all leads together. One whose tokens are of
            one lead each reads the leads that there are, in any case.
    """

    def __init__(
        self,
        config: EcgInput,
        axes: ArrayAxes,
        resample: bool,
        length: int | None = None,
        rejections: Rejections | None = None,
        missing_leads: MissingLeads = "refuse",
    ) -> None:
        self.config, self.axes, self.resample = config, axes, resample
        self.rejections = rejections or Rejections()
        self.length = config.length if length is None else length
        self.missing_leads = missing_leads
        self._completed: Counter[str] = Counter()
        """How many recordings were completed in which way."""

    def read(self, source: Any, rows: npt.ArrayLike | None = None) -> Iterator[tuple[str, Counts]]:
        """The id and the windows of every recording, in the order of the source.

        Raises:
            LatentcastError: it is nothing that can be read, or a recording cannot be used.
        """
        if isinstance(source, Store):
            yield from self._of_store(readable_store(source, "ecg"), rows)
            return
        if rows is not None:
            raise LatentcastError("rows: are of a store; leave them out, or choose from the list")
        for name, where, load in self.recordings(source):
            try:
                recording = load()
                windows = self.windows(self.counts(recording))
            except Exception as error:
                self.rejections.add(name, error, where)
                continue
            yield recording.record_id, windows
        for how, recordings in self._completed.items():
            line = f"leads: {recordings:,} recording{'s' * (recordings > 1)}: {how}"
            print(printable(line), file=sys.stderr)

    def load(self, source: Any) -> Iterator[Recording]:
        """Every recording of a source as its file has it, before it is brought to counts.

        Raises:
            LatentcastError: it is nothing that can be read, or a recording cannot be used.
        """
        for _, _, load in self.recordings(source):
            yield load()

    @property
    def completed(self) -> tuple[str, ...]:
        """What was done about leads that recordings do not have, in words."""
        return tuple(self._completed)

    def counts(self, recording: Recording) -> Counts:
        """A recording as the store would hold it: int16 ``(samples, leads)``.

        Raises:
            BadRecord: another sampling rate, a missing lead (unless a token is of one lead), or an
                amplitude beyond int16.
        """
        rate = self.config.sampling_rate
        if recording.sampling_rate != rate and not self.resample:
            raise BadRecord(
                f"{recording.record_id}: sampling_rate is {recording.sampling_rate:g}, the encoder "
                f"needs {rate:g}; bring it there with resample=True (latentcast embed, "
                "similar and predict: --resample)"
            )
        config, fills = self.config, self.missing_leads == "mean"
        lead_tokens = config.lead_rows is not None
        counts = to_counts(
            recording, config.leads, config.scale, sampling_rate=rate, signal=config.signal,
            mask_missing=lead_tokens or fills,
        )  # fmt: skip
        # Of these nothing was measured, whether the recording has a row for them or not.
        silent = (counts == INVALID).all(axis=0)
        if fills and not lead_tokens:
            self._fill(counts, silent)
        self._note(recording, silent)
        return counts

    def _fill(self, counts: Counts, silent: npt.NDArray[np.bool_]) -> None:
        """Silent leads at their mean wherever another lead is valid, so that a patch counts by the
        leads that there are."""
        assert self.config.normalisation is not None
        means = np.rint(np.array(self.config.normalisation.mean) / self.config.scale)
        valid = (counts != INVALID).any(axis=1)
        counts[np.ix_(valid, silent)] = means[silent].astype(np.int16)

    def _note(self, recording: Recording, silent: npt.NDArray[np.bool_]) -> None:
        """Count what was done about the leads that the recording does not have."""
        leads = self.config.leads
        made = set() if self.config.signal == "other" else {*with_derived(recording.leads)}
        derived = [name for name in leads if name in made - {*recording.leads}]
        absent = [name for name, gone in zip(leads, silent, strict=True) if gone]
        parts = [f"{', '.join(derived)} computed from I and II"] * bool(derived)
        if absent and self.config.lead_rows is not None:
            parts.append(f"{', '.join(absent)} not recorded, without tokens")
        elif absent and self.missing_leads == "mean":
            parts.append(f"{', '.join(absent)} not recorded, read at the mean of the training data")
        if parts:
            self._completed["; ".join(parts)] += 1

    def windows(self, counts: Counts) -> Counts:
        """Counts ``(samples, leads)`` cut to windows of :attr:`length`; a short one padded."""
        length = self.length
        starts = window_starts(len(counts), length)
        windows = np.full((len(starts), length, counts.shape[1]), INVALID, np.int16)
        for window, start in zip(windows, starts, strict=True):
            piece = counts[start : start + length]
            window[: len(piece)] = piece
        return windows

    def _of_store(self, store: Store, rows: npt.ArrayLike | None) -> Iterator[tuple[str, Counts]]:
        config = self.config
        equal = (store.sampling_rate, store.leads, store.scale, store.signal) == (
            config.sampling_rate, config.leads, config.scale, config.signal,
        )  # fmt: skip
        equal = equal and self.missing_leads == "refuse"
        chosen = np.arange(len(store)) if rows is None else np.asarray(rows, np.int64).reshape(-1)
        for begin in range(0, len(chosen), TAKEN):
            several = chosen[begin : begin + TAKEN]
            names = map(str, store.record_ids[several])
            if equal:
                yield from zip(names, self._taken(store, several), strict=True)
                continue
            for name, row in zip(names, several, strict=True):
                yield name, self.windows(self.counts(store.recording(int(row))))

    def _taken(self, store: Store, rows: npt.NDArray[np.int64]) -> Iterator[Counts]:
        """The windows of each of some rows, read from the store together."""
        starts = [window_starts(int(length), self.length) for length in store.lengths[rows]]
        times = [len(several) for several in starts]
        together = store.take(np.repeat(rows, times), [*chain(*starts)], self.length)
        yield from np.split(together, np.cumsum(times)[:-1])

    def recordings(
        self, source: Any, beside_lacking: bool = False
    ) -> Iterator[tuple[str, str | None, Load]]:
        """The name of every recording, the source that it is of, and what reads it: with the
        patient that the source names, and in the metadata its fold and split.

        Args:
            beside_lacking: in a list with a file that lacks its rate, which rate and unit are for.
        """
        match source:
            case Recording():
                self._refuse_axes(source.record_id)
                yield source.record_id, None, lambda: source
            case Store():
                store = readable_store(source, "ecg")
                for row, name in enumerate(store.record_ids):
                    yield str(name), None, partial(store.recording, row)
            case str() | Path():
                yield from self._of_path(Path(source), beside_lacking)
            case np.ndarray():
                yield from self._of_array(source)
            case Tensor():
                yield from self._of_array(source.detach().cpu().numpy())
            case _ if hasattr(source, "refs") and hasattr(source, "read"):
                yield from _of_source(source)
            case Iterable() if not isinstance(source, bytes | Mapping):
                if isinstance(source, list | tuple):
                    from latentcast.signals.readers.ecg_files import lacks_its_rate

                    paths = [item for item in source if isinstance(item, str | Path)]
                    beside_lacking = any(lacks_its_rate(Path(path)) for path in paths)
                for item in source:
                    _refuse_number(item, source)
                    yield from self.recordings(item, beside_lacking)
            case _:
                raise LatentcastError(
                    f"{type(source).__name__}: is nothing that can be embedded; give {ACCEPTED}"
                )

    def _of_path(self, path: Path, beside_lacking: bool) -> Iterator[tuple[str, str | None, Load]]:
        # The readers of all formats, which an encoder alone does not wait for.
        from latentcast.data.formats import is_array_file, open_source
        from latentcast.signals.readers.ecg_files import lacks_its_rate
        from latentcast.signals.readers.file_table import FileTable
        from latentcast.signals.readers.hdf5 import is_hdf5
        from latentcast.signals.readers.listed_files import FilePattern

        other, axes = self.config.signal == "other", self.axes
        listed = not other and (FileTable.detects(path) or FilePattern.detects(path))
        if is_array_file(path) or is_hdf5(path):
            stated = vars(axes) | {"signal": self.config.signal}
            yield from _of_source(open_source(path, "ecg", **stated))
        elif is_store(path):
            self._refuse_axes(str(path))
            yield from self.recordings(Store.open(path))
        elif path.is_dir() or listed:
            self._refuse_axes(str(path), "leads")
            # Of PTB-XL's two sets of files the one at the encoder's rate.
            options: dict[str, Any] = {
                "fs": self.config.sampling_rate, "sampling_rate": axes.sampling_rate,
                "unit": axes.unit, "rename": axes.rename,
            }  # fmt: skip
            if other:
                options |= {"signal": "other", "leads": self.config.leads}
            yield from _of_source(open_source(path, "ecg", **options))
        else:
            lacks = beside_lacking or lacks_its_rate(path)
            self._refuse_axes(str(path), *(("leads",) if lacks else AXES))
            channels = Channels(self.config.leads) if other else None
            read = partial(
                read_recording, sampling_rate=axes.sampling_rate, unit=axes.unit, rename=axes.rename
            )
            yield str(path), None, partial(read, path, channels)

    def _of_array(self, array: npt.NDArray[Any]) -> Iterator[tuple[str, None, Load]]:
        axes = self.axes
        missing = [n for n in AXES if getattr(axes, n) is None]
        if axes.sampling_rate is None or axes.leads is None or axes.unit is None:
            raise LatentcastError(
                f"array {array.shape}: comes without its {', '.join(missing)}; give what it has, "
                'for example embed(x, sampling_rate=500, leads=["I", "II", "V1"], unit="mV")'
            )
        leads, factor = channels_of(axes.leads, axes.unit, self.config.signal)
        check_array("the array", array, len(leads), axes.layout)
        records = array[np.newaxis] if array.ndim == 2 else array
        if axes.layout == "records,samples,leads":
            records = records.swapaxes(-1, -2)
        rate = hertz(axes.sampling_rate, "sampling_rate")
        for number, block in enumerate(records):
            name = f"record {number} of the array"
            yield name, None, partial(array_recording, block, leads, factor, rate, name)

    def _refuse_axes(self, name: str, *options: str) -> None:
        for option in options or AXES:
            if getattr(self.axes, option) is not None:
                raise LatentcastError(
                    f"{option}: is for arrays, {name} is none; leave it out"
                    + " (resample=True brings it to the encoder's rate)"
                    * (option == "sampling_rate")
                )


def _refuse_number(item: object, source: object) -> None:
    if isinstance(item, int | float | np.number):
        raise LatentcastError(
            f"{type(source).__name__} of numbers: is no array; give numpy.array(x) with "
            "sampling_rate, leads and unit"
        )


def _of_source(source: Source[Recording]) -> Iterator[tuple[str, str, Load]]:
    for ref in source.refs():
        yield ref.record_id, source.name, partial(_of_ref, source, ref)


def _of_ref(source: Source[Recording], ref: RecordRef) -> Recording:
    if ref.problem is not None:
        raise BadRecord(ref.problem)
    recording, about = source.read(ref)
    places = {"fold": about.fold, "split": ref.split}
    metadata = recording.metadata | about.metadata
    metadata |= {name: place for name, place in places.items() if place is not None}
    patient = about.patient_id or recording.patient_id
    # Of a data set under the id that a store has of it.
    record_id = ref.record_id if isinstance(source, Source) else recording.record_id
    return replace(recording, record_id=record_id, patient_id=patient, metadata=metadata)
