"""DICOM waveforms (PS3.3 C.10.9): 12-lead, general and ambulatory ECG, read with ``pydicom``.

Of the multiplex groups those are read that are a rhythm; a median beat is none. A group may begin
later than another (three leads at a time): its leads are then not measured before.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import missing_extra, quoted
from latentcast.signals.readers.file_format import (
    HEAD,
    FileFormat,
    ReadOptions,
    check_size,
    choose,
    is_lead,
    read_bytes,
    years_between,
)
from latentcast.signals.readers.lead_codes import LEAD_OF_CODE
from latentcast.signals.readers.patient import patient_of
from latentcast.signals.recording import INVALID, Recording, from_signal
from latentcast.source import Annotation, BadRecord

DEFLATED, BIG_ENDIAN = b"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_BEAT = re.compile(r"median|template|average|representative|beat", re.IGNORECASE)
_INTEGERS = {"SB": "i1", "UB": "u1", "SS": "i2", "US": "u2", "SL": "i4", "UL": "u4"}
_CODE = re.compile(r"(?:2:|5\.6\.3-9-)(\d{1,3})")
_MEANING = re.compile(r"lead\s+([^\s(]+)", re.IGNORECASE)
_AGE = re.compile(r"(\d{1,3})([YMWD])", re.ASCII)
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_NOT_MEASURED = {"DISCONNECTED", "INVALID", "TEST DATA", "UNCALIBRATED"}
"""States of a channel in which its samples are none of the patient."""
_SEX = {"F": "female", "M": "male"}


def recognises(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
    """The rhythm of one file.

    Raises:
        BadRecord: with the reason.
        LatentcastError: pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise missing_extra("pydicom", "ecg", f"{path.name} (DICOM)") from error
    data = read_bytes(path)
    if DEFLATED in data[:HEAD]:  # the package would unpack it whatever it unpacks to
        raise BadRecord("is a deflated DICOM file; not read yet")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that are not read here
            file = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            return _recording(file, path, options), _annotation(file)
    except (BadRecord, MemoryError):
        raise
    except Exception as error:
        # The package reports bad files by whatever exception its parsing runs into.
        raise BadRecord(f"{type(error).__name__}: {error}") from error


FORMAT = FileFormat("dicom", recognises, read)


@dataclass(frozen=True)
class _Group:
    """A multiplex group; its samples are scaled when it is known which are read.

    ``raw`` is ``(samples, channels)``; ``begin`` is in samples.
    """

    item: Any
    rate: float
    begin: int
    raw: npt.NDArray[Any]
    names: tuple[str, ...]
    units: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.begin + len(self.raw)

    @classmethod
    def of(cls, item: Any, order: str) -> _Group:
        channels = list(item.ChannelDefinitionSequence)
        rate, samples = float(item.SamplingFrequency), int(item.NumberOfWaveformSamples)
        count, announced = len(channels), int(item.NumberOfWaveformChannels)
        kind, bits = str(item.WaveformSampleInterpretation), int(item.WaveformBitsAllocated)
        begin = float(item.get("MultiplexGroupTimeOffset") or 0) / 1000 * rate
        if not 0 < rate < float("inf") or not 0 <= begin < 2**31:
            raise BadRecord(f"has a group at {rate:g} Hz that begins at sample {begin:g}")
        if count != announced or not count:
            raise BadRecord(f"describes {count} of {announced} channels")
        if kind not in _INTEGERS:
            raise BadRecord(f"has samples of kind {quoted(kind, 8)}, which are not read")
        dtype, data = np.dtype(order + _INTEGERS[kind]), item.WaveformData
        if bits != 8 * dtype.itemsize:
            raise BadRecord(f"has {bits} bits for samples of kind {kind}")
        if len(data) < samples * count * dtype.itemsize:
            raise BadRecord(f"a group has {len(data):,} bytes for {samples:,} samples")
        # The one is in samples, the other in seconds.
        for keyword, each in (("ChannelSampleSkew", 1.0), ("ChannelTimeSkew", rate)):
            if max(abs(float(c.get(keyword) or 0)) * each for c in channels) >= 1:
                raise BadRecord("its channels are skewed by whole samples; such are not read")
        raw = np.frombuffer(data, dtype, samples * count).reshape(samples, count)
        names, units = tuple(map(_name, channels)), tuple(map(_unit, channels))
        return cls(item, rate, round(begin), raw, names, units)

    def off(self, column: int) -> bool:
        """Whether the file marks a channel as none that was measured."""
        status = self.item.ChannelDefinitionSequence[column].get("ChannelStatus") or ()
        states = [status] if isinstance(status, str) else status
        return not _NOT_MEASURED.isdisjoint(str(state).strip().upper() for state in states)

    def values(self, column: int) -> npt.NDArray[np.float64]:
        """In physical units ``(samples,)``; NaN where the file pads."""
        channel, name = self.item.ChannelDefinitionSequence[column], self.names[column]
        gain = float(channel.get("ChannelSensitivity") or 0)
        correction = channel.get("ChannelSensitivityCorrectionFactor")
        gain *= 1.0 if correction is None else float(correction)
        baseline = float(channel.get("ChannelBaseline") or 0)
        if not gain or not np.isfinite([gain, baseline]).all():
            raise BadRecord(f"lead {name} is not calibrated (sensitivity {gain:g})")
        values = self.raw[:, column] * gain + baseline
        if self.off(column):
            values[:] = np.nan
        padding = self.item.get("WaveformPaddingValue")
        if padding is not None:
            value = padding if isinstance(padding, int) else np.frombuffer(padding, self.raw.dtype)
            values[self.raw[:, column] == value] = np.nan
        if self.raw.dtype.kind == "i" and self.raw.dtype.itemsize == 2:
            values[self.raw[:, column] == INVALID] = np.nan
        return values


