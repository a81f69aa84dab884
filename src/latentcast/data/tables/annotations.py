"""What a table has of the records of a source: patients, folds, labels, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latentcast.data.tables.file import read_table
from latentcast.data.tables.match import match
from latentcast.errors import LatentcastError
from latentcast.signals.readers.roles import Roles
from latentcast.source import Annotation, RecordRef


def annotations_of(
    path: Path, refs: Sequence[RecordRef]
) -> tuple[dict[str, Annotation], tuple[str, ...]]:
    """Annotation by record id, and what was matched, in sentences.

    Raises:
        LatentcastError: the table cannot be read, has no column of records, or fits no record.
    """
    table = read_table(path, of_labels=False)
    roles = Roles.of(path, list(table.rows[0]))
    if table.record is None:
        raise LatentcastError(f"{path}: has no column of records ({roles}); call one record_id")
    ids = [ref.record_id for ref in refs]
    # Rows of one record that differ anywhere are refused, as those of labels are.
    table = replace(table, columns=roles.others)
    matched = match(table, ids, [""] * len(ids))
    found = {}
    for name, place in zip(ids, matched.row.tolist(), strict=True):
        if place >= 0:
            row = dict(table.rows[place])
            try:
                annotation = roles.annotation(row)
            except ValueError as error:
                raise LatentcastError(
                    f"{path}, line {place + 2}: {error}; correct the row, or empty the cell"
                ) from None
            found[name] = replace(annotation, fold=table.fold_of(row))
    return found, (f"{path}: {roles}", *matched.lines[1:])
