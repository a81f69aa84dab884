"""Patients of images: by a pattern in their paths, or by a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from latentcast.errors import LatentcastError
from latentcast.files import sha256
from latentcast.source import RecordRef

COLUMNS = ("image", "patient")
"""Of a table."""


def is_table(groups: str | Path) -> bool:
    """Whether patients are given by a table, and not by a pattern."""
    return isinstance(groups, Path) or groups.lower().endswith(".csv")


def recorded(groups: str | Path) -> str:
    """For the manifest: the pattern, or name and content of the table."""
    if not is_table(groups):
        return str(groups)
    path = Path(groups)
    if not path.is_file():
        raise LatentcastError(f"--groups {path}: does not exist; name a CSV with the columns "
                              f"{' and '.join(COLUMNS)}, or give a pattern")  # fmt: skip
    return f"{path.name} (sha256 {sha256(path)})"


def patients_of(groups: str | Path, refs: Sequence[RecordRef]) -> dict[str, str]:
    """Record id to patient, for every record that can be read.

    Args:
        groups: a regular expression, whose groups (or, without any, the whole match) in the record
            id name the patient; or a CSV with the columns ``image`` (the record id, of files their
            path in the source) and ``patient``.

    Raises:
        LatentcastError: a record has no patient, all have one, a patient is in two splits of the
            source, or the pattern or the table cannot be read.
    """
    ids = [ref.record_id for ref in refs if ref.problem is None]
    by_id = _of_table(Path(groups), ids) if is_table(groups) else _of_pattern(str(groups), ids)
    if missing := [name for name in ids if not by_id.get(name)]:
        raise LatentcastError(
            f"--groups {groups}: gives {len(missing)} of {len(ids)} images no patient, such as "
            f"'{missing[0]}'; an image without one could be in another split than its patient's"
        )
    if len(ids) > 1 and len({by_id[name] for name in ids}) == 1:
        raise LatentcastError(
            f"--groups {groups}: puts all {len(ids)} images into one group, "
            f"'{by_id[ids[0]]}', which leaves nothing to test on; name what tells patients apart"
        )
    splits: dict[str, object] = {}
    for ref in refs:
        if ref.problem is None and splits.setdefault(by_id[ref.record_id], ref.split) != ref.split:
            raise LatentcastError(
                f"--groups {groups}: patient '{by_id[ref.record_id]}' has images in two splits of "
                f"the source, one of them {ref.record_id}; move all images of a patient into "
                "one, or draw them anew with --splits none"
            )
    return {name: by_id[name] for name in ids}


def _of_pattern(pattern: str, ids: Sequence[str]) -> dict[str, str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise LatentcastError(
            f"--groups {pattern}: is no regular expression ({error}); write one such as "
            "'patient(\\d+)', or name a .csv"
        ) from None
    matches = ((name, compiled.search(name)) for name in ids)
    return {
        name: "/".join(part for part in (found.groups() or (found[0],)) if part)
        for name, found in matches
        if found
    }


def _of_table(path: Path, ids: Sequence[str]) -> Mapping[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise LatentcastError(
                    f"--groups {path}: has the columns {', '.join(reader.fieldnames or ())}; name "
                    f"two of them {' and '.join(COLUMNS)}, an image by its path in the source, "
                    f"such as {ids[0] if ids else 'a/1.png'}"
                )
            patients: dict[str, str] = {}
            for row in reader:
                name, patient = (row[column] or "" for column in COLUMNS)
                if patients.setdefault(name, patient) != patient:
                    raise LatentcastError(
                        f"--groups {path}: gives {name} two patients, {patients[name]} and "
                        f"{patient}; keep one row an image"
                    )
            return patients
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LatentcastError(
            f"--groups {path}: cannot be read ({error}); save it as CSV in UTF-8"
        ) from None