def _recording(file: Any, path: Path, options: ReadOptions) -> Recording:
    syntax = str(file.file_meta.get("TransferSyntaxUID"))
    if not file.get("WaveformSequence"):
        kind = getattr(file.get("SOPClassUID"), "name", "no kind")
        raise BadRecord(f"is a DICOM file of {kind}, and holds no waveform")
    order = ">" if syntax == BIG_ENDIAN else "<"
    every = [_Group.of(item, order) for item in _rhythms(file.WaveformSequence)]
    # Breathing or pressures beside the ECG are groups of their own, and may be longer.
    groups = [g for g in every if any(is_lead(name, options) for name in g.names)] or every
    # A lead of several groups (a strip below the twelve) is taken from the longest.
    groups.sort(key=lambda group: -len(group.raw) / group.rate)
    rate = groups[0].rate
    left = len(every) - sum(group.rate == rate for group in groups)
    metadata: dict[str, Any] = {"groups_left_out": left} if left else {}
    places = [(g, column) for g in groups if g.rate == rate for column in range(len(g.names))]
    chosen = choose([(g.names[column], g.units[column]) for g, column in places], options)
    used = [places[column] for column in chosen.columns]
    begin = min(group.begin for group, _ in used)
    samples = max(group.end for group, _ in used) - begin
    check_size(len(used), samples)
    signal = np.full((len(used), samples), np.nan, np.float32)
    for row, (group, column), factor in zip(signal, used, chosen.factors, strict=True):
        row[group.begin - begin : group.end - begin] = group.values(column) * factor
    if off := [lead for lead, (g, column) in zip(chosen.leads, used, strict=True) if g.off(column)]:
        metadata["leads_off"] = off
    left_out = chosen.metadata.get("channels_left_out", [])
    # A lead of a shorter group is left out as well, and is no other channel.
    if others := [name for name in left_out if name not in chosen.leads]:
        metadata["channels_left_out"] = others
    return from_signal(signal, chosen.leads, rate, path.stem, metadata=metadata)


def _rhythms(groups: Any) -> list[Any]:
    """Groups that are no beat; of these the original ones, where there are any."""
    rhythms = [g for g in groups if not _BEAT.search(str(g.get("MultiplexGroupLabel") or ""))]
    if not rhythms:
        raise BadRecord("holds median beats and no rhythm")
    original = [g for g in rhythms if g.get("WaveformOriginality") == "ORIGINAL"]
    return original or rhythms


def _name(channel: Any) -> str:
    """The lead by the number of its code, else as the code or the label puts it."""
    source = (channel.get("ChannelSourceSequence") or [None])[0]
    code, meaning = ("", "") if source is None else (
        str(source.get("CodeValue") or ""), str(source.get("CodeMeaning") or "")
    )  # fmt: skip
    if (match := _CODE.fullmatch(code)) and int(match[1]) in LEAD_OF_CODE:
        return LEAD_OF_CODE[int(match[1])]
    if code.startswith("MDC_ECG_LEAD_"):
        return code
    if match := _MEANING.search(meaning):
        return match[1]
    return str(channel.get("ChannelLabel") or meaning or code or "unnamed")


def _unit(channel: Any) -> str:
    units = channel.get("ChannelSensitivityUnitsSequence")
    return str(units[0].get("CodeValue") or "") if units else ""


def _annotation(file: Any) -> Annotation:
    metadata: dict[str, Any] = {}
    taken = _time(file)
    if match := _AGE.fullmatch(_text(file, "PatientAge")):
        metadata["age"] = int(match[1]) * _YEARS[match[2]]
    elif taken and (born := _moment(_text(file, "PatientBirthDate"))):
        metadata |= years_between(born.date(), taken.date())
    if (sex := _text(file, "PatientSex")) in _SEX:
        metadata["sex"] = _SEX[sex]
    if device := f"{_text(file, 'Manufacturer')} {_text(file, 'ManufacturerModelName')}".strip():
        metadata["device"] = device
    if site := _text(file, "InstitutionName"):
        metadata["site"] = site
    if taken:
        metadata["recording_date"] = taken.isoformat()
    texts = [_text(a, "UnformattedTextValue") for a in file.get("WaveformAnnotationSequence") or ()]
    if report := "; ".join(text for text in texts if text):
        metadata["report"] = report
    return Annotation(patient_of(_text(file, "PatientID")), metadata=metadata)


def _text(item: Any, keyword: str) -> str:
    value = item.get(keyword)
    return "" if value is None else str(value).strip()


def _time(file: Any) -> datetime | None:
    text = _text(file, "AcquisitionDateTime")
    return _moment(text or _text(file, "StudyDate") + _text(file, "StudyTime"))


def _moment(text: str) -> datetime | None:
    """``YYYYMMDD`` with or without ``HHMMSS``."""
    digits = re.match(r"\d*", text)
    for length, form in ((14, "%Y%m%d%H%M%S"), (8, "%Y%m%d")):
        if digits and len(digits[0]) >= length:
            try:
                return datetime.strptime(digits[0][:length], form)
            except ValueError:
                continue
    return None
