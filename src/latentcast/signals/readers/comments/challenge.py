"""PhysioNet/CinC Challenge 2020 and 2021: ``#Dx: 426783006,164889003``, SNOMED CT codes.

Source: https://physionet.org/content/challenge-2021/1.0.3/.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentcast.signals.readers.comments.field import Field, codes_in
from latentcast.source import Annotation


def read(fields: Sequence[Field]) -> Annotation:
    """Each code is a label of likelihood 1; what stands for no code is none."""
    diagnoses = [field.value.replace(",", ";") for field in fields if field.key == "dx"]
    labels = {code: 1.0 for text in diagnoses for code in codes_in(text)}
    return Annotation(labels=labels, metadata={"dx": None})
