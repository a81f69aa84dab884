"""SCP-ECG files (EN 1064, ISO 11073-91064): sections 0, 1, 2, 3 and 6.

A reader of our own: what an ECG needs of the standard is short, every byte of it is under a
checksum, and the libraries that read it come with far more. Files whose rhythm is stored less a
reference beat, or with fewer samples outside of the complexes, are refused by name.

All numbers are little-endian. A section is CRC, number, length, two versions, six reserved bytes;
the CRC (CCITT, from 0xFFFF) covers all bytes after it.
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.signals.readers.file_format import (
    FileFormat,
    ReadOptions,
    check_size,
    choose,
    read_bytes,
    years_between,
)
from latentcast.signals.readers.lead_codes import LEAD_OF_CODE
from latentcast.signals.readers.patient import patient_of
from latentcast.signals.recording import INVALID, Recording, from_signal
from latentcast.source import Annotation, BadRecord

SECTION_HEADER = 16
DEFAULT_TABLE = 19999
"""Number of Huffman tables in section 2 that stands for the table of the standard."""
LONGEST_PREFIX = 24
_YEARS_PER_UNIT = {1: 1.0, 2: 1 / 12, 3: 7 / 365.25, 4: 1 / 365.25, 5: 1 / 8766}
_SEX = {1: "male", 2: "female"}


@dataclass(frozen=True)
class Code:
    """A code structure of a Huffman table: what its prefix stands for.

    Attributes:
        extra: bits after the prefix that hold the value itself, signed.
        value: without extra bits, the value; of a switch, the number of the next table.
        switch: whether another table follows.
    """

    extra: int
    value: int
    switch: bool = False


Table = dict[tuple[int, int], Code]
"""By (length, bits) of the prefix."""


def default_table() -> Table:
    """The table of the standard: ``0`` is 0; n ones, a zero and a sign are ±n, up to 8; after
    eight ones ``10`` eight bits follow, and after ``11`` sixteen."""
    table: Table = {(1, 0): Code(0, 0)}
    for size in range(1, 9):
        ones = (1 << size) - 1
        table[size + 2, ones << 2] = Code(0, size)
        table[size + 2, ones << 2 | 1] = Code(0, -size)
    return table | {(10, 0b1111111110): Code(8, 0), (10, 0b1111111111): Code(16, 0)}


def recognises(head: bytes) -> bool:
    if head[16:22] == b"SCPECG":
        return True
    # Version 1.0 left these bytes empty; its first pointer is that to the list of pointers.
    if len(head) < 32 or head[8:10] != b"\0\0":
        return False
    (length,) = struct.unpack_from("<I", head, 10)
    return 136 <= length < 4096 and struct.unpack_from("<HII", head, 22) == (0, length, 7)


def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
    """The rhythm of one file.

    Raises:
        BadRecord: it contradicts a checksum, is cut off, or is stored in a way that is not read.
    """
    try:
        sections = _sections(read_bytes(path))
        for number, what in ((1, "patient data"), (3, "leads"), (6, "rhythm data")):
            if number not in sections:
                raise BadRecord(f"has no section {number} ({what})")
        codes, samples = _leads(sections[3])
        rhythm = _Rhythm.of(sections[6], len(codes))
        names = [LEAD_OF_CODE.get(code, f"lead {code}") for code in codes]
        chosen = choose([(name, "nV") for name in names], options)
        check_size(len(chosen.columns), samples)
        tables = _tables(sections[2]) if 2 in sections else None
        rows = [rhythm.values(column, samples, tables) for column in chosen.columns]
        annotation = _patient(sections[1])
    except struct.error:
        raise BadRecord("a section is cut off") from None
    factors = np.array(chosen.factors)[:, None] * rhythm.nanovolts
    counts = np.stack(rows)
    signal = (counts * factors).astype(np.float32)
    signal[counts == INVALID] = np.nan
    return (
        from_signal(signal, chosen.leads, rhythm.rate, path.stem, metadata=chosen.metadata),
        annotation,
    )


FORMAT = FileFormat("scp", recognises, read)


def _sections(data: bytes) -> dict[int, bytes]:
    """The contents of each section by its number, without its header."""
    crc, size = struct.unpack_from("<HI", data)
    if size != len(data):
        raise BadRecord(f"has {len(data)} bytes, its header {size}")
    if crc_hqx(data[2:], 0xFFFF) != crc:
        raise BadRecord("contradicts its checksum")
    _, _, length = struct.unpack_from("<HHI", data, 6)
    found = {}
    for place in range(6 + SECTION_HEADER, min(6 + length, len(data)) - 9, 10):
        number, size, index = struct.unpack_from("<HII", data, place)
        if size == 0 or number == 0:
            continue
        section = data[index - 1 : index - 1 + size] if index else b""
        if len(section) != size or size < SECTION_HEADER or number in found:
            raise BadRecord(f"section {number} does not lie in the file, or is listed twice")
        crc, itself, its_size = struct.unpack_from("<HHI", section)
        if (itself, its_size) != (number, size):
            raise BadRecord(f"section {number} is not where the list of sections has it")
        if crc_hqx(section[2:], 0xFFFF) != crc:
            raise BadRecord(f"section {number} contradicts its checksum")
        found[number] = section[SECTION_HEADER:]
    return found


def _tables(section: bytes) -> list[Table]:
    """The Huffman tables of section 2; the bits of a prefix are stored last bit first."""
    (count,) = struct.unpack_from("<H", section)
    if count == DEFAULT_TABLE:
        return [default_table()]
    tables, place = [], 2
    for _ in range(count):
        (codes,) = struct.unpack_from("<H", section, place)
        place += 2
        table: Table = {}
        for _ in range(codes):
            prefix, length, mode, value, base = struct.unpack_from("<BBBhI", section, place)
            place += 9
            if not 1 <= prefix <= LONGEST_PREFIX or not prefix <= length <= prefix + 32:
                raise BadRecord(f"a Huffman code has {prefix} bits of {length}")
            bits = int(f"{base:032b}"[::-1][:prefix], 2)
            table[prefix, bits] = Code(length - prefix, value, switch=mode == 0)
        tables.append(table)
    return tables


def _leads(section: bytes) -> tuple[list[int], int]:
    """The numbers of the leads, and how many samples each has."""
    count, flags = struct.unpack_from("<BB", section)
    if flags & 1:
        raise BadRecord("its rhythm is stored less a reference beat; such are not read")
    leads = [struct.unpack_from("<IIB", section, 2 + 9 * n) for n in range(count)]
    spans = {(first, last) for first, last, _ in leads}
    if len(spans) != 1:
        raise BadRecord("its leads were not recorded at the same time; such files are not read")
    ((first, last),) = spans
    if not 1 <= first <= last:
        raise BadRecord(f"its leads last from sample {first} to {last}")
    return [code for _, _, code in leads], last - first + 1


@dataclass(frozen=True)
class _Rhythm:
    """Section 6: the samples of each lead as bytes, and how they are to be read."""

    nanovolts: int
    rate: float
    differences: int
    data: tuple[bytes, ...]

    @classmethod
    def of(cls, section: bytes, leads: int) -> _Rhythm:
        nanovolts, microseconds, differences, bimodal = struct.unpack_from("<HHBB", section)
        if not nanovolts or not microseconds:
            raise BadRecord(f"a count is {nanovolts} nV and a sample {microseconds} µs")
        if bimodal:
            raise BadRecord(
                "its rhythm has fewer samples between complexes; such SCP files are not read"
            )
        if differences > 2:
            raise BadRecord(f"its samples are differences of order {differences}")
        sizes = struct.unpack_from(f"<{leads}H", section, 6)
        data, place = [], 6 + 2 * leads
        for size in sizes:
            if place + size > len(section):
                raise BadRecord("section 6 is cut off")
            data.append(section[place : place + size])
            place += size
        return cls(nanovolts, 1e6 / microseconds, differences, tuple(data))

    def values(
        self, column: int, samples: int, tables: list[Table] | None
    ) -> npt.NDArray[np.int64]:
        """Counts ``(samples,)``; first values are stored as they are, before their differences."""
        data = self.data[column]
        # A code has one bit at least: a byte holds 8 values at most.
        if samples > (8 * len(data) if tables else len(data) // 2):
            raise BadRecord(f"lead {column + 1} of the file holds less than its {samples} samples")
        if tables is None:
            values = np.frombuffer(data, "<i2", samples).astype(np.int64)
        else:
            values = np.array(decode(data, tables, samples), np.int64)
        if self.differences == 2:
            # The first two are values: the second difference of the second is that to the first.
            values[1:2] -= values[:1]
            values[1:] = np.cumsum(values[1:])
        return np.cumsum(values) if self.differences else values


def decode(data: bytes, tables: list[Table], samples: int) -> list[int]:
    """The first values of a Huffman-coded lead, highest bits first.

    Raises:
        BadRecord: no code begins so, or the bytes end before.
    """
    values: list[int] = []
    table, bits, length, place = tables[0] if tables else {}, 0, 0, 0
    total = 8 * len(data)
    while len(values) < samples:
        if place == total or length == LONGEST_PREFIX:
            raise BadRecord(f"a lead has {len(values)} samples of {samples}, then no Huffman code")
        bits = bits << 1 | (data[place >> 3] >> (7 - (place & 7)) & 1)
        place, length = place + 1, length + 1
        code = table.get((length, bits))
        if code is None:
            continue
        if code.switch:
            if not 1 <= code.value <= len(tables):
                raise BadRecord(f"a Huffman code leads to table {code.value} of {len(tables)}")
            table = tables[code.value - 1]
        elif code.extra:
            if place + code.extra > total:
                raise BadRecord(f"a lead has {len(values)} samples of {samples}, then it ends")
            last = place + code.extra
            window = int.from_bytes(data[place >> 3 : (last + 7) >> 3], "big")
            value = window >> (-last % 8) & ((1 << code.extra) - 1)
            values.append(value - (value >> (code.extra - 1) << code.extra))
            place = last
        else:
            values.append(code.value)
        bits = length = 0
    return values


def _patient(section: bytes) -> Annotation:
    """Section 1: tag, length, value."""
    fields, place = dict[int, bytes](), 0
    while place + 3 <= len(section) and section[place] != 255:
        tag, length = struct.unpack_from("<BH", section, place)
        fields.setdefault(tag, section[place + 3 : place + 3 + length])
        place += 3 + length
    metadata: dict[str, Any] = {}
    taken, born = _date(fields.get(25, b"")), _date(fields.get(5, b""))
    if len(age := fields.get(4, b"")) == 3 and age[2] in _YEARS_PER_UNIT:
        metadata["age"] = struct.unpack("<H", age[:2])[0] * _YEARS_PER_UNIT[age[2]]
    elif born and taken:
        metadata |= years_between(born, taken)
    if (sex := fields.get(8, b"\0")[:1]) and sex[0] in _SEX:
        metadata["sex"] = _SEX[sex[0]]
    if model := _text(fields.get(14, b"")[8:14]):
        metadata["device"] = model
    if taken:
        clock = fields.get(26, b"")
        hours = len(clock) == 3 and clock[0] < 24 and clock[1] < 60 and clock[2] < 60
        time = "T{:02d}:{:02d}:{:02d}".format(*clock) if hours else ""
        metadata["recording_date"] = f"{taken.isoformat()}{time}"
    return Annotation(patient_of(_text(fields.get(2, b""))), metadata=metadata)


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode("latin-1").strip()


def _date(value: bytes) -> date | None:
    try:
        return date(*struct.unpack("<HBB", value))
    except (struct.error, ValueError):
        return None
