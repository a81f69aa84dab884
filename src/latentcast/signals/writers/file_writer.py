"""What a format is that one recording can be written in, and the counts that such formats hold.

Each is a file in this folder with ``write``, and a line in
:data:`latentcast.signals.writers.FILE_WRITERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.errors import missing_extra
from latentcast.signals.recording import INVALID, Recording
from latentcast.source import BadRecord

LARGEST = 32767
STEPS = tuple(digit * 10.0**power for power in range(-5, 0) for digit in (1, 2, 5))[:-1]
"""Millivolts of one count that are tried, the finest first: a microvolt is a whole number of those
below it, so that counts of whole microvolts come back exactly."""


@dataclass(frozen=True)
class FileWriter:
    """One format.

    Attributes:
        suffixes: of the files of one recording; the first is the one that is read.
        write: a recording to files with these suffixes, at a path without one. Gives the quantum of
            each lead in mV, float64 ``(leads,)``: what is read differs by no more. Raises BadRecord
            where the format cannot hold the recording.
        package: what it is written with, and the extra that installs it.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Recording, Path], npt.NDArray[np.float64]]
    package: tuple[str, str] | None = None

    def check(self) -> None:
        """Raises LatentcastError: the package is not installed."""
        if self.package is not None and find_spec(self.package[0]) is None:
            raise missing_extra(*self.package, f"writing {self.suffixes[0]} files")


def in_counts(recording: Recording) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float64]]:
    """Counts ``(samples, leads)``, ``INVALID`` for what was not measured, and the millivolts of a
    count of each lead, as fine as the amplitude of the lead allows.

    Raises:
        BadRecord: the amplitude is beyond all of :data:`STEPS`.
    """
    peaks = np.fmax.reduce(np.abs(recording.signal), axis=1, initial=0.0).astype(np.float64)
    if peaks.max(initial=0.0) > LARGEST * STEPS[-1]:
        lead = recording.leads[int(peaks.argmax())]
        raise BadRecord(f"amplitude {peaks.max():.4g} mV in lead {lead} does not fit 16 bits")
    steps = np.array([next(step for step in STEPS if peak <= LARGEST * step) for peak in peaks])
    counts = np.rint(recording.signal.astype(np.float64) / steps[:, None])
    counts = np.where(np.isnan(counts), INVALID, np.clip(counts, -LARGEST, LARGEST))
    return np.ascontiguousarray(counts.T).astype(np.int16), steps
