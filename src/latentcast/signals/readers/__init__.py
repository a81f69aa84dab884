"""Readers of recordings, one file a format; :mod:`latentcast.data.formats` chooses between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from latentcast.places import kind_of
from latentcast.signals.channels import Channels
from latentcast.signals.leads import renamed
from latentcast.signals.readers.file_format import ReadOptions
from latentcast.signals.recording import Recording
from latentcast.signatures import checked
from latentcast.source import BadRecord


@checked
def read_recording(
    path: str | Path,
    channels: Channels | None = None,
    *,
    sampling_rate: float | None = None,
    unit: str | None = None,
    rename: Mapping[str, str] | None = None,
) -> Recording:
    """One ECG: a file of any format of :mod:`latentcast.signals.readers.ecg_files`, or a WFDB or
    Challenge record by its ``.hea``, ``.dat`` or ``.mat`` file or its bare name.

    Args:
        path: that of a record's file.
        channels: what to read of a record that is no ECG; None reads all signals as ECG leads.
        sampling_rate: in Hz, of a file that has none (a table of numbers).
        unit: V, mV, uV or nV, of a file that has none.
        rename: leads by what the file calls them, as ``{"ECG1": "II"}``.

    Raises:
        BadRecord: it cannot be used; the message begins with the path.
    """
    try:
        return read_with(path, ReadOptions(channels, sampling_rate, unit, renamed(rename or {})))
    except BadRecord as error:
        raise BadRecord(error.in_python) from error


def read_with(path: str | Path, options: ReadOptions) -> Recording:
    """:func:`read_recording` as the command line words its errors."""
    try:
        return _read(path, options)
    except OSError as error:
        raise BadRecord(f"{path}: cannot be read ({error.strerror or error})") from error


def _read(path: str | Path, options: ReadOptions) -> Recording:
    # Forty modules, which nothing but reading a file has to wait for.
    from latentcast.signals.readers import wfdb
    from latentcast.signals.readers.ecg_files import format_of_file, header_of, read_file
    from latentcast.signals.readers.wfdb_checksums import sums_beside

    file = Path(path)
    if (kind := kind_of(file)) == "is an archive":
        raise BadRecord(f"{path}: {kind}; ingest it, and read records of the store")
    if file.is_dir():
        raise BadRecord(f"{path}: {kind or 'is a folder'}; name one record, or ingest the folder")
    if (format := format_of_file(file)) is not None:
        try:
            return read_file(file, format, options)
        except BadRecord as error:
            raise BadRecord(f"{path}: {error}", f"{path}: {error.in_python}") from error
    header = header_of(file)
    if not header.exists():
        if file.is_file() and file.suffix in (".npy", ".npz"):
            raise BadRecord(
                f"{path}: is an array of recordings, and no record; numpy.load reads it, embed "
                "takes it with sampling_rate, leads and unit, and so does ingest"
            )
        if file.is_file():
            raise BadRecord(
                f"{path}: is of no format of one ECG, and no WFDB record (it has no "
                f"{header.name}); name the header of its record, or ingest the folder"
            )
        if not file.exists():
            raise BadRecord(f"{path}: does not exist (nor does {header.name}); check the path")
    try:
        recording, annotation = wfdb.read(header, sums_beside(header), options)
    except BadRecord as error:
        raise BadRecord(f"{path}: {error}", f"{path}: {error.in_python}") from error
    recording.metadata.update(annotation.metadata, labels=annotation.labels)
    return replace(recording, patient_id=annotation.patient_id)
