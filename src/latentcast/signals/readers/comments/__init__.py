"""Comments of WFDB headers, as labels and metadata; each data set writes its own.

Another data set is a file here with ``read``, and a line in :data:`ADAPTERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from latentcast.signals.readers.comments import challenge, ludb, person
from latentcast.signals.readers.comments.field import Field
from latentcast.source import Annotation

ADAPTERS: tuple[Callable[[Sequence[Field]], Annotation], ...] = (
    challenge.read,
    ludb.read,
    person.read,
)
"""Their metadata replace what was read before them; a value of None takes a key away."""

_FIELD = re.compile(r"^\s*([A-Za-z][\w ]*?)\s*:\s*(.*?)\s*$")
_TAG = re.compile(r"<([\w ]+)>\s*:?\s*([^<]*)")


def annotation_of(comments: Sequence[str], begins: str | None = None) -> Annotation:
    """Labels, patient and metadata from the comment lines of a header, without their ``#``, and
    from when its record ``begins``.

    ``Key: value`` is metadata under the key in lower case, and any other line one of ``comments``,
    unless an adapter reads it in another way.
    """
    metadata: dict[str, Any] = {} if begins is None else {"recording_date": begins}
    if not comments:
        return Annotation(metadata=metadata)
    fields = [field for comment in comments for field in _fields(comment)]
    for field in fields:
        if field.key and not (field.tagged and not field.value):
            metadata[field.key] = field.value
        elif not field.key and field.value:
            metadata["comments"] = [*metadata.get("comments", []), field.value]
    labels: dict[str, float] = {}
    patient = None
    for read in ADAPTERS:
        found = read(fields)
        labels |= found.labels
        metadata |= found.metadata
        patient = patient or found.patient_id
    kept = {key: value for key, value in metadata.items() if value is not None}
    return Annotation(patient, labels=labels, metadata=kept)


def _fields(comment: str) -> list[Field]:
    if tags := _TAG.findall(comment):
        return [Field(key.strip().lower(), value.strip(), tagged=True) for key, value in tags]
    if match := _FIELD.match(comment):
        return [Field(match[1].lower(), match[2])]
    return [Field("", comment.strip())]
