"""What the files of a WFDB record promise about each other: first values, sums, SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from latentcast.errors import LatentcastError
from latentcast.files import inside
from latentcast.signals.readers.wfdb_header import Signal
from latentcast.source import BadRecord

CHECKSUMS = "SHA256SUMS.txt"
_CHECKSUM = re.compile(r"\s*([0-9a-fA-F]{64})\s+\*?(\S.*?)\s*$")


Sums = Mapping[str, str] | None
"""Expected SHA-256 by file name; files not in it are not checked."""


def check_bytes(data: bytes, name: str, sha256: Sums) -> None:
    """Raises BadRecord: the content of a file contradicts its entry of ``SHA256SUMS.txt``."""
    if sha256 and name in sha256 and hashlib.sha256(data).hexdigest() != sha256[name]:
        raise BadRecord(f"{name}: contradicts its checksum in {CHECKSUMS}")


def check_file(path: Path, name: str, sha256: Sums) -> None:
    """:func:`check_bytes` of a file that is not in memory."""
    if not sha256 or name not in sha256:
        return
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadRecord(f"{name}: cannot be read ({error})") from None
    if digest != sha256[name]:
        raise BadRecord(f"{name}: contradicts its checksum in {CHECKSUMS}")


def check_sums(signals: Sequence[Signal], firsts: Sequence[int], sums: Sequence[int]) -> None:
    """Raises BadRecord: the samples of a signal contradict its line in the header.

    Args:
        signals: of one record, or of one of its files.
        firsts: the first count of each.
        sums: of all its counts; headers write the lowest 16 bits, with or without sign.
    """
    for signal, first, total in zip(signals, firsts, sums, strict=True):
        # Of differences the header has the value before the first one.
        if signal.initial not in (None, first) and signal.format != 8:
            raise BadRecord(
                f"{signal.file}: signal {signal.name} begins with {first}, the header has "
                f"{signal.initial}"
            )
        if signal.checksum is not None and (total - signal.checksum) % 65536:
            raise BadRecord(
                f"{signal.file}: signal {signal.name} contradicts its checksum in the header"
            )


def sums_beside(header: Path) -> dict[str, str]:
    """Of the files in the folder of a record, by name, from its own ``SHA256SUMS.txt``."""
    return sums_by_folder(header.parent).get(".", {})


def sums_by_folder(root: Path) -> dict[str, dict[str, str]]:
    """:func:`read_checksums` by folder, relative to ``root``, and by the name of the file."""
    sums = defaultdict[str, dict[str, str]](dict)
    for file, sha256 in read_checksums(root).items():
        path = PurePosixPath(file)
        sums[str(path.parent)][path.name] = sha256
    return dict(sums)


def read_checksums(root: Path) -> dict[str, str]:
    """``SHA256SUMS.txt`` of a folder: sha256 by relative path; empty where there is none.

    Raises:
        LatentcastError: it cannot be read; names the line.
    """
    path = root / CHECKSUMS
    if not os.path.lexists(path):
        return {}
    try:
        lines = inside(root, CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LatentcastError(
            f"{path}: cannot be read ({error}); restore it, or remove it to read without checksums"
        ) from error
    sums = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        pair = _CHECKSUM.match(line)
        if pair is None:
            raise LatentcastError(
                f"{path} line {number}: '{line[:80]}' is no sha256 and file name; restore the "
                "file, or remove it to read without checksums"
            )
        sums[pair[2]] = pair[1].lower()
    return sums
