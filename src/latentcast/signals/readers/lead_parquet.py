"""Parquet files of one recording each, as ``latentcast convert`` writes them.

A column is a lead; rate, patient and metadata are JSON in the metadata of the schema. Other Parquet
files are none: nothing in them gives rate and unit.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO

import numpy as np

from latentcast.errors import missing_extra
from latentcast.files import parse_object
from latentcast.signals.readers.file_format import (
    FileFormat,
    ReadOptions,
    check_size,
    choose,
    read_bytes,
)
from latentcast.signals.recording import Recording, from_signal
from latentcast.source import Annotation, BadRecord

MAGIC = b"PAR1"
KEY = b"latentcast recording"
LONGEST_FOOTER = 2**22


def recognises(head: bytes) -> bool:
    return head.startswith(MAGIC) and KEY in head


def footer(file: IO[bytes]) -> bytes:
    """The schema of a Parquet file, which stands at its end; empty where it has none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic != MAGIC or length > min(size - 8, LONGEST_FOOTER):
        return b""
    file.seek(size - 8 - length)
    return file.read(length)


def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
    """The leads of one file.

    Raises:
        BadRecord: with the reason.
        LatentcastError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "huggingface", f"{path.name} (Parquet)") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(read_bytes(path)))
        check_size(file.metadata.num_columns, file.metadata.num_rows)
        about = parse_object(file.schema_arrow.metadata[KEY])
        rate, patient = float(about["sampling_rate"]), about["patient_id"]
        metadata = dict(about["metadata"])
        labels = {str(code): float(value) for code, value in metadata.pop("labels", {}).items()}
        table, names = file.read(), file.schema_arrow.names
        columns = [np.asarray(table[name].to_numpy(), np.float32) for name in names]
    except (BadRecord, MemoryError):
        raise
    except Exception as error:
        # The package reports bad files by whatever its parsing runs into.
        raise BadRecord(f"{type(error).__name__}: {error}") from error
    chosen = choose([(name, "mV") for name in names], options)
    signal = np.stack([columns[column] for column in chosen.columns])
    patient = None if patient is None else str(patient)
    recording = from_signal(signal, chosen.leads, rate, path.stem)
    return recording, Annotation(patient, labels=labels, metadata=metadata | chosen.metadata)


FORMAT = FileFormat("parquet", recognises, read)
