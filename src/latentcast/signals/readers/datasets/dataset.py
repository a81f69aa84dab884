"""What the reader of WFDB folders takes from a data set that it recognised."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latentcast.signals.readers.wfdb_header import decode_header
from latentcast.source import Annotation, BadRecord, RecordRef, record_file


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        name: as its publishers have it.
        about: where patients and labels are from, in a few words.
        annotate: what its header gives of a record, and what the data set adds; picklable.
    """

    name: str
    about: str
    annotate: Callable[[RecordRef, Annotation], Annotation]


def header_of(root: Path, ref: RecordRef) -> str:
    """The text of a record's header; empty where it cannot be read, which its reader reports."""
    try:
        return decode_header(record_file(root, ref.file).read_bytes())
    except (OSError, BadRecord):
        return ""


def one_each(ref: RecordRef, annotation: Annotation) -> Annotation:
    """Of a data set with one record of each patient: the record's name is the patient's."""
    return replace(annotation, patient_id=annotation.patient_id or ref.record_id)


def all_match(refs: Sequence[RecordRef], pattern: str) -> bool:
    """Whether the paths of all records are of a pattern, and there are some."""
    compiled = re.compile(pattern)
    return bool(refs) and all(compiled.fullmatch(ref.file) for ref in refs)
