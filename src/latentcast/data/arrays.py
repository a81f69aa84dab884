"""Arrays in memory to a store, in one call, on the same way that files take."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.ingest import IngestResult, ingest
from latentcast.errors import LatentcastError, nearest
from latentcast.images.arrays import channels_last, check_images, refuse_two_readings
from latentcast.images.decode import Pixels
from latentcast.images.source import ImageSource
from latentcast.signals.channels import MILLIVOLTS, Signal
from latentcast.signals.readers.arrays import array_recording, channels_of, check_array
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.recording import Recording, hertz
from latentcast.signatures import checked
from latentcast.source import SPLIT_NAMES, Annotation, RecordRef, Source

Array = npt.NDArray[Any]
MEMORY = "arrays in memory"
"""The kind of their source, in the manifest."""
Codes = str | int | Sequence[str] | Mapping[str, float]


@checked
def write_store(
    out: str | Path,
    *,
    signals: Array | Sequence[Array] | None = None,
    images: Array | None = None,
    sampling_rate: float | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    signal: Signal | None = None,
    record_ids: Sequence[str | int] | None = None,
    patient_ids: Sequence[str | int | None] | None = None,
    labels: Sequence[Codes] | Array | None = None,
    label_names: Sequence[str] | None = None,
    folds: Sequence[int | None] | None = None,
    splits: Sequence[str] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    name: str = "arrays",
    **options: Any,
) -> IngestResult:
    """Write recordings or images that lie in memory into a new store at ``out``.

    They are ingested as files are: the same checks, quarantine, statistics, splits and checksums.
    Everything beside the samples has one entry a record.

    Args:
        out: the folder of the store.
        signals: recordings ``(records, leads, samples)``, or a list of ``(leads, samples)`` arrays
            of any lengths; NaN where nothing was measured.
        images: instead of signals, uint8 ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``.
        sampling_rate: of the signals, in Hz.
        leads: names of their leads, in their order.
        unit: V, mV (the default), uV or nV; with signal ``other`` any.
        signal: ``other`` for channels that are no ECG leads.
        record_ids: unique; ``record-000000`` and so on by default.
        patient_ids: records of one patient stay in one split.
        labels: of each record a code, a list of codes, or codes with their likelihoods; or an array
            of class numbers ``(records,)``, -1 for none, or of 0 and 1 ``(records, label_names)``.
        label_names: of the class numbers, or of the columns.
        folds: 1 to 10, of which 9 is validation and 10 test.
        splits: instead of folds, train, validation or test.
        metadata: whatever else is to be kept, as JSON can hold it.
        name: what the source is called in the manifest.
        **options: of :func:`~latentcast.data.ingest.ingest`: ``fs`` (resample to it),
            ``missing_leads``, ``scale``, ``shortest``, ``size``, ``workers``, ``shard_bytes``,
            ``quiet``.

    Raises:
        LatentcastError: an argument has another shape, type or length than its text above; and what
            ``ingest`` raises.
    """
    if (signals is None) == (images is None):
        raise LatentcastError("write_store: takes signals or images; give one of the two")
    arrays: list[Array] = list(images) if signals is None else list(signals)  # type: ignore[arg-type]
    records = _records(len(arrays), record_ids, patient_ids, folds, splits, metadata)
    classes = _label(records, labels, label_names)
    if images is not None:
        about_signals = {
            "sampling_rate": sampling_rate, "leads": leads, "unit": unit, "signal": signal,
        }  # fmt: skip
        for argument, value in about_signals.items():
            if value is not None:
                raise LatentcastError(f"{argument}: is of signals; leave it out of images")
        try:
            check_images(images.shape, images.dtype)
        except LatentcastError as error:
            raise LatentcastError(f"images: {error}") from None
        if labels is None:
            refuse_two_readings(f"images {images.shape}", images.shape)
        return ingest(_Images(name, arrays, records, classes), out, **options)
    if sampling_rate is None or leads is None:
        raise LatentcastError(
            "signals: need their sampling_rate (in Hz) and leads; give them, for example "
            "sampling_rate=500, leads=['I', 'II', 'V1']"
        )
    unit, signal = unit or MILLIVOLTS, signal or "ecg"
    names, factor = channels_of(leads, unit, signal)
    arrays = [np.asarray(array) for array in arrays]
    for row, array in enumerate(arrays):
        if array.ndim != 2 or len(array) != len(names):
            raise LatentcastError(
                f"signals[{row}]: has shape {array.shape}; with {len(names)} leads it needs "
                f"({len(names)}, samples), so name every lead, or transpose it"
            )
        check_array(f"signals[{row}]", array, len(names))
    source = _Signals(name, arrays, records, classes)
    source.leads, source.sampling_rate = names, hertz(sampling_rate, "sampling_rate")
    source.factor = factor
    if signal == "other":
        options["unit"] = unit
    return ingest(source, out, signal=signal, **options)


class _Memory(Source[Any]):
    """Arrays, and of each its reference and annotation."""

    kind = MEMORY

    def __init__(
        self,
        name: str,
        arrays: list[Array],
        records: list[tuple[RecordRef, Annotation]],
        classes: tuple[str, ...],
    ) -> None:
        self.name, self.arrays, self.records, self.classes = name, arrays, records, classes

    def refs(self) -> list[RecordRef]:
        return [ref for ref, _ in self.records]

    def fingerprint(self) -> str:
        meaning = [getattr(self, name, None) for name in ("leads", "sampling_rate", "factor")]
        digest = hashlib.sha256(repr(meaning).encode())
        for record, array in zip(self.records, self.arrays, strict=True):
            digest.update(repr((record, array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class _Signals(_Memory, RecordingSource):
    factor = 1.0

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        assert self.leads is not None and self.sampling_rate is not None
        block, rate = self.arrays[ref.row], self.sampling_rate
        recording = array_recording(block, self.leads, self.factor, rate, ref.record_id)
        return recording, self.records[ref.row][1]


class _Images(_Memory, ImageSource):
    def read(self, ref: RecordRef) -> tuple[Pixels, Annotation]:
        return channels_last(self.arrays[ref.row]), self.records[ref.row][1]


def _records(
    count: int, record_ids: Any, patient_ids: Any, folds: Any, splits: Any, metadata: Any
) -> list[tuple[RecordRef, Annotation]]:
    if folds is not None and splits is not None:
        raise LatentcastError("folds: name the splits, as splits do; give one of the two")
    ids = [f"record-{row:06d}" for row in range(count)] if record_ids is None else record_ids
    columns = {
        "record_ids": ids, "patient_ids": patient_ids, "folds": folds, "splits": splits,
        "metadata": metadata,
    }  # fmt: skip
    for name, values in columns.items():
        columns[name] = [None] * count if values is None else list(values)
        if len(columns[name]) != count:
            raise LatentcastError(
                f"{name}: has {len(columns[name])} entries for {count} records; give one a record"
            )
    if len(set(map(str, columns["record_ids"]))) < count:
        raise LatentcastError("record_ids: hold one twice; give each record its own")
    for split in columns["splits"]:
        if split is not None and split not in SPLIT_NAMES:
            raise LatentcastError(f"splits: '{split}' is none; {nearest(str(split), SPLIT_NAMES)}")
    return [
        (
            RecordRef(str(key), "", row, split=None if split is None else SPLIT_NAMES[split]),
            Annotation(
                None if patient is None else str(patient),
                None if fold is None else int(fold),
                metadata=dict(more or {}),
            ),
        )
        for row, (key, patient, fold, split, more) in enumerate(zip(*columns.values(), strict=True))
    ]


def _label(
    records: list[tuple[RecordRef, Annotation]], labels: Any, names: Sequence[str] | None
) -> tuple[str, ...]:
    """Write the labels into the annotations; gives the classes, where they have an order."""
    classes = tuple(map(str, names or ()))
    if labels is None:
        return classes
    if len(labels) != len(records):
        raise LatentcastError(
            f"labels: has {len(labels)} entries for {len(records)} records; give one a record"
        )
    if all(isinstance(label, int | np.integer | np.ndarray) for label in labels):
        numbers = np.asarray(labels)
        if numbers.ndim == 1:
            values = np.unique(numbers[numbers != -1]).tolist()
            name_of = {v: str(v) for v in values} if names is None else dict(enumerate(classes))
            if unnamed := [value for value in values if value not in name_of]:
                raise LatentcastError(
                    f"labels: hold {unnamed[0]}, label_names {len(classes)} names; name every "
                    "class, from 0 on"
                )
            classes = tuple(name_of.values())
            labels = [() if value == -1 else (name_of[value],) for value in numbers.tolist()]
        elif numbers.shape[1:] == (len(classes),) and np.isin(numbers, (0, 1)).all():
            labels = [[classes[column] for column in np.flatnonzero(row)] for row in numbers]
        else:
            raise LatentcastError(
                f"labels: have shape {numbers.shape}; a matrix holds 0 and 1, with one of "
                "label_names a column"
            )
    for (_, annotation), codes in zip(records, labels, strict=True):
        if isinstance(codes, Mapping):
            annotation.labels.update(codes)
        elif isinstance(codes, str | Iterable):
            codes = [codes] if isinstance(codes, str) else codes
            annotation.labels.update((str(code), 1.0) for code in codes if code != "")
        else:
            raise LatentcastError(
                f"labels: {codes!r} is no code; give text, lists of text, or whole numbers"
            )
    return classes
