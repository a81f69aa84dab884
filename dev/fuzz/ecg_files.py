"""Small files of one ECG each, in whole microvolts, written as the standards have them."""

from __future__ import annotations

import struct
from binascii import crc_hqx
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from latentcast.signals.readers.lead_codes import LEAD_OF_CODE
from latentcast.signals.recording import Recording
from latentcast.signals.writers import parquet

_CODES = {name: code for code, name in LEAD_OF_CODE.items()}


def counts_of(recording: Recording) -> np.ndarray[Any, Any]:
    """Whole microvolts ``(samples, leads)``."""
    return np.rint(recording.signal.astype(np.float64).T * 1000).astype("<i2")


def write_scp(path: Path, recording: Recording, differences: int = 2, flags: int = 4) -> None:
    """Compressed with the Huffman table of the standard."""
    counts = counts_of(recording).T.astype(int)
    leads = [_CODES[name] for name in recording.leads]
    patient = b"".join(
        struct.pack("<BH", tag, len(value)) + value
        for tag, value in (
            (2, b"p7\0"), (4, struct.pack("<HB", 51, 1)), (8, b"\2"), (25, b"\xd2\x07\x0b\x16"),
            (14, bytes(8) + b"ELI250" + bytes(8)), (26, b"\x09\x0a\x00"), (255, b""),
        )
    )  # fmt: skip
    spans = b"".join(struct.pack("<IIB", 1, counts.shape[1], lead) for lead in leads)
    coded = [_huffman(_differences(row.tolist(), differences)) for row in counts]
    rate = round(1e6 / recording.sampling_rate)
    sizes = struct.pack(f"<{len(coded)}H", *map(len, coded))
    rhythm = struct.pack("<HHBB", 1000, rate, differences, 0) + sizes + b"".join(coded)
    contents = {
        1: patient, 2: struct.pack("<H", 19999),
        3: struct.pack("<BB", len(leads), flags) + spans, 6: rhythm,
    }  # fmt: skip
    sections = {number: _section(number, content) for number, content in contents.items()}
    index, pointers = 7 + 16 + 10 * 12, b""
    pointers += struct.pack("<HII", 0, 136, 7)
    for number in range(1, 12):
        size = len(sections.get(number, b""))
        pointers += struct.pack("<HII", number, size, index if size else 0)
        index += size
    body = _section(0, pointers, b"SCPECG") + b"".join(sections.values())
    whole = struct.pack("<I", 6 + len(body)) + body
    path.write_bytes(struct.pack("<H", crc_hqx(whole, 0xFFFF)) + whole)


def renew_scp_sums(path: Path) -> None:
    """Make the checksums those of what the file holds, as far as its sections can be found."""
    data = bytearray(path.read_bytes())
    pointers = [22 + 10 * n for n in range(12) if 32 + 10 * n <= len(data)]
    for place in (struct.unpack_from("<I", data, at + 6)[0] - 1 for at in pointers):
        if 0 < place <= len(data) - 8:
            end = place + struct.unpack_from("<I", data, place + 4)[0]
            struct.pack_into("<H", data, place, crc_hqx(data[place + 2 : end], 0xFFFF))
    if len(data) > 6:
        struct.pack_into("<HI", data, 0, 0, len(data))
        struct.pack_into("<H", data, 0, crc_hqx(data[2:], 0xFFFF))
    path.write_bytes(data)


def _section(number: int, content: bytes, reserve: bytes = bytes(6)) -> bytes:
    content += bytes(len(content) % 2)
    rest = struct.pack("<HIBB", number, 16 + len(content), 20, 20) + reserve + content
    return struct.pack("<H", crc_hqx(rest, 0xFFFF)) + rest


def _differences(values: list[int], order: int) -> list[int]:
    if order == 0:
        return values
    first = [values[0], *(b - a for a, b in pairwise(values))]
    second = [b - a for a, b in pairwise(first[1:])]
    return first if order == 1 else [*values[:2], *second]


