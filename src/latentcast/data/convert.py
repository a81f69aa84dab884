"""Records from their source to what a shard holds, or the reason why not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any, NamedTuple

from latentcast.data.codecs import Target
from latentcast.data.codecs.base import Payload, is_ours
from latentcast.data.folds import Folds
from latentcast.data.listing import odd_text
from latentcast.data.manifest import SPLITS
from latentcast.data.tables.division import Division
from latentcast.errors import printable, readable
from latentcast.signals.recording import Recording
from latentcast.source import Annotation, BadRecord, RecordRef, Source

TOGETHER = 2**18
"""Values of recordings, or bytes of images, that are read before they are converted together: a
megabyte of them stays near the processor."""


class Converted(NamedTuple):
    """A record ready to be appended; ``labels`` are code to likelihood."""

    ref: RecordRef
    payload: Payload
    patient_id: str
    fold: int
    labels: dict[str, float]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Rejected:
    """A record that stays out, with the reason for ``quarantine.csv``."""

    record_id: str
    file: str
    reason: str


def reason_of(error: Exception) -> str:
    """Why a record cannot be used, of what was raised when it was read.

    Raises:
        Exception: the error itself, where the record is not at fault.
    """
    if isinstance(error, BadRecord):
        return str(error)
    if is_ours(error):
        raise error
    # Foreign files fail in foreign ways; the type of the error is part of the reason.
    words = " ".join(str(error).split())
    what = f": {words}" if words and readable(words) else ""
    return shorten(f"cannot be read ({type(error).__name__}{what}", 155) + ")"


@dataclass(frozen=True)
class Converter:
    """All that it takes to convert the records of a source, in this process or another.

    ``room`` is the temporary folder of a source, ending in a slash: no reason names it.
    """

    source: Source[Any]
    target: Target
    folds: Folds
    division: Division = field(default_factory=Division)
    room: str = ""
    patients: Mapping[str, str] = field(default_factory=dict)
    """By record id, where they are given beside the source."""
    annotations: Mapping[str, Annotation] = field(default_factory=dict)
    """By record id, of a table beside the source; it counts more than what the files have."""

    def __call__(self, refs: Sequence[RecordRef]) -> list[Converted | Rejected]:
        """Convert a batch of records, in order. Nothing one record does stops the others.

        Raises:
            LatentcastError: what no other record can do without either, such as an optional package
                that is not installed.
        """
        results = list[Converted | Rejected]()
        opened, values = list[_Opened | Rejected](), 0
        samples = self.source.read_together([ref for ref in refs if ref.problem is None])
        for ref in refs:
            try:
                if ref.problem is not None:
                    raise BadRecord(ref.problem)
                one = self._open(ref, next(samples))
                values += _size(one.sample)
                opened.append(one)
            except Exception as error:
                opened.append(self._rejected(ref, error))
            if values >= TOGETHER:
                results += self._convert(opened)
                opened, values = [], 0
        return results + self._convert(opened)

    def _rejected(self, ref: RecordRef, error: Exception) -> Rejected:
        reason = reason_of(error)
        if self.room:
            reason = reason.replace(self.room, "")
        return Rejected(ref.record_id, ref.file, printable(reason))

    def _open(self, ref: RecordRef, found: tuple[Any, Annotation] | Exception) -> _Opened:
        if isinstance(found, Exception):
            raise found
        sample, annotation = found
        if (beside := self.annotations.get(ref.record_id)) is not None:
            annotation = Annotation(
                beside.patient_id or annotation.patient_id,
                annotation.fold if beside.fold is None else beside.fold,
                annotation.labels | beside.labels,
                annotation.metadata | beside.metadata,
            )
        classes = self.source.classes
        if strange := [label for label in annotation.labels if classes and label not in classes]:
            raise BadRecord(f"has label '{strange[0]}', which is none of the source's classes")
        if strange := [label for label in annotation.labels if odd_text(label) is not None]:
            raise BadRecord(f"has label {strange[0]!a}, which {odd_text(strange[0])}")
        own = annotation.patient_id or getattr(sample, "patient_id", None)
        patient = str(self.patients.get(ref.record_id) or own or "")
        patient = self.division.patient_of(ref.record_id, patient)
        if (problem := odd_text(patient)) is not None:
            raise BadRecord(f"has patient {patient!a}, which {problem}")
        fold = self.division.fold_of(ref.record_id, patient)
        fold = fold or self.folds.of(ref, patient, annotation)
        return _Opened(ref, sample, annotation, patient, fold)

    def _convert(self, opened: Sequence[_Opened | Rejected]) -> list[Converted | Rejected]:
        good = [one for one in opened if isinstance(one, _Opened)]
        training = [one.fold in SPLITS["train"] for one in good]
        payloads = iter(self.target.convert_together([one.sample for one in good], training))
        results = list[Converted | Rejected]()
        for one in opened:
            if isinstance(one, Rejected):
                results.append(one)
                continue
            try:
                if isinstance(payload := next(payloads), Exception):
                    raise payload
                results.append(_converted(one, payload))
            except Exception as error:
                results.append(self._rejected(one.ref, error))
        return results


class _Opened(NamedTuple):
    """A record that was read."""

    ref: RecordRef
    sample: Any
    annotation: Annotation
    patient_id: str
    fold: int


def _size(sample: Any) -> int:
    """Values of a recording or array, bytes of a file."""
    if isinstance(sample, Recording):
        return sample.signal.size
    return len(sample) if isinstance(sample, bytes) else int(sample.size)


def _converted(opened: _Opened, payload: Payload) -> Converted:
    ref, annotation = opened.ref, opened.annotation
    metadata = payload.metadata | annotation.metadata
    try:
        ref.record_id.encode()
        if metadata:
            text = json.dumps([ref.record_id, metadata], ensure_ascii=False)
            text.encode()
            _, metadata = json.loads(text)  # its keys are texts from here on
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRecord(f"has metadata that JSON cannot hold ({error})") from error
    labels = {str(code): float(value) for code, value in annotation.labels.items()}
    return Converted(ref, payload, opened.patient_id, opened.fold, labels, metadata)
