"""What a format of files is in which one file holds one ECG, and what such readers share.

Each is a file in this folder with ``recognises`` and ``read``, and a line in
:data:`latentcast.signals.readers.ecg_files.FILE_FORMATS`.

Metadata have the names of PTB-XL's table where it has one: ``age`` in years, ``sex`` (``female``,
``male``), ``device``, ``site``, ``recording_date`` (ISO 8601), ``report``.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from latentcast.errors import LatentcastError, quoted
from latentcast.signals.channels import Channels, Signal
from latentcast.signals.leads import (
    OTHER_LEADS,
    canonical_name,
    is_turned,
    nearest_lead,
    renamed,
)
from latentcast.signals.recording import (
    MILLIVOLTS_PER_UNIT,
    Recording,
    hertz,
    millivolts_per,
    spelled,
)
from latentcast.source import Annotation, BadRecord

HEAD = 4096
"""Bytes at the beginning of a file from which its format is recognised."""
MOST_BYTES = 2**30
"""Of one file: a day of three leads at 1000 Hz in 16 bits is half of it."""
OLDEST_HUMAN = 130
MOST_VALUES = 2**27
"""Samples of all leads of one recording: three leads over a day at 500 Hz."""


@dataclass(frozen=True)
class ReadOptions:
    """What a user says of files that do not say it themselves.

    Attributes:
        channels: what to read of a record that is no ECG; None reads all ECG leads.
        sampling_rate: in Hz, of files that have none.
        unit: of files that have none.
        rename: leads by what the files call them, from :func:`latentcast.signals.leads.renamed`.
    """

    channels: Channels | None = None
    sampling_rate: float | None = None
    unit: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        sampling_rate: float | None,
        leads: Sequence[str] | None,
        unit: str | None,
        signal: Signal,
        rename: Mapping[str, str] | None,
    ) -> Self:
        """From the options of ``ingest``.

        Raises:
            LatentcastError: channels, rate or names that cannot be.
        """
        channels = Channels.of(leads, unit) if signal == "other" else None
        if sampling_rate is not None:
            sampling_rate = hertz(sampling_rate, "--sampling-rate")
        return cls(channels, sampling_rate, unit, renamed(rename or {}))


@dataclass(frozen=True)
class FileFormat:
    """One format.

    Attributes:
        kind: its name, for the manifest and for ``inspect``.
        recognises: whether the first :data:`HEAD` bytes of a file are of this format.
        read: one file; raises BadRecord with the reason.
        lacks_its_rate: a file does not say its rate, nor always its unit.
    """

    kind: str
    recognises: Callable[[bytes], bool]
    read: Callable[[Path, ReadOptions], tuple[Recording, Annotation]]
    lacks_its_rate: bool = False


def not_read(kind: str, recognises: Callable[[bytes], bool]) -> FileFormat:
    """A format of which files are named, and not read."""

    def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
        raise BadRecord(f"this is {kind}; not read yet")

    return FileFormat(kind, recognises, read)


@dataclass(frozen=True)
class Chosen:
    """The channels of a file that are read.

    Attributes:
        columns: their places in the file.
        leads: their names.
        factors: what a physical value of each is multiplied by.
        metadata: ``channels_left_out``, the names of the others, where there are any.
    """

    columns: tuple[int, ...]
    leads: tuple[str, ...]
    factors: tuple[float, ...]
    metadata: dict[str, Any]


def choose(signals: Sequence[tuple[str, str]], options: ReadOptions) -> Chosen:
    """From (name, unit) of each channel in a file. What is no lead costs that channel alone, and a
    second channel of one lead likewise; one that is renamed to a lead comes before others.

    Raises:
        BadRecord: no channel is a lead (or one of ``options.channels``), or the unit of one is no
            voltage.
    """
    return _chosen(tuple(signals), options.channels, tuple(options.rename.items()))


# The records of an archive name their signals in a few ways.
@lru_cache(64)
def _chosen(
    signals: tuple[tuple[str, str], ...],
    channels: Channels | None,
    renames: tuple[tuple[str, str], ...],
) -> Chosen:
    rename = dict(renames)
    columns, leads, factors = list[int](), list[str](), list[float]()
    left_out = list[tuple[str, str]]()
    renamed = {rename[name.strip()] for name, _ in signals if name.strip() in rename}
    for column, (name, unit) in enumerate(signals):
        lead = rename.get(name.strip()) or _lead_of(name, channels)
        second = lead in leads or (lead in renamed and name.strip() not in rename)
        if lead is None or second:
            left_out.append((name, unit))
            continue
        try:
            factors.append(millivolts_per(unit) if channels is None else channels.factor(unit))
        except LatentcastError as error:
            if channels is None and lead in OTHER_LEADS:
                left_out.append((name, unit))  # X, Y and Z are axes of an accelerometer too
                continue
            raise BadRecord(f"lead {lead}: {error}") from None
        columns.append(column)
        leads.append(lead)
    if not leads:
        raise _no_lead(left_out, channels)
    metadata = {"channels_left_out": [name for name, _ in left_out]} if left_out else {}
    return Chosen(tuple(columns), tuple(leads), tuple(factors), metadata)


def is_lead(name: str, options: ReadOptions) -> bool:
    """Whether :func:`choose` would take a channel for a lead (or one of ``options.channels``)."""
    return name.strip() in options.rename or _lead_of(name, options.channels) is not None


def _lead_of(name: str, channels: Channels | None) -> str | None:
    if channels is not None:
        return name.strip() if name.strip() in channels.names else None
    try:
        return canonical_name(name)
    except LatentcastError:
        return None


def _no_lead(signals: Sequence[tuple[str, str]], channels: Channels | None) -> BadRecord:
    listed = ", ".join(quoted(name, 20) for name, _ in signals[:12]) or "none at all"
    if channels is not None:
        return BadRecord(f"no channel is of {', '.join(channels.names)}; the file has {listed}")
    what = f"no channel is an ECG lead by its name; the file has {listed}"
    if turned := [name.strip() for name, _ in signals if is_turned(name)]:
        what += f"; {quoted(turned[0], 20)} has the sign of a lead turned, and is not read"
    voltages = [
        n.strip() for n, u in signals
        if n.strip() and spelled(u) in MILLIVOLTS_PER_UNIT and not is_turned(n)
    ]  # fmt: skip
    if not voltages:
        return BadRecord(what)
    name, lead = voltages[0], nearest_lead(voltages[0]) or "II"
    return BadRecord(
        f"{what}; name those that are, such as --rename {shlex.quote(f'{name}={lead}')}",
        f"{what}; name those that are, such as rename={{{name!r}: {lead!r}}}",
    )


def ends_of(path: Path) -> bytes:
    """The size of a file and its first and last bytes, which tell it from another without reading
    all of it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        ends = f"{size}\n".encode()
        for start in (0, max(size - HEAD, 0)):
            file.seek(start)
            ends += file.read(HEAD)
    return ends


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        BadRecord: it cannot be read, or is larger than :data:`MOST_BYTES`.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("is no regular file")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise BadRecord(f"has {size:,} bytes, more than the {MOST_BYTES:,} of any ECG")
        return path.read_bytes()
    except OSError as error:
        raise BadRecord(f"{path.name}: cannot be read ({error.strerror or error})") from None


def check_size(leads: int, samples: int) -> None:
    """Raises BadRecord: more samples than any ECG has; before they are allocated."""
    if leads * samples > MOST_VALUES:
        raise BadRecord(
            f"announces {samples:,} samples of {leads} channels, more than the {MOST_VALUES:,} "
            "that one recording may have"
        )


def years_between(born: date, taken: date) -> dict[str, float]:
    """``age`` in whole years; empty where it is none of a human."""
    years = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    return {"age": float(years)} if 0 <= years <= OLDEST_HUMAN else {}