def _huffman(values: list[int]) -> bytes:
    bits = ""
    for value in values:
        if abs(value) <= 8:
            bits += "1" * abs(value) + "0" + ("01"[value < 0] if value else "")
        elif -128 <= value < 128:
            bits += "1111111110" + f"{value % 256:08b}"
        else:
            bits += "1111111111" + f"{value % 65536:016b}"
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def write_dicom(path: Path, recording: Recording) -> None:
    """A rhythm and, before it, a median beat of other values."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    def code(value: str, scheme: str) -> list[Dataset]:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, ""
        return [item]

    def group(label: str, origin: str, counts: np.ndarray[Any, Any]) -> Dataset:
        item = Dataset()
        item.WaveformOriginality, item.MultiplexGroupLabel = origin, label
        item.NumberOfWaveformSamples, item.NumberOfWaveformChannels = counts.shape
        item.SamplingFrequency = recording.sampling_rate
        item.ChannelDefinitionSequence = []
        for lead in recording.leads:
            channel = Dataset()
            channel.ChannelSourceSequence = code(f"2:{_CODES[lead]}", "MDC")
            channel.ChannelSensitivityUnitsSequence = code("uV", "UCUM")
            channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = "0.5", "2"
            channel.ChannelBaseline, channel.ChannelSampleSkew = "0", "0"
            channel.WaveformBitsStored = 16
            item.ChannelDefinitionSequence.append(channel)
        item.WaveformBitsAllocated, item.WaveformSampleInterpretation = 16, "SS"
        item.add_new(0x54001010, "OW", counts.astype("<i2").tobytes())
        return item

    counts, file = counts_of(recording), Dataset()
    file.SOPClassUID, file.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.9.1.1", "1.2.3"
    file.PatientID, file.PatientSex, file.PatientAge = "p7", "F", "051Y"
    file.AcquisitionDateTime, file.Manufacturer = "20021122091000", "Maker"
    file.WaveformSequence = [
        group("MEDIAN BEAT", "DERIVED", counts[:60] // 2), group("RHYTHM", "ORIGINAL", counts)
    ]  # fmt: skip
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.save_as(path, enforce_file_format=True)


def write_edf(
    path: Path,
    recording: Recording,
    *,
    wide: bool = False,
    starts: Sequence[float] = (),
    slow: Sequence[str] = (),
) -> None:
    """EDF+ (``wide``: BDF+) of records of a second, with ``starts`` discontinuous; leads of
    ``slow`` have every second sample."""
    rate, counts = round(recording.sampling_rate), counts_of(recording)
    records, width, kind = len(counts) // rate, 3 if wide else 2, "BDF" if wide else "EDF"
    steps = [2 if lead in slow else 1 for lead in recording.leads]
    names = [f"ECG {lead}" for lead in recording.leads]
    limits = ["-32768", "32767"]
    columns = [
        [*names, f"{kind} Annotations"], [""] * (len(names) + 1), [*["uV"] * len(names), ""],
        *([edge] * (len(names) + 1) for edge in limits * 2), [""] * (len(names) + 1),
        [*(str(rate // step) for step in steps), "20"], [""] * (len(names) + 1),
    ]  # fmt: skip
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    form = f"{kind}+{'D' if starts else 'C'}"
    head = [
        "p7 F 02-MAY-1951 X".ljust(80), "Startdate 22-NOV-2002 X X Holter_5".ljust(80),
        "22.11.02", "09.10.00", f"{256 * (len(names) + 2):<8}", form.ljust(44), f"{records:<8}",
        "1".ljust(8), f"{len(names) + 1:<4}",
    ]  # fmt: skip
    text = "".join(head) + "".join(
        v.ljust(w) for w, vs in zip(widths, columns, strict=True) for v in vs
    )
    body = b""
    for record in range(records):
        block = counts[record * rate : (record + 1) * rate]
        for column, step in zip(block.T, steps, strict=True):
            whole = column[::step].astype("<i4").tobytes()
            body += b"".join(whole[4 * n : 4 * n + width] for n in range(rate // step))
        onset = starts[record] if starts else record
        body += f"+{onset}\x14\x14\0".encode().ljust(20 * width, b"\0")
    path.write_bytes((b"\xffBIOSEMI" if wide else b"0       ") + text.encode() + body)


def write_ishne(path: Path, recording: Recording) -> None:
    codes = {
        name: n
        for n, name in enumerate(
            ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"], 5
        )
    }
    counts = counts_of(recording)
    leads, empty = [codes[name] for name in recording.leads], [-9] * (12 - len(recording.leads))
    head = struct.pack("<4ih", 0, len(counts), 522, 522, 1) + bytes(80) + b"p7".ljust(20, b"\0")
    head += struct.pack("<2h", 2, 0) + struct.pack("<9h", 2, 5, 1951, 22, 11, 2002, 22, 11, 2002)
    head += struct.pack("<3h", 9, 10, 0) + struct.pack("<h", len(leads))
    head += struct.pack("<36h", *leads, *empty, *[1] * 12, *[1000] * len(leads), *empty)
    head += struct.pack("<h", 0) + b"Holter".ljust(40, b"\0")
    head += struct.pack("<h", round(recording.sampling_rate)) + bytes(248)
    crc = struct.pack("<H", crc_hqx(head, 0xFFFF))
    path.write_bytes(b"ISHNE1.0" + crc + head + counts.tobytes())


def write_lead_table(path: Path, recording: Recording, separator: str = ",") -> None:
    lines = [separator.join(["time", *(f"{lead} (uV)" for lead in recording.leads)])]
    for number, row in enumerate(counts_of(recording).tolist()):
        lines.append(separator.join(map(str, [number, *row])))
    path.write_text("\n".join(lines) + "\n")


def write_lead_parquet(path: Path, recording: Recording) -> None:
    parquet.write(recording, path.with_name(path.stem))
    path.with_name(f"{path.stem}.parquet").rename(path)


def write_hdf5(path: Path, recordings: Sequence[Recording]) -> None:
    """As CODE-15 has it: ``(records, samples, leads)``, with zeros around each."""
    import h5py

    signals = np.stack([recording.signal.T for recording in recordings])
    signals = np.pad(signals, ((0, 0), (5, 7), (0, 0)))
    with h5py.File(path, "w") as file:
        file.create_dataset("tracings", data=signals, compression="gzip")
        file.create_dataset("exam_id", data=np.arange(len(recordings)) + 700)
