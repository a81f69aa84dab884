"""ISHNE Holter files (Badilini et al. 1998, standard output format 1.0).

A fixed header under a CRC (CCITT, from 0xFFFF), then int16 samples of all leads in turn. The
format names the augmented leads VR, VL and VF.
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from latentcast.signals.readers.file_format import (
    FileFormat,
    ReadOptions,
    check_size,
    choose,
    not_read,
    read_bytes,
    years_between,
)
from latentcast.signals.readers.patient import patient_of
from latentcast.signals.recording import INVALID, Recording, from_signal
from latentcast.source import Annotation, BadRecord

HEADER = 522
MOST_LEADS = 12
_NAMES = "bipolar X Y Z I II III aVR aVL aVF V1 V2 V3 V4 V5 V6 ES AS AI"
_LEADS = dict(enumerate(_NAMES.split(), start=1))
_SEX = {1: "male", 2: "female"}


def recognises(head: bytes) -> bool:
    return head.startswith(b"ISHNE1.0")


def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
    """All calibrated leads of one file.

    Raises:
        BadRecord: with the reason.
    """
    data = read_bytes(path)
    if len(data) < HEADER:
        raise BadRecord(f"is truncated, {len(data)} bytes")
    (crc,) = struct.unpack_from("<H", data, 8)
    block, announced, _, begin = struct.unpack_from("<4i", data, 10)
    count, *fields = struct.unpack_from("<37h", data, 156)
    specifications, resolutions = fields[:MOST_LEADS], fields[2 * MOST_LEADS :]
    (rate,) = struct.unpack_from("<h", data, 272)
    if not 0 <= block <= len(data) - HEADER or not HEADER + block <= begin <= len(data):
        raise BadRecord(f"has its samples at byte {begin} of {len(data)}")
    if crc_hqx(data[10 : HEADER + block], 0xFFFF) != crc:
        raise BadRecord("its header contradicts its checksum")
    if not 1 <= count <= MOST_LEADS or rate <= 0:
        raise BadRecord(f"announces {count} leads at {rate} Hz")
    present = (len(data) - begin) // (2 * count)
    # Some recorders count the samples of one lead, others those of all.
    samples = announced if announced <= present else announced // count
    if announced < 1 or samples != present:
        raise BadRecord(f"announces {announced:,} samples, and holds {present:,} of {count} leads")
    names = [_LEADS.get(code, f"lead {code}") for code in specifications[:count]]
    chosen = choose([(name, "nV") for name in names], options)
    check_size(len(chosen.columns), samples)
    counts = np.frombuffer(data, "<i2", samples * count, begin).reshape(samples, count)
    signal = np.empty((len(chosen.columns), samples), np.float32)
    for row, column, factor in zip(signal, chosen.columns, chosen.factors, strict=True):
        if resolutions[column] <= 0:
            raise BadRecord(f"lead {names[column]} is not calibrated ({resolutions[column]} nV)")
        np.multiply(counts[:, column], resolutions[column] * factor, out=row, casting="unsafe")
        row[counts[:, column] == INVALID] = np.nan
    recording = from_signal(signal, chosen.leads, rate, path.stem, metadata=chosen.metadata)
    return recording, _annotation(data)


FORMAT = FileFormat("ishne", recognises, read)
ANNOTATIONS = not_read("an ISHNE annotation file", lambda head: head.startswith(b"ANN  1.0"))


def _annotation(data: bytes) -> Annotation:
    metadata: dict[str, Any] = {}
    (sex,) = struct.unpack_from("<h", data, 128)
    born = _day(*struct.unpack_from("<3h", data, 132))
    taken = _day(*struct.unpack_from("<3h", data, 138))
    if born and taken:
        metadata |= years_between(born, taken)
    if sex in _SEX:
        metadata["sex"] = _SEX[sex]
    if device := _text(data[232:272]):
        metadata["device"] = device
    if taken:
        hour, minute, second = struct.unpack_from("<3h", data, 150)
        try:
            moment = datetime(taken.year, taken.month, taken.day, hour, minute, second)
            metadata["recording_date"] = moment.isoformat()
        except ValueError:
            metadata["recording_date"] = taken.isoformat()
    return Annotation(patient_of(_text(data[108:128])), metadata=metadata)


def _day(day: int, month: int, year: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("latin-1").strip()
