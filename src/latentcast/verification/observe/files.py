"""Single files in two formats of devices, written byte by byte from their descriptions.

EDF (Kemp et al. 1992): a header in ASCII, records of one second, each signal with a physical and a
digital range. ISHNE (Badilini et al. 1998): a header of 522 bytes under a CRC-CCITT, samples of
all leads in turn, each lead with a resolution in nV.
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from pathlib import Path

import numpy as np

from latentcast.verification.observe.recordings import TWELVE, WrittenRecord, wave

ORDER = ("V6", "aVL", *(lead for lead in TWELVE if lead not in ("V6", "aVL")))
SECONDS = 2


def write_edf(file: Path, rate: float, seed: int) -> WrittenRecord:
    """Leads in another order, in mV and uV, each range with a middle of its own."""
    samples, signal = round(rate), wave(rate, SECONDS * round(rate), seed)
    units = [("mV", 1.0), ("uV", 1000.0)] * 6
    ranges = [(-5.0 - n, 6.0, -2000 - n, 2047) for n in range(12)]
    counts = np.empty((12, SECONDS * samples), np.int64)
    read = np.empty((12, SECONDS * samples))
    for n, (lead, (low, high, least, most)) in enumerate(zip(ORDER, ranges, strict=True)):
        step, place = (high - low) / (most - least), TWELVE.index(lead)
        counts[n] = np.rint((signal[place] - low) / step) + least
        read[place] = (counts[n] - least) * step + low
    columns = [
        (16, [f"ECG {lead}" for lead in ORDER]), (80, [""] * 12), (8, [u for u, _ in units]),
        (8, [f"{low * k:g}" for (low, *_), (_, k) in zip(ranges, units, strict=True)]),
        (8, [f"{high * k:g}" for (_, high, *_), (_, k) in zip(ranges, units, strict=True)]),
        (8, [str(least) for *_, least, _ in ranges]), (8, [str(most) for *_, most in ranges]),
        (80, [""] * 12), (8, [str(samples)] * 12), (32, [""] * 12),
    ]  # fmt: skip
    start = [(8, "0"), (80, "X X X X"), (80, "Startdate X X X X"), (8, "01.01.20"), (8, "00.00.00"),
             (8, str(256 * 13)), (44, ""), (8, str(SECONDS)), (8, "1"), (4, "12")]  # fmt: skip
    header = "".join(text.ljust(size) for size, text in start)
    header += "".join(text.ljust(size) for size, texts in columns for text in texts)
    records = counts.reshape(12, SECONDS, samples).transpose(1, 0, 2).astype("<i2")
    file.write_bytes(header.encode("ascii") + records.tobytes())
    return WrittenRecord(read, rate, file)


def write_ishne(file: Path, rate: float, seed: int) -> WrittenRecord:
    """Every lead with a resolution of its own."""
    signal = wave(rate, SECONDS * round(rate), seed)
    resolutions = [1000 + 250 * n for n in range(12)]
    codes = {lead: 5 + n for n, lead in enumerate(TWELVE)}  # 1 bipolar, 2 to 4 X Y Z, 5 I …
    counts = np.stack([
        np.rint(signal[TWELVE.index(lead)] * 1e6 / nanovolts)
        for lead, nanovolts in zip(ORDER, resolutions, strict=True)
    ]).astype("<i2")  # fmt: skip
    header = bytearray(522)
    struct.pack_into("<4i", header, 10, 0, counts.shape[1], 522, 522)
    struct.pack_into("<h", header, 26, 1)
    leads, unknown = [codes[lead] for lead in ORDER], [0] * 12
    struct.pack_into("<37h", header, 156, 12, *leads, *unknown, *resolutions)
    struct.pack_into("<h", header, 272, round(rate))
    header[:10] = b"ISHNE1.0" + struct.pack("<H", crc_hqx(bytes(header[10:]), 0xFFFF))
    file.write_bytes(bytes(header) + counts.T.tobytes())
    read = np.empty(signal.shape)
    read[[TWELVE.index(lead) for lead in ORDER]] = counts * np.array(resolutions)[:, None] / 1e6
    return WrittenRecord(read, rate, file)
