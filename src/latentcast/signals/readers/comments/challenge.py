"""PhysioNet/CinC Challenge 2020 and 2021: ``#Dx: 426783006,164889003``, SNOMED CT codes.

Source: https://physionet.org/content/challenge-2021/1.0.3/.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentcast.signals.readers.comments.field import Field
from latentcast.source import Annotation


def read(fields: Sequence[Field]) -> Annotation:
    """Each code is a label of likelihood 1; what stands for no code is none."""
    codes = [
        Field("", code.strip())
        for field in fields
        if field.key == "dx"
        for code in field.value.split(",")
    ]
    labels = {code.value: 1.0 for code in codes if not code.missing}
    return Annotation(labels=labels, metadata={"dx": None})
