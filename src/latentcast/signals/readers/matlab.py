"""The MATLAB 4 envelope of PhysioNet Challenge signals (``.mat`` beside a ``.hea``, format 16+24).

The file is one matrix ``val`` of int16, a row per lead, stored by columns: after 24 bytes the
samples lie exactly as in a WFDB format 16 file. The envelope is checked rather than skipped, since
a `.mat` of another version or type would otherwise read as noise.
"""

from __future__ import annotations

import struct

from latentcast.source import BadRecord

HEADER_BYTES = 20
_INT16_LITTLE_ENDIAN_FULL = 30


def check_envelope(data: bytes, name: str, offset: int, leads: int) -> int:
    """Samples per lead that the envelope announces.

    Args:
        data: the file.
        name: its name, for the reason.
        offset: where the samples begin by the header.
        leads: signals of this file according to the header.

    Raises:
        BadRecord: no MATLAB 4 matrix of int16 with one row per lead begins there.
    """
    if data.startswith(b"MATLAB 5.0"):
        raise BadRecord(f"{name}: is a MATLAB 5 file; the header announces version 4")
    if len(data) < HEADER_BYTES:
        raise BadRecord(f"{name}: is truncated, {len(data)} bytes")
    kind, rows, columns, imaginary, name_bytes = struct.unpack_from("<5i", data)
    if kind != _INT16_LITTLE_ENDIAN_FULL or imaginary:
        raise BadRecord(f"{name}: is no MATLAB 4 matrix of int16 (type {kind})")
    if HEADER_BYTES + name_bytes != offset:
        raise BadRecord(
            f"{name}: samples begin at byte {HEADER_BYTES + name_bytes}, the header has {offset}"
        )
    if rows != leads:
        raise BadRecord(f"{name}: has {rows} rows, the header {leads} leads")
    if columns < 0:
        raise BadRecord(f"{name}: has {columns} columns")
    return int(columns)
