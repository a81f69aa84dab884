"""Writers of recordings, one file a format; each is read by a reader of the same name."""

from __future__ import annotations

from typing import Literal

from latentcast.signals.writers import csv, edf, parquet, wfdb
from latentcast.signals.writers.file_writer import FileWriter

FileKind = Literal["wfdb", "edf", "parquet", "csv"]
FILE_WRITERS: dict[FileKind, FileWriter] = {
    "wfdb": wfdb.WRITER,
    "edf": edf.WRITER,
    "parquet": parquet.WRITER,
    "csv": csv.WRITER,
}
