"""XLI, the compression of Philips Sierra XML: LZW over second differences of int16 samples.

A file is a chunk for each lead: 8 bytes (int32 length of what follows; a 1; int16 ``first``), then
LZW with codes of 10 bits, the most significant bit first. Code 1023 ends a chunk, so that a table
has 1,023 entries, after which it stays. The bytes are the high ones of all words, then the low
ones: two samples, then differences with 64 added, of which the last is not used:
``x[n] = 2 x[n-1] - x[n-2] - d[n-1]``, with ``first`` for ``d[1]``.

III, aVR, aVL and aVF are stored as what is left of their prediction from I, II and III, in which
halves are rounded towards zero (with any other rounding, odd sums come out one count beside the
copy of the same ECG that Philips wrote as aECG).

Source: the wiki of sierra-ecg-tools, "XLI compression scheme"; the end code and the rounding were
found from the files.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from latentcast.source import BadRecord

BITS = 10
END = 2**BITS - 1
_BIAS = 64
Counts = npt.NDArray[np.int64]


def decompress(data: bytes, leads: int, samples: int) -> Counts:
    """Samples ``(leads, samples)`` as stored; chunks beyond these leads are passed over.

    Raises:
        BadRecord: there is not exactly this in the data.
    """
    rows, begin = [], 0
    for row in range(leads):
        if len(data) < begin + 8:
            raise BadRecord(f"XLI: ends after {row} of {leads} leads")
        size, _, first = struct.unpack_from("<iHh", data, begin)
        begin += 8
        if not 0 <= size <= len(data) - begin:
            raise BadRecord(f"XLI: lead {row + 1} has {size} bytes, {len(data) - begin} are left")
        words = _words(_lzw(data[begin : begin + size], 2 * samples), samples)
        rows.append(_integrated(words, first))
        begin += size
    return np.stack(rows)


def _lzw(data: bytes, most: int) -> bytes:
    table = [bytes([byte]) for byte in range(256)]
    out, previous = bytearray(), b""
    bits = held = 0
    for byte in data:
        bits, held = (bits << 8 | byte) & 0xFFFFF, held + 8
        if held < BITS:
            continue
        held -= BITS
        code = bits >> held & END
        if code == END:
            return bytes(out)
        if code < len(table):
            entry = table[code]
        elif code == len(table) and previous:
            entry = previous + previous[:1]
        else:
            raise BadRecord(f"XLI: code {code} is in no table")
        out += entry
        if len(out) > most:
            raise BadRecord(f"XLI: a lead has more than {most} bytes")
        if previous and len(table) < END:
            table.append(previous + entry[:1])
        previous = entry
    raise BadRecord("XLI: a lead has no end")


def _words(data: bytes, samples: int) -> Counts:
    if len(data) != 2 * samples or samples < 2:
        raise BadRecord(f"XLI: a lead has {len(data)} bytes for {samples} samples")
    both = np.frombuffer(data, np.uint8).reshape(2, samples).astype("<u2")
    return (both[0] << 8 | both[1]).view("<i2").astype(np.int64)


def _integrated(words: Counts, first: int) -> Counts:
    """Samples from their second differences."""
    second = np.concatenate([[first], words[2:-1] - _BIAS])
    steps = np.concatenate([[0], words[1] - words[0] - np.cumsum(second)])
    samples = np.concatenate([words[:1], words[1] + np.cumsum(steps)])[: len(words)]
    if np.abs(samples).max() > 2**15:
        raise BadRecord("XLI: samples leave 16 bits; the file is damaged")
    return samples


def reconstruct(stored: dict[str, Counts]) -> dict[str, Counts]:
    """Leads by name, the limb leads from their predictions; counts as stored otherwise."""
    if not {"I", "II"} <= stored.keys():
        return stored
    half: Callable[[Counts], Counts] = lambda sums: np.trunc(sums / 2).astype(np.int64)  # noqa: E731
    one, two, leads = stored["I"], stored["II"], dict(stored)
    third = two - one
    if "III" in stored:
        leads["III"] = third = third - stored["III"]
    predicted = {"aVR": -half(one + two), "aVL": half(one - third), "aVF": half(two + third)}
    for name in predicted.keys() & stored.keys():
        leads[name] = predicted[name] - stored[name]
    return leads
