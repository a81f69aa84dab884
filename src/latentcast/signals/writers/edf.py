"""EDF+ (Kemp and Olivan 2003): the header is fixed text, so no package is needed.

It has no value for a sample that was not measured, and holds whole records only: what does not
fit is refused. The patient's field has an id and the sex, that of the recording date and device.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.signals.readers.edf import MONTHS
from latentcast.signals.recording import Recording
from latentcast.signals.writers.file_writer import LARGEST, FileWriter, in_counts
from latentcast.source import BadRecord

MOST_BYTES = 61440
"""Of a record, as the format recommends."""
_ONSET_SAMPLES = 16


def write(recording: Recording, path: Path) -> npt.NDArray[np.float64]:
    """See :class:`FileWriter`."""
    missing = np.isnan(recording.signal).sum(axis=1)
    if missing.any():
        lead, count = recording.leads[int(missing.argmax())], int(missing.max())
        raise BadRecord(
            f"lead {lead} has {count:,} samples that were not measured, which EDF cannot hold; "
            "choose --to wfdb, parquet or csv"
        )
    each, seconds = _record(recording)
    counts, steps = in_counts(recording)
    records = len(counts) // each
    onsets = np.zeros((records, 2 * _ONSET_SAMPLES), np.uint8)
    for number, row in enumerate(onsets):
        onset = f"+{_decimal(number * float(seconds))}\x14\x14".encode()
        row[: len(onset)] = list(onset)
    # All of one lead in a record stand together, then the next lead.
    samples = counts.reshape(records, each, -1).swapaxes(1, 2).reshape(records, -1)
    body = np.hstack([samples.astype("<i2"), onsets.view("<i2")])
    header = _header(recording, steps, records, each, seconds)
    path.with_name(f"{path.name}.edf").write_bytes(header + body.tobytes())
    return steps


WRITER = FileWriter((".edf",), write)


def _record(recording: Recording) -> tuple[int, str]:
    """Samples of a record, as near to a second as may be, and its duration in at most 8 characters.

    Raises:
        BadRecord: no number of records holds these samples.
    """
    samples, rate = recording.samples, recording.sampling_rate
    some = [n for n in range(1, math.isqrt(samples) + 1) if samples % n == 0]
    for each in sorted({*some, *(samples // n for n in some)}, key=lambda n: abs(n - rate)):
        text = _decimal(each / rate)[:8]
        fits = 2 * each * len(recording.leads) <= MOST_BYTES
        if fits and float(text) and math.isclose(each / float(text), rate, rel_tol=1e-9):
            return each, text
    raise BadRecord(
        f"{samples:,} samples at {rate:g} Hz fill no whole number of EDF records, and padding was "
        "not measured; choose --to wfdb, parquet or csv"
    )


def _decimal(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


def _header(
    recording: Recording, steps: npt.NDArray[np.float64], records: int, each: int, seconds: str
) -> bytes:
    about = recording.metadata
    sex = {"female": "F", "male": "M"}.get(str(about.get("sex")), "X")
    start, day, clock = "X", "01.01.85", "00.00.00"
    if (moment := _moment(about.get("recording_date"))) is not None:
        start = f"{moment.day:02}-{MONTHS[moment.month - 1]}-{moment.year:04}"
        # Two digits stand for 1985 to 2084; other readers fail over anything else there.
        if 1985 <= moment.year <= 2084:
            day = f"{moment.day:02}.{moment.month:02}.{moment.year % 100:02}"
        clock = f"{moment.hour:02}.{moment.minute:02}.{moment.second:02}"
    count = len(recording.leads) + 1
    onsets = ("EDF Annotations", "", "", "-1", "1", "-32768", "32767", "", _ONSET_SAMPLES, "")
    signals: list[tuple[object, ...]] = [
        (f"ECG {lead}", "", "uV", _decimal(-LARGEST * step * 1000), _decimal(LARGEST * step * 1000),
         -LARGEST, LARGEST, "", each, "")
        for lead, step in zip(recording.leads, steps.tolist(), strict=True)
    ] + [onsets]  # fmt: skip
    fields: list[tuple[object, int]] = [
        ("0", 8),
        (_subfields(recording.patient_id, sex), 80),
        (_subfields("Startdate", start, None, None, about.get("device")), 80),
        (day, 8), (clock, 8), (256 * (count + 1), 8), ("EDF+C", 44), (records, 8), (seconds, 8),
        (count, 4),
    ]  # fmt: skip
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    fields += [
        (value, width)
        for column, width in zip(zip(*signals, strict=True), widths, strict=True)
        for value in column
    ]
    return b"".join(str(value).encode("ascii").ljust(width) for value, width in fields)


def _subfields(*values: object) -> str:
    """Divided by blanks, X for none; what has no place in ASCII, or in the field, is left out."""
    texts = ["_".join(str(value or "X").split()) for value in values]
    texts = [text if text.isascii() and text.isprintable() else "X" for text in texts]
    while len(" ".join(texts)) > 78:
        texts[max(range(len(texts)), key=lambda n: len(texts[n]))] = "X"
    return " ".join([*texts, "X", "X"][: max(len(texts), 4)])


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None
