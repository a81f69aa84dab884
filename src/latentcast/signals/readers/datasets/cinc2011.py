"""PhysioNet/CinC Challenge 2011: ten seconds of twelve leads at 500 Hz, acceptable or not.

Which of the two is in the lists ``RECORDS-acceptable`` and ``RECORDS-unacceptable`` beside them.

Source: Silva et al. 2011, https://physionet.org/content/challenge-2011/1.0.0/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from latentcast.errors import LatentcastError
from latentcast.files import read_text
from latentcast.signals.readers.datasets.dataset import DataSet
from latentcast.source import Annotation, RecordRef, find_files

LABELS = ("acceptable", "unacceptable")


def recognise(root: Path, refs: Sequence[RecordRef]) -> DataSet | None:
    found, _ = find_files(root, "RECORDS-*acceptable")  # in one walk through the folder
    lists = {
        label: [file for file in found if PurePosixPath(file).name == f"RECORDS-{label}"]
        for label in LABELS
    }
    if not all(lists.values()):
        return None
    labels = {
        PurePosixPath(file).parent.joinpath(name).as_posix(): label
        for label, files in lists.items()
        for file in files
        for name in _names(root / file)
    }
    rows = sum(ref.file.removesuffix(".hea") in labels for ref in refs)
    about = (
        f"{rows:,} of {len(refs):,} records are in its lists of acceptable and unacceptable ones, "
        "which are the labels; it names no patients"
    )
    return DataSet("the Challenge of 2011", about, partial(annotate, labels))


def _names(file: Path) -> list[str]:
    try:
        return read_text(file, errors="replace").split()
    except OSError as error:
        raise LatentcastError(f"{file}: cannot be read ({error}); restore the list") from error


def annotate(labels: Mapping[str, str], ref: RecordRef, annotation: Annotation) -> Annotation:
    label = labels.get(ref.file.removesuffix(".hea"))
    return replace(annotation, labels={} if label is None else {label: 1.0})
