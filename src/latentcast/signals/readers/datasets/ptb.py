"""PTB Diagnostic ECG Database: 549 records of 290 patients, ``patient001/s0010_re.hea``.

15 channels at 1000 Hz: the twelve leads, and Frank's three, which are left out.

Source: Bousseljot et al. 1995, https://physionet.org/content/ptbdb/1.0.0/.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latentcast.signals.readers.comments.field import Field
from latentcast.signals.readers.datasets.dataset import DataSet, all_match
from latentcast.source import Annotation, RecordRef

_FILE = r"(?:.*/)?patient(\d{3})/s\d{4}\w*\.hea"


def recognise(root: Path, refs: Sequence[RecordRef]) -> DataSet | None:
    if not all_match(refs, _FILE):
        return None
    about = "patients are the names of the folders, labels the reasons for admission"
    return DataSet("the PTB Diagnostic ECG Database", about, annotate)


def annotate(ref: RecordRef, annotation: Annotation) -> Annotation:
    match = re.fullmatch(_FILE, ref.file)
    assert match is not None
    reason = Field("", annotation.metadata.get("reason for admission", "").strip())
    labels = {} if reason.missing else {reason.value: 1.0}
    return replace(annotation, patient_id=match[1], labels=annotation.labels | labels)
