"""Which row of a table is about which record of a store, and every mismatch with its count."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from latentcast.data.tables.file import TableFile
from latentcast.errors import LatentcastError

Ints = npt.NDArray[np.int64]
EXAMPLES = 5
"""Named in a finding."""
_NUMBER = re.compile(r"(\d{1,18})(?:\.0*)?(?:_[lh]r)?", re.ASCII)
"""PTB-XL names the files of record 7 ``00007_lr`` and ``00007_hr``."""


@dataclass(frozen=True, eq=False)
class Match:
    """Rows of the table by record.

    Attributes:
        row: int64 ``(N,)``, the table's row of each record; -1 where it has none.
        lines: what did not match, in sentences with counts and examples.
    """

    row: Ints
    lines: tuple[str, ...]


def match(table: TableFile, record_ids: Sequence[str], patient_ids: Sequence[str]) -> Match:
    """Match rows to records: by record id, by file name, or by patient for all of their records.

    Args:
        record_ids, patient_ids: of the ``N`` records of a store; ``""`` is an unnamed patient.

    Raises:
        LatentcastError: two rows of one id that differ, no row that matches, a patient of the
            table who is another one in the store.
    """
    by_record = table.record is not None
    key = table.record if by_record else table.patient
    assert key is not None
    once, lines = _without_repeats(table, key)
    find = _records(record_ids) if by_record else _patients(patient_ids)
    by_number = _numbers(record_ids)
    row = np.full(len(record_ids), -1, dtype=np.int64)
    absent, ambiguous = list[str](), list[str]()
    numbered = list[tuple[str, str]]()
    for name, place in once.items():
        found = find(name)
        if by_record and not found and len(found := by_number(name)) == 1:
            numbered.append((name, record_ids[found[0]]))
        if by_record and len(found) > 1:
            ambiguous.append(name)
        elif found:
            first = int(row[found[0]])
            _refuse_differing(table, first, place, f"'{name}' has two rows, under two names,")
            row[found] = place
        else:
            absent.append(name)
    noun = "record" if by_record else "patient"
    if not (row >= 0).any():
        own = record_ids if by_record else [name for name in patient_ids if name]
        raise LatentcastError(
            f"{table.path}: no {noun} of column '{key}' is in the store; its ids look like "
            f"{examples(once)}, those of the store like {examples(own) or 'nothing: no patient'}; "
            f"call the right column {noun}_id, or, of labels, name another one with --id-column"
        )
    used, with_row = len(set(row[row >= 0].tolist())), int((row >= 0).sum())
    lines.append(f"{used:,} rows of the table are about {with_row:,} of {len(row):,} records")
    if numbered:
        named, record = numbered[0]
        were = "was" if len(numbered) == 1 else "were"
        lines.append(f"{counted(numbered, 'record id')} of the table {were} matched by "
                     f"their number, as '{named}' with '{record}'")  # fmt: skip
    if absent:
        are = "is" if len(absent) == 1 else "are"
        lines.append(f"{counted(absent, f'{noun} id')} of the table {are} not in the store: "
                     f"{examples(absent)}")  # fmt: skip
    if ambiguous:
        fit = "fits" if len(ambiguous) == 1 else "fit"
        lines.append(f"{counted(ambiguous, 'file name')} of the table {fit} several records, "
                     f"left out: {examples(ambiguous)}")  # fmt: skip
    without = [record_ids[i] for i in np.flatnonzero(row < 0).tolist()]
    if without:
        have = "has" if len(without) == 1 else "have"
        lines.append(f"{counted(without, 'record')} of the store {have} no row, labels are "
                     f"missing: {examples(without)}")  # fmt: skip
    _refuse_other_patients(table, row, record_ids, patient_ids)
    return Match(row, tuple(lines))


def counted(things: Sequence[object], noun: str) -> str:
    """A number and what is counted: ``3 records``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{len(things):,} {noun if len(things) == 1 else plural}"


def examples(names: Iterable[object]) -> str:
    """The first few, quoted."""
    listed = [str(name) for name in names]
    more = ", …" if len(listed) > EXAMPLES else ""
    return ", ".join(f"'{name[:60]}'" for name in listed[:EXAMPLES]) + more


def _without_repeats(table: TableFile, key: str) -> tuple[dict[str, int], list[str]]:
    """The row of each id. Rows that repeat one another count once; rows that differ are refused."""
    once: dict[str, int] = {}
    repeated, empty = list[str](), 0
    for place, row in enumerate(table.rows):
        name = row[key].strip() if key == table.record else table.patient_of(row)
        if not name:
            empty += 1
            continue
        first = once.setdefault(name, place)
        if first == place:
            continue
        _refuse_differing(table, first, place, f"'{name}' has two rows")
        repeated.append(name)
    lines = list(table.lines)
    if empty:
        have = "row of the table has" if empty == 1 else "rows of the table have"
        lines.append(f"{empty:,} {have} an empty '{key}', left out")
    if repeated:
        repeat = "repeats" if len(repeated) == 1 else "repeat"
        lines.append(f"{counted(repeated, 'row')} {repeat} an earlier one, counted once: "
                     f"{examples(repeated)}")  # fmt: skip
    return once, lines


