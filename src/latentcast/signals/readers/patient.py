"""Age, sex, patient and time as recorders write them, under the names that all readers use."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from latentcast.signals.readers.comments import field
from latentcast.signals.readers.file_format import years_between

_SEX = {"m": "male", "male": "male", "f": "female", "female": "female"}
_YEARS = {
    "": 1.0, "a": 1.0, "y": 1.0, "year": 1.0, "years": 1.0, "mo": 1 / 12, "months": 1 / 12,
    "month": 1 / 12, "wk": 7 / 365.25, "week": 7 / 365.25, "weeks": 7 / 365.25, "d": 1 / 365.25,
    "day": 1 / 365.25, "days": 1 / 365.25, "h": 1 / 8766, "hours": 1 / 8766, "hour": 1 / 8766,
}  # fmt: skip
"""Years in one unit of an age, as MUSE and HL7 (UCUM) name them."""


def is_missing(text: str) -> bool:
    """Whether a text stands for none: empty, ``---``, ``000000``, ``unknown``."""
    return text.strip().lower() in field.MISSING or not text.strip(" 0-_.*,/")


def patient_of(text: str) -> str | None:
    """The id of a patient as a recorder has it; None where it stands for nobody."""
    return None if is_missing(text) else field.patient_of(text)


def age_metadata(
    text: str, unit: str, born: datetime | None, recorded: datetime | None
) -> dict[str, Any]:
    """``age`` in years: as written, or from the two dates; what cannot be read is ``age_text``.

    A date of birth itself is not kept.
    """
    if not is_missing(text):
        factor = _YEARS.get(unit.strip().lower())
        if factor is not None and re.fullmatch(r"\d{1,4}(?:\.\d{1,6})?", text.strip(), re.ASCII):
            return {"age": round(float(text) * factor, 2)}
        return {"age_text": f"{text} {unit}".strip()}
    return {} if born is None or recorded is None else years_between(born, recorded)


def sex_metadata(text: str) -> dict[str, Any]:
    """``sex``, ``female`` or ``male``; what is neither is ``sex_text``."""
    if (sex := _SEX.get(text.strip().lower())) is not None:
        return {"sex": sex}
    return {} if is_missing(text) else {"sex_text": text}


def moment(text: str) -> datetime | None:
    """A date, with a time or without: ``2008-12-23 19:44:46``, ``20081223194446.000-0500`` (HL7)
    or ``12-23-2008 19:44:46`` (MUSE, the month first); None for anything else."""
    words = text.strip()
    if american := re.match(r"(\d\d)-(\d\d)-(\d{4})", words, re.ASCII):
        words = f"{american[3]}-{american[1]}-{american[2]}{words[10:]}"
    match = re.match(r"(\d{4})-?(\d\d)-?(\d\d)[ T]*(?:(\d\d):?(\d\d):?(\d\d)?)?", words, re.ASCII)
    if match is None:
        return None
    try:
        return datetime(*(int(part or 0) for part in match.groups()))  # type: ignore[arg-type]
    except ValueError:
        return None


def described(**texts: str) -> dict[str, Any]:
    """Those of the texts that hold one."""
    return {name: " ".join(text.split()) for name, text in texts.items() if not is_missing(text)}
