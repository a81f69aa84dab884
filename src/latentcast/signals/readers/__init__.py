"""Readers of recordings, one file a format; :mod:`latentcast.data.formats` chooses between them."""

from __future__ import annotations

from pathlib import Path

from latentcast.signals.channels import Channels
from latentcast.signals.readers import wfdb
from latentcast.signals.recording import Recording
from latentcast.source import BadRecord


def read_recording(path: str | Path, channels: Channels | None = None) -> Recording:
    """One WFDB or Challenge record, by its ``.hea``, ``.dat`` or ``.mat`` file or its bare name.

    Args:
        path: the file.
        channels: what to read of a record that is no ECG; None reads all signals as ECG leads.

    Raises:
        BadRecord: it cannot be used; the message begins with the path.
    """
    file = Path(path)
    header = file.with_suffix(".hea") if file.suffix in (".hea", ".dat", ".mat") else (
        file.with_name(file.name + ".hea")
    )  # fmt: skip
    try:
        recording, annotation = wfdb.read(header, channels=channels)
    except BadRecord as error:
        raise BadRecord(f"{path}: {error}") from error
    recording.metadata.update(annotation.metadata, labels=annotation.labels)
    return recording
