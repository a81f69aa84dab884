"""The log of the shard that is being written: a killed ingest goes on within it.

A line tells what was appended since the one before, and how far the shard reached then. It is in
the file once its bytes of the shard are, and a shard is only gone on with as far as both fit.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from latentcast.files import check_digest, digested_line, parse_object

RECORDS, BYTES = 128, 2**24
"""A line is written after so many records or bytes: this is what a kill costs."""
_BLOCK = 2**20


def shard_path(folder: Path, number: int) -> Path:
    """The shard while it is written."""
    return folder / f"shard-{number:05d}.npy.partial"


def log_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.log.partial"


def append(path: Path, line: dict[str, Any], records: str) -> None:
    """Add a line: ``records`` (a list in JSON) and ``rejected`` since the one before, ``first`` how
    many of each there were before it; ``bytes`` and ``crc`` are of all of the shard's data so far.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(digested_line(line | {"records": []}, records=records) + "\n")


def lines_that_fit(log: Path, shard: Path, header: int) -> Iterator[dict[str, Any]]:
    """The lines of a log up to the first that is damaged, or that the shard's bytes contradict.

    Args:
        header: bytes of the shard before its data.
    """
    if not log.is_file():
        return
    crc, reached, first = 0, 0, [0, 0]
    with log.open("rb") as lines, shard.open("rb") if shard.is_file() else log.open("rb") as data:
        data.seek(header)
        for text in lines:
            try:
                line = parse_object(text)
                check_digest(line, text.decode())
                end, after = int(line["bytes"]), [len(line["records"]), len(line["rejected"])]
            except (ValueError, KeyError, TypeError):
                return
            if line["first"] != first:
                return
            first = [before + new for before, new in zip(first, after, strict=True)]
            crc = _crc(data, end - reached, crc)
            if crc != line["crc"]:
                return
            reached = end
            yield line


def _crc(data: IO[bytes], length: int, crc: int) -> int:
    """Of the bytes before and of the next ``length`` of them; of fewer where the file ends."""
    while length > 0 and (block := data.read(min(length, _BLOCK))):
        crc, length = zlib.crc32(block, crc), length - len(block)
    return crc
