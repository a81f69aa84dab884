"""WFDB, format 16, written by the ``wfdb`` package; -32768 was not measured.

Age, sex, patient and codes are comments of the header as PhysioNet spells them; of all other
metadata numbers and texts are comments under their names.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.errors import printable
from latentcast.signals.recording import Recording
from latentcast.signals.writers.file_writer import FileWriter, in_counts

_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_OF_OTHERS = {"age", "sex", "gender", "dx", "rhythm", "diagnoses", "patient", "subject"}
"""Names under which a reader of comments looks for labels, patient, age and sex."""


def write(recording: Recording, path: Path) -> npt.NDArray[np.float64]:
    """See :class:`FileWriter`; the name of ``path`` has letters, digits, ``-`` and ``_`` alone."""
    import wfdb

    counts, steps = in_counts(recording)
    wfdb.wrsamp(
        path.name,
        recording.sampling_rate,
        ["mV"] * len(steps),
        list(recording.leads),
        d_signal=counts.astype(np.int64),
        fmt=["16"] * len(steps),
        adc_gain=[round(1 / step, 6) for step in steps.tolist()],
        baseline=[0] * len(steps),
        comments=_comments(recording),
        write_dir=str(path.parent),
    )
    return steps


def _comments(recording: Recording) -> list[str]:
    about = recording.metadata
    fields = {"Age": about.get("age", ""), "Sex": str(about.get("sex", "")).capitalize()}
    fields |= {"Dx": ",".join(about.get("labels", ())), "Patient ID": recording.patient_id or ""}
    fields |= {
        name: value
        for name, value in about.items()
        if isinstance(value, str | int | float) and _NAME.fullmatch(name)
        and name.split("_")[0].lower() not in _OF_OTHERS
    }  # fmt: skip
    texts = {name: " ".join(str(value).split()) for name, value in fields.items()}
    return [f"{name}: {printable(text)}" for name, text in texts.items() if text]


WRITER = FileWriter((".hea", ".dat"), write, ("wfdb", "ecg"))
