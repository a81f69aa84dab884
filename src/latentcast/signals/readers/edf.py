"""EDF, EDF+ and BDF files (Kemp et al. 1992, 2003; BioSemi).

A reader of our own: the header is fixed text, and the libraries accept what must be refused here
(a range of zero, a count of records that the file contradicts). Signals of several rates are
brought to the highest; between the records of a discontinuous file nothing was measured.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import quoted
from latentcast.signals.readers import numbers
from latentcast.signals.readers.file_format import (
    FileFormat,
    ReadOptions,
    check_size,
    choose,
    read_bytes,
    years_between,
)
from latentcast.signals.readers.patient import patient_of
from latentcast.signals.recording import INVALID, Recording, from_signal
from latentcast.signals.resample import polyphase
from latentcast.source import Annotation, BadRecord

HEADER = 256
MOST_SIGNALS = 4096
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
"""Of label, transducer, unit, physical and digital ranges, filter, samples a record, reserve."""
_ONSET = re.compile(rb"([+-]\d{1,9}(?:\.\d{1,9})?)[\x14\x15]")
_SEX = {"F": "female", "M": "male"}
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]


def recognises(head: bytes) -> bool:
    return len(head) > HEADER and (head[:8] == b"0       " or head[:8] == b"\xffBIOSEMI")


def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
    """The ECG leads of one file.

    Raises:
        BadRecord: with the reason.
    """
    data = read_bytes(path)
    file = _File.of(data)
    chosen = choose([(s.label, s.unit) for s in file.signals], options)
    used = [file.signals[column] for column in chosen.columns]
    most = max(signal.samples for signal in used)
    starts = file.starts()
    # In samples of the highest rate, which no record lies between.
    places = np.rint((starts - starts[0]) * most / file.seconds).astype(np.int64)
    samples = int(places[-1]) + most
    check_size(len(used), samples)
    rows = []
    for signal, factor, lead in zip(used, chosen.factors, chosen.leads, strict=True):
        digital = file.digital(signal)
        values = (signal.physical(digital) * factor).astype(np.float32)
        if file.width == 2:
            values[digital == INVALID] = np.nan
        if signal.samples != most:
            own = from_signal(values.reshape(1, -1), (lead,), signal.samples / file.seconds, lead)
            if len(places) > 1 and int(places[-1]) != (len(places) - 1) * most:
                raise BadRecord("has gaps and several sampling rates; such are not read")
            rows.append(polyphase(own, most / file.seconds).signal[0][:samples])
            continue
        row = np.full(samples, np.nan, np.float32)
        for place, block in zip(places.tolist(), values, strict=True):
            row[place : place + most] = block
        rows.append(row)
    rate = most / file.seconds
    recording = from_signal(np.stack(rows), chosen.leads, rate, path.stem)
    # The channel of the annotations is none that is left out.
    left = [
        name for name in chosen.metadata.get("channels_left_out", []) if name not in _ANNOTATIONS
    ]
    if left:
        recording.metadata["channels_left_out"] = left
    return recording, file.annotation()


FORMAT = FileFormat("edf", recognises, read)


@dataclass(frozen=True)
class _Signal:
    """One signal of the header; ``offset`` and ``samples`` are of a record."""

    label: str
    unit: str
    limits: tuple[float, float, float, float]
    offset: int
    samples: int

    def physical(self, digital: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        low, high, lowest, highest = self.limits
        if low == high or lowest >= highest:
            raise BadRecord(
                f"lead {self.label} is not calibrated ({lowest:g} to {highest:g} are {low:g} to "
                f"{high:g} {self.unit})"
            )
        scale = (high - low) / (highest - lowest)
        return (digital.astype(np.float64) - lowest) * scale + low


@dataclass(frozen=True)
class _File:
    """A file; ``size`` is samples of all signals in a record, ``width`` bytes of a sample."""

    head: bytes
    body: bytes
    signals: tuple[_Signal, ...]
    records: int
    seconds: float
    size: int
    width: int

    @classmethod
    def of(cls, data: bytes) -> _File:
        width = 3 if data[:1] == b"\xff" else 2
        count, length = _integer(data[252:256], "signals"), _integer(data[184:192], "header bytes")
        records, seconds = _integer(data[236:244], "records"), _number(data[244:252], "duration")
        if not 1 <= count <= MOST_SIGNALS or length != HEADER * (count + 1) or len(data) < length:
            raise BadRecord(f"announces {count} signals and a header of {length} bytes")
        columns, place = [], HEADER
        for size in _WIDTHS:
            columns.append([data[place + size * n : place + size * (n + 1)] for n in range(count)])
            place += size * count
        signals, offset = [], 0
        for label, _, unit, low, high, lowest, highest, _, samples, _ in zip(*columns, strict=True):
            name = _text(label)
            numbers_of = [_number(v, f"range of {name}") for v in (low, high, lowest, highest)]
            each = _integer(samples, f"samples of {name}")
            if each < 0:
                raise BadRecord(f"announces {each} samples of {quoted(name, 16)}")
            limits = (numbers_of[0], numbers_of[1], numbers_of[2], numbers_of[3])
            signals.append(_Signal(name, _text(unit), limits, offset, each))
            offset += each
        body = data[length:]
        complete = len(body) // (offset * width) if offset else 0
        # A recorder that was interrupted leaves -1.
        records = complete if records == -1 else records
        if not 0 < seconds < float("inf") or records < 1:
            raise BadRecord(f"has {records} records of {seconds:g} s")
        if complete < records:
            raise BadRecord(f"is truncated, {complete} records of {records}")
        if complete > records:
            raise BadRecord(f"announces {records} records, and holds {complete}")
        return cls(data[:HEADER], body, tuple(signals), records, seconds, offset, width)

    def digital(self, signal: _Signal) -> npt.NDArray[np.int32]:
        """int32 ``(records, samples)``."""
        if signal.samples == 0:
            raise BadRecord(f"lead {signal.label} has no samples")
        size, width = self.size * self.width, self.width
        raw = np.frombuffer(self.body, np.uint8, self.records * size).reshape(self.records, size)
        block = np.ascontiguousarray(
            raw[:, signal.offset * width : (signal.offset + signal.samples) * width]
        )
        if width == 2:
            return block.view("<i2").astype(np.int32)
        wide = np.zeros((self.records, signal.samples, 4), np.uint8)
        wide[:, :, 1:] = block.reshape(self.records, signal.samples, 3)
        return wide.view("<i4")[:, :, 0] >> 8

    def starts(self) -> npt.NDArray[np.float64]:
        """Seconds at which each record begins; of a discontinuous file from its annotations."""
        regular = np.arange(self.records, dtype=np.float64) * self.seconds
        if self.head[192:197] not in (b"EDF+D", b"BDF+D"):
            return regular
        times = next((s for s in self.signals if s.label in _ANNOTATIONS), None)
        if times is None:
            raise BadRecord("is discontinuous, and has no annotations that give the times")
        starts = []
        for record in range(self.records):
            begin = (record * self.size + times.offset) * self.width
            text = self.body[begin : begin + times.samples * self.width]
            if (match := _ONSET.match(text)) is None:
                raise BadRecord(f"record {record} is discontinuous and has no time")
            starts.append(float(match[1]))
        if (np.diff(starts) < self.seconds * (1 - 1e-6)).any():
            raise BadRecord("has records that begin before the one before them ends")
        return np.array(starts)

    def annotation(self) -> Annotation:
        """What EDF+ has in fields; the free text of EDF is none that can be taken apart."""
        metadata: dict[str, Any] = {}
        day, clock = _text(self.head[168:176]), _text(self.head[176:184])
        with suppress(ValueError):
            moment = datetime.strptime(f"{day} {clock}", "%d.%m.%y %H.%M.%S")
            metadata["recording_date"] = moment.isoformat()
        if self.head[192:196] not in (b"EDF+", b"BDF+"):
            return Annotation(metadata=metadata)
        # Two digits of a year are those of 1985 to 2084, or of a date that is not known (X).
        start = [*_text(self.head[88:168]).split(), "", ""][1]
        if (date := _day(start)) is not None:
            with suppress(ValueError):
                time = datetime.strptime(clock, "%H.%M.%S").time()
                metadata["recording_date"] = datetime.combine(date, time).isoformat()
        elif start == "X":
            metadata.pop("recording_date", None)
        code, sex, born, *_ = [*_text(self.head[8:88]).split(), "X", "X", "X"]
        taken = metadata.get("recording_date")
        if (birthday := _day(born)) and taken:
            metadata |= years_between(birthday.date(), datetime.fromisoformat(taken).date())
        if sex in _SEX:
            metadata["sex"] = _SEX[sex]
        equipment = [*_text(self.head[88:168]).split(), *["X"] * 5][4]
        if equipment != "X":
            metadata["device"] = equipment.replace("_", " ")
        return Annotation(None if code == "X" else patient_of(code), metadata=metadata)


def _day(text: str) -> datetime | None:
    """``02-MAY-1951``, whatever the language of this machine."""
    day, month, year, *_ = [*text.upper().split("-"), "", "", ""]
    try:
        return datetime(int(year), MONTHS.index(month) + 1, int(day))
    except ValueError:
        return None


def _text(field: bytes) -> str:
    return field.decode("latin-1").strip(" \0")


def _number(field: bytes, what: str) -> float:
    try:
        return numbers.number(_text(field))
    except ValueError as error:
        raise BadRecord(f"header: {what} cannot be read ({error})") from None


def _integer(field: bytes, what: str) -> int:
    try:
        return numbers.integer(_text(field))
    except ValueError as error:
        raise BadRecord(f"header: {what} cannot be read ({error})") from None
