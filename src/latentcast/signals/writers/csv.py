"""CSV: a column for each lead in millivolts, under a header line; ``nan`` was not measured.

Every float32 comes back to the bit. Rate, patient and metadata have no place in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.signals.recording import Recording
from latentcast.signals.writers.file_writer import FileWriter


def write(recording: Recording, path: Path) -> npt.NDArray[np.float64]:
    """See :class:`FileWriter`."""
    header = ",".join(f"{lead} (mV)" for lead in recording.leads)
    # The shortest text that is the same float32, which no fixed number of digits is.
    rows = recording.signal.T.astype("U32").tolist()
    text = "\n".join([header, *(",".join(row) for row in rows), ""])
    path.with_name(f"{path.name}.csv").write_text(text, encoding="ascii")
    return np.zeros(len(recording.leads))


WRITER = FileWriter((".csv",), write)
