"""Age, sex and patient, which the data sets of PhysioNet spell in many ways.

``Age: 56`` (Challenge), ``<age>: 56`` (LUDB, INCART), ``age 56``, ``69 M 1085 1629 x1`` (MIT-BIH);
``Sex: F``, ``female``, ``Gender: Male``; ``patient 1`` (INCART), ``Patient ID: 7``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from latentcast.signals.readers.comments.field import Field, patient_of
from latentcast.source import Annotation

OLDEST = 90.0
"""What ``>89``, ``89+`` and ``90+`` count as: de-identified records have no age above."""

_AGE = re.compile(
    r"(>\s*89|(?:89|90)\s*\+)|0*(\d{1,3}(?:\.\d{1,6})?)\s*(?:y|yrs?|years?)?(?:\s*old)?", re.I
)
_SEX = {
    "f": "female", "female": "female", "woman": "female",
    "m": "male", "male": "male", "man": "male",
}  # fmt: skip
_WORDS = re.compile(r"(age|sex|gender|patient|subject)\s+(\S+)", re.IGNORECASE)
_MIT = re.compile(r"(-?\d{1,3})\s+([MF])\b(?!\S)")
_PATIENT = {
    "patient",
    "patient id",
    "patient_id",
    "patientid",
    "subject",
    "subject id",
    "subject_id",
}


def read(fields: Sequence[Field]) -> Annotation:
    """``age`` in years, a number, and ``sex``, ``female`` or ``male``; missing where they are not
    known. What cannot be read stays as ``age_text`` and ``sex_text``."""
    metadata: dict[str, Any] = {}
    patient = None
    for key, field in _facts(fields):
        if key == "age":
            metadata |= _fact("age", field, _age(field.value))
        elif key in ("sex", "gender"):
            metadata |= _fact("sex", field, _SEX.get(field.value.lower()))
            if key == "gender":
                metadata["gender"] = None
        elif key in _PATIENT and " " not in field.value:
            patient = patient_of(field.value)
    return Annotation(patient, metadata=metadata)


def _facts(fields: Sequence[Field]) -> Iterator[tuple[str, Field]]:
    for field in fields:
        if field.key:
            yield field.key, field
        elif match := _WORDS.fullmatch(field.value):
            yield match[1].lower(), Field("", match[2])
        elif match := _MIT.match(field.value):
            yield "age", Field("", match[1] if int(match[1]) >= 0 else "")
            yield "sex", Field("", match[2])


def _fact(name: str, field: Field, value: object) -> dict[str, object]:
    text = {f"{name}_text": field.value} if value is None and not field.missing else {}
    return {name: value, **text}


def _age(text: str) -> float | None:
    match = _AGE.fullmatch(text.strip())
    return None if match is None else OLDEST if match[1] else float(match[2])
