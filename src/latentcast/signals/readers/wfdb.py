"""WFDB records by their header: one of signals, or one of several records in a row.

Format: PhysioNet, WFDB Applications Guide, header(5) and signal(5).
"""

from __future__ import annotations

from pathlib import Path

from latentcast.signals.readers import wfdb_segments, wfdb_signals
from latentcast.signals.readers.comments import annotation_of
from latentcast.signals.readers.file_format import ReadOptions
from latentcast.signals.readers.wfdb_checksums import Sums
from latentcast.signals.recording import Recording, from_signal
from latentcast.source import Annotation


def read(
    path: Path, sha256: Sums = None, options: ReadOptions | None = None
) -> tuple[Recording, Annotation]:
    """Read a record by its header file.

    Its comments become the annotation, see :mod:`latentcast.signals.readers.comments`.

    Args:
        path: the ``.hea`` file.
        sha256: expected checksum by file name; files not in it are not checked.
        options: what to read of it.

    Raises:
        BadRecord: with the reason, also where a file contradicts a checksum.
    """
    header = wfdb_signals.read_header(path, sha256)
    kind = wfdb_signals if header.segments is None else wfdb_segments
    signal, chosen, rate = kind.read(path, header, sha256, options or ReadOptions())
    recording = from_signal(signal, chosen.leads, rate, path.stem, metadata=chosen.metadata)
    return recording, annotation_of(header.comments, header.begins)
