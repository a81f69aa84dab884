"""LUDB and INCART: diagnoses in words.

LUDB has ``#<diagnoses>:`` and then a statement a line, ``#Rhythm: Sinus bradycardia.`` first;
INCART has them in that line, with commas between them.

Source: https://physionet.org/content/ludb/1.0.1/, https://physionet.org/content/incartdb/1.0.0/.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentcast.signals.readers.comments.field import Field
from latentcast.source import Annotation


def read(fields: Sequence[Field]) -> Annotation:
    """Each statement is a label; the rhythm is also ``metadata["rhythm"]``, one of several."""
    keys = [field.key for field in fields]
    labels, metadata = list[Field](), dict[str, str | None]()
    begin = len(fields)
    if "rhythm" in keys:
        begin = keys.index("rhythm")
        metadata["rhythm"] = _stated(fields[begin]).value or None
    if "diagnoses" in keys:
        position = keys.index("diagnoses")
        labels = [Field("", text.strip(" ()")) for text in fields[position].value.split(",")]
        metadata["diagnoses"] = None
        begin = begin if fields[position].value else position + 1
    for field in fields[begin:]:
        # Without a heading only what ends like a statement of LUDB is one.
        if "diagnoses" in keys or field.key == "rhythm" or field.value.endswith("."):
            labels.append(_stated(field))
    named = {label.value: 1.0 for label in labels if not label.missing}
    return Annotation(labels=named, metadata=metadata)


def _stated(field: Field) -> Field:
    """A statement without its full stop; what it is about belongs to it, but for the rhythm."""
    text = field.value.rstrip(". ")
    own = field.key in ("", "rhythm") or not text
    return Field("", text if own else f"{field.key.capitalize()}: {text}")
