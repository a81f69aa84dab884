"""Parquet, written with ``pyarrow``: a float32 column for each lead in millivolts, NaN was not
measured; rate, patient and metadata are JSON in the metadata of the schema.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.signals.readers.lead_parquet import KEY
from latentcast.signals.recording import Recording
from latentcast.signals.writers.file_writer import FileWriter


def write(recording: Recording, path: Path) -> npt.NDArray[np.float64]:
    """See :class:`FileWriter`."""
    import pyarrow
    from pyarrow import parquet

    about = {
        "sampling_rate": recording.sampling_rate,
        "patient_id": recording.patient_id,
        "metadata": recording.metadata,
    }
    table = pyarrow.table(dict(zip(recording.leads, recording.signal, strict=True)))
    table = table.replace_schema_metadata({KEY: json.dumps(about)})
    parquet.write_table(table, path.with_name(f"{path.name}.parquet"))
    return np.zeros(len(recording.leads))


WRITER = FileWriter((".parquet",), write, ("pyarrow", "huggingface"))
