"""LUDB: 200 records of 200 patients, ten seconds at 500 Hz; diagnoses are in the headers.

Source: Kalyakulina et al. 2020, https://physionet.org/content/ludb/1.0.1/.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latentcast.signals.readers.datasets.dataset import DataSet, all_match, one_each
from latentcast.source import RecordRef


def recognise(root: Path, refs: Sequence[RecordRef]) -> DataSet | None:
    if not (root / "ludb.csv").is_file() or not all_match(refs, r"(?:.*/)?\d{1,3}\.hea"):
        return None
    about = "one record of each patient, labels are the diagnoses in the headers"
    return DataSet("LUDB", about, one_each)
