"""Text files with a column for each lead, under a header line of their names: CSV, TSV and alike.

The rate is in no such file and has to be given; the unit likewise, unless the header line has it
(``I (mV)``). A column of times is left out, as any other that is no lead.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import numpy as np

from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS, canonical_name
from latentcast.signals.readers.file_format import (
    FileFormat,
    ReadOptions,
    check_size,
    choose,
    read_bytes,
)
from latentcast.signals.readers.table import SEPARATORS
from latentcast.signals.recording import Recording, from_signal
from latentcast.source import Annotation, BadRecord

_WITH_UNIT = re.compile(r"(.+?)\s*[(\[]([^)\]]+)[)\]]")


def recognises(head: bytes) -> bool:
    """A header line of which half of the names are leads, one of the twelve among them, and below
    it a line of numbers."""
    try:
        lines = _decoded(head).splitlines()
        names = _names(lines[0], separator := _separator(lines[0]))
        float(lines[1].split(separator)[-1].strip().replace(",", ".") or "nan")
    except (ValueError, IndexError):
        return False
    leads = [lead for name, _ in names if (lead := _lead(name)) is not None]
    return len(leads) >= len(names) / 2 and any(lead in CANONICAL_LEADS for lead in leads)


def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
    """The leads of one file.

    Raises:
        BadRecord: with the reason, also where rate or unit are not given.
    """
    if options.sampling_rate is None:
        raise BadRecord(
            "is a table of leads, which has no sampling rate; give --sampling-rate, for example "
            "--sampling-rate 500",
            "is a table of leads, which has no sampling rate; give sampling_rate=500, or what it "
            "was sampled at",
        )
    try:
        text = _decoded(read_bytes(path))
    except ValueError as error:
        raise BadRecord(f"is no text ({error})") from None
    header, _, body = text.partition("\n")
    separator = _separator(header)
    if separator != ",":
        body = body.replace(",", ".")
    named = _names(header, separator)
    lacking = [name for name, unit in named if _lead(name) and not (unit or options.unit)]
    if lacking:
        raise BadRecord(
            f"is a table of leads, which has no unit of {lacking[0]}; give --unit mV, or what it "
            "is in",
            f"is a table of leads, which has no unit of {lacking[0]}; give unit='mV', or what it "
            "is in",
        )
    chosen = choose([(name, unit or options.unit or "") for name, unit in named], options)
    lines = body.count("\n") + 1
    check_size(len(named), lines)
    # A cell without a value was not measured.
    gap = re.escape(separator)
    body = re.sub(rf"(?:(?<={gap})|^)[ ]*(?={gap}|\r?$)", "nan", body.strip("\r\n"), flags=re.M)
    try:
        columns = np.loadtxt(
            io.StringIO(body), delimiter=separator, ndmin=2, usecols=chosen.columns, comments=None
        )
    except (ValueError, IndexError) as error:
        raise BadRecord(f"is no table of numbers ({error})") from None
    signal = (columns * np.array(chosen.factors)).T.astype(np.float32)
    recording = from_signal(
        signal, chosen.leads, options.sampling_rate, path.stem, metadata=chosen.metadata
    )
    return recording, Annotation()


FORMAT = FileFormat("table of leads", recognises, read, lacks_its_rate=True)


def _decoded(data: bytes) -> str:
    """Raises UnicodeDecodeError: it is no text in UTF-8."""
    cut = data[: data.rfind(b"\n") + 1] or data
    text = cut.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("has bytes of 0")
    return text + data[len(cut) :].decode("utf-8", "ignore")


def _separator(header: str) -> str:
    times = Counter(header)
    return max(SEPARATORS, key=lambda separator: times[separator])


def _names(header: str, separator: str) -> list[tuple[str, str]]:
    """Name and unit of each column."""
    cells = [cell.strip().strip('"').strip() for cell in header.rstrip("\r\n").split(separator)]
    matches = [(cell, _WITH_UNIT.fullmatch(cell)) for cell in cells]
    return [(m[1], m[2]) if m else (cell, "") for cell, m in matches]


def _lead(name: str) -> str | None:
    try:
        return canonical_name(name)
    except LatentcastError:
        return None
