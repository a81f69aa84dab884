"""Patients of any records: by a pattern in their paths, or by a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from latentcast.data.tables.file import read_table
from latentcast.data.tables.match import match
from latentcast.errors import LatentcastError
from latentcast.files import sha256
from latentcast.signals.readers.table import not_a_table
from latentcast.source import RecordRef

TABLES = (".csv", ".tsv", ".parquet")
NAME = "{patient}"
"""In a pattern, what names the patient: all up to a slash or what follows in the pattern."""


def is_table(patients: str | Path) -> bool:
    """Whether patients are given by a table, and not by a pattern."""
    return isinstance(patients, Path) or patients.lower().endswith(TABLES)


def recorded(patients: str | Path) -> str:
    """For the manifest: the pattern, or name and content of the table."""
    if not is_table(patients):
        return str(patients)
    path = Path(patients)
    if not_a_table(path):
        raise LatentcastError(f"{path}: is no regular file; put the table itself in its place")
    if not path.is_file():
        raise LatentcastError(
            f"--patients {path}: does not exist; name a table with the columns record_id and "
            "patient_id, or give a pattern"
        )
    return f"{path.name} (sha256 {sha256(path)})"


def patients_of(patients: str | Path, refs: Sequence[RecordRef]) -> dict[str, str]:
    """Record id to patient, for every record that can be read.

    Args:
        patients: a regular expression, in which ``{patient}`` stands for the name of the patient;
            otherwise its groups, or without any the whole match, are that. It is searched for in
            the path of the record's file in the source, and in the record id where one file holds
            many records. Or a table with a column of record ids (or paths) and one of patients.

    Raises:
        LatentcastError: a record has no patient, all have one, a patient is in two splits of the
            source, or the pattern or the table cannot be read.
    """
    readable = [ref for ref in refs if ref.problem is None]
    ids = [ref.record_id for ref in readable]
    if is_table(patients):
        by_id = _of_table(Path(patients), ids)
    else:
        files = [ref.file for ref in readable]
        named = files if len(set(files)) == len(files) else ids
        by_id = dict(zip(ids, _of_pattern(str(patients), named), strict=True))
    if missing := [name for name in ids if not by_id.get(name)]:
        raise LatentcastError(
            f"--patients {patients}: gives {len(missing)} of {len(ids)} records no patient, such "
            f"as '{missing[0]}'; a record without one could be in another split than its patient's"
        )
    if len(ids) > 1 and len({by_id[name] for name in ids}) == 1:
        raise LatentcastError(
            f"--patients {patients}: puts all {len(ids)} records into one group, "
            f"'{by_id[ids[0]]}', which leaves nothing to test on; name what tells patients apart"
        )
    splits: dict[str, object] = {}
    for ref in readable:
        if splits.setdefault(by_id[ref.record_id], ref.split) != ref.split:
            raise LatentcastError(
                f"--patients {patients}: patient '{by_id[ref.record_id]}' has records in two "
                f"splits of the source, one of them {ref.record_id}; move all records of a patient "
                "into one, or, of images, draw them anew with --splits none"
            )
    return {name: by_id[name] for name in ids}


def _of_pattern(pattern: str, names: Sequence[str]) -> list[str]:
    try:
        compiled = re.compile(pattern.replace(NAME, "([^/]+)"))
    except re.error as error:
        raise LatentcastError(
            f"--patients {pattern}: is no regular expression ({error}); write one such as "
            "'patient(\\d+)', or name a table"
        ) from None
    found = [compiled.search(name) for name in names]
    return [
        "" if match is None else "/".join(p for p in (match.groups() or (match[0],)) if p)
        for match in found
    ]


def _of_table(path: Path, ids: Sequence[str]) -> dict[str, str]:
    table = read_table(path, of_labels=False)
    if table.record is None or table.patient is None:
        absent = "record" if table.record is None else "patient"
        raise LatentcastError(
            f"{path}: has no column of {absent}s ({table.lines[0].partition(': ')[2]}); call one "
            f"{absent}_id"
        )
    rows = match(table, ids, [""] * len(ids)).row.tolist()
    return {
        name: table.patient_of(table.rows[row])
        for name, row in zip(ids, rows, strict=True)
        if row >= 0
    }
