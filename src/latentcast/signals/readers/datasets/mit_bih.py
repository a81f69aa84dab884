"""MIT-BIH Arrhythmia Database: 48 half-hours of two channels at 360 Hz, of 47 patients.

Records 201 and 202 are of one man. The annotations of beats are no labels of records.

Source: Moody & Mark 2001, https://physionet.org/content/mitdb/1.0.0/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latentcast.signals.readers.datasets.dataset import DataSet, all_match, header_of
from latentcast.source import Annotation, RecordRef

_NAMES = r"10\d|11[1-9]|12[1-4]|20[0-35789]|210|21[2-57]|219|22[0-38]|23[0-4]"
_ONE_PATIENT = {"202": "201"}


def recognise(root: Path, refs: Sequence[RecordRef]) -> DataSet | None:
    if not all_match(refs, rf"(?:.*/)?(?:{_NAMES})\.hea"):
        return None
    lines = header_of(root, refs[0]).splitlines()
    first = next((line for line in lines if line and line[0] != "#"), "")
    if first.split()[1:3] != ["2", "360"]:
        return None
    about = "records 201 and 202 are of one patient, any other record is of its own; no labels"
    return DataSet("the MIT-BIH Arrhythmia Database", about, annotate)


def annotate(ref: RecordRef, annotation: Annotation) -> Annotation:
    name = Path(ref.file).stem
    return replace(annotation, patient_id=_ONE_PATIENT.get(name, name))