def _refuse_differing(table: TableFile, first: int, second: int, what: str) -> None:
    """Two rows of one record are one row, or a mistake; ``first`` may be -1 for none."""
    one, two = table.rows[first], table.rows[second]
    owner = [table.patient] if table.record and table.patient else []
    columns = [column for column in (*owner, *table.columns) if one[column] != two[column]]
    if first >= 0 and columns:
        raise LatentcastError(
            f"{table.path}: {what} that differ in column '{columns[0]}' (lines {first + 2} and "
            f"{second + 2}); keep one of them"
        )


class _records:
    """Places of the records that an id or file name means."""

    def __init__(self, record_ids: Sequence[str]) -> None:
        self._by_id = {name: [place] for place, name in enumerate(record_ids)}
        self._by_stem = defaultdict[str, list[int]](list)
        for place, name in enumerate(record_ids):
            self._by_stem[_stem(name)].append(place)

    def __call__(self, name: str) -> list[int]:
        path = PurePosixPath(name.replace("\\", "/"))
        for spelling in (name, str(path), str(path.with_suffix("")) if path.suffix else ""):
            if spelling in self._by_id:
                return self._by_id[spelling]
        return self._by_stem.get(_stem(name), [])


class _numbers:
    """Places of the records whose id is the same number: ``7``, ``00007``, ``00007_lr``."""

    def __init__(self, record_ids: Sequence[str]) -> None:
        self._by_number = defaultdict[int, list[int]](list)
        for place, name in enumerate(record_ids):
            if (number := _number(name)) is not None:
                self._by_number[number].append(place)

    def __call__(self, name: str) -> list[int]:
        number = _number(name)
        return [] if number is None else self._by_number.get(number, [])


def _number(name: str) -> int | None:
    match = _NUMBER.fullmatch(_stem(name))
    return int(match[1]) if match else None


def _stem(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix[1:2].isalpha() else path.name


class _patients:
    """Places of all records of a patient."""

    def __init__(self, patient_ids: Sequence[str]) -> None:
        self._by_id = defaultdict[str, list[int]](list)
        for place, name in enumerate(patient_ids):
            if name:
                self._by_id[name].append(place)

    def __call__(self, name: str) -> list[int]:
        return self._by_id.get(name, [])


def _refuse_other_patients(
    table: TableFile, row: Ints, record_ids: Sequence[str], patient_ids: Sequence[str]
) -> None:
    """A table and a store that disagree about a patient are not about the same records."""
    if table.patient is None or table.record is None:
        return
    differ = [
        (record_ids[i], patient, patient_ids[i])
        for i, r in enumerate(row.tolist())
        if r >= 0 and patient_ids[i] and (patient := table.patient_of(table.rows[r]))
        and patient != patient_ids[i]
    ]  # fmt: skip
    if differ:
        record, ours, theirs = differ[0]
        raise LatentcastError(
            f"{table.path}: {counted(differ, 'record')} belong to another patient than in the "
            f"store, such as '{record}' ('{ours}' here, '{theirs}' there); correct the column "
            f"'{table.patient}', or drop it to keep the store's patients"
        )


def patients_of(
    table: TableFile, row: Ints, record_ids: Sequence[str], patient_ids: Sequence[str]
) -> list[str]:
    """The patient of each record: the store's, else the table's, else the record itself."""
    groups = []
    for place, r in enumerate(row.tolist()):
        group = patient_ids[place]
        if not group and r >= 0:
            group = table.patient_of(table.rows[r])
        groups.append(group or f"record {record_ids[place]}")
    return groups


def refuse_shared_patients(
    path: object, folds: Mapping[str, Ints], patients: list[str], *, column: bool = True
) -> None:
    """Raises LatentcastError: a patient has records in two splits; ``column``: by the table's."""
    splits = {split: {patients[i] for i in rows.tolist()} for split, rows in folds.items()}
    times = Counter(patient for members in splits.values() for patient in members)
    both = sorted(patient for patient, n in times.items() if n > 1)
    if both:
        first = [split for split, members in splits.items() if both[0] in members]
        raise LatentcastError(
            f"{path}: records of {counted(both, 'patient')} are in two splits, such as those of "
            f"'{both[0]}' ({' and '.join(first)}); "
            + (
                "put all records of a patient in one split, or drop the column to split by patient"
                if column
                else "the store was divided without patients; draw a split with --stratify"
            )
        )
