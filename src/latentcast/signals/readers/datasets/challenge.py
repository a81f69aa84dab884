"""The PhysioNet/CinC Challenges of 2020 and 2021: data sets by the names of records.

Labels are the codes of ``#Dx`` in the headers. Chapman-Shaoxing-Ningbo has one record of each
patient, here and on its own (``WFDBRecords``); the others do not say whose a record is.

Source: https://physionet.org/content/challenge-2021/1.0.3/,
https://physionet.org/content/ecg-arrhythmia/1.0.0/.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from latentcast.signals.readers.datasets.dataset import DataSet, header_of, one_each
from latentcast.source import Annotation, RecordRef


@dataclass(frozen=True)
class Part:
    """One of the data sets: its name, and how its records are named."""

    name: str
    pattern: str
    one_each: bool = False


PARTS = (
    Part("Chapman-Shaoxing-Ningbo", r"JS\d{5}", one_each=True),
    Part("CPSC2018", r"A\d{4}"),
    Part("CPSC-Extra", r"Q\d{4}"),
    Part("Georgia", r"E\d{5}"),
    Part("PTB-XL", r"HR\d{5}"),
    Part("PTB", r"S\d{4}"),
    Part("INCART", r"I\d{4}"),
)
_ONE_EACH = re.compile("|".join(part.pattern for part in PARTS if part.one_each))


def recognise(root: Path, refs: Sequence[RecordRef]) -> DataSet | None:
    parts = Counter[Part]()
    for ref in refs:
        name = PurePosixPath(ref.file).stem
        part = next((part for part in PARTS if re.fullmatch(part.pattern, name)), None)
        if part is None:
            return None
        parts[part] += 1
    if not parts or not re.search(r"^#\s*Dx:", header_of(root, refs[0]), re.MULTILINE):
        return None
    counts = ", ".join(f"{part.name} ({count:,})" for part, count in parts.most_common())
    single = [part.name for part in parts if part.one_each]
    others = [part.name for part in parts if not part.one_each]
    about = [f"{' and '.join(single)} has one record of each patient"] * bool(single)
    about += [f"{', '.join(others)} {'names' if len(others) == 1 else 'name'} no patients"] * bool(
        others
    )
    return DataSet(counts, f"{'; '.join(about)}; labels are the codes in the headers", annotate)


def annotate(ref: RecordRef, annotation: Annotation) -> Annotation:
    own = _ONE_EACH.fullmatch(PurePosixPath(ref.file).stem) is not None
    return one_each(ref, annotation) if own else annotation
