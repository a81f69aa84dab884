"""Tasks of the columns of label tables: one column, or several of 0 and 1 together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentcast.data.store import Store
from latentcast.data.tables.attached import LabelTable, tables_of
from latentcast.data.tables.columns import Column
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation.tasks.base import Kind, Targets


@dataclass(frozen=True)
class Columns:
    """``COLUMN``, ``COLUMN,COLUMN`` or ``TABLE/COLUMN``; a record without a value is left out.

    A column of 0 and 1 is one label, several of them are a multi-label task of the records that
    have all of them; a column of classes is multi-class, of codes multi-label, of numbers a
    regression.
    """

    name: str

    def targets(self, store: Store) -> Targets:
        """Raises LatentcastError for a column that no table has, and for columns of several kinds
        or tables together."""
        one = self.name in column_names(store)  # the name of a column may have commas
        names = [self.name] if one else self.name.split(",")
        found = [_find(name.strip(), store) for name in names]
        tables = {id(table): table for table, _ in found}
        if len(tables) > 1:
            several = " and ".join(table.name for table in tables.values())
            raise LatentcastError(
                f"task {self.name}: is of the tables {several}; name columns of one"
            )
        table, columns = found[0][0], [column for _, column in found]
        mask = np.all([column.mask for column in columns], axis=0)
        if table.folds is not None:
            mask = mask & (table.folds > 0)
        if len(columns) > 1 or columns[0].kind == "binary":
            if any(column.kind != "binary" for column in columns):
                raise LatentcastError(
                    f"task {self.name}: only columns of 0 and 1 are scored together; name one"
                )
            values = np.stack([column.values == 1 for column in columns], axis=1)
            return self._of(table, values, mask, tuple(c.name for c in columns), "multi-label")
        (column,) = columns
        classes = column.classes or (column.name,)
        if column.kind == "classes":
            places = np.where(column.mask, column.values, -1).astype(np.int64)
            return self._of(table, places, mask, classes, "multi-class")
        kind: Kind = "multi-label" if column.kind == "codes" else "regression"
        return self._of(table, column.values, mask, classes, kind)

    def _of(
        self, table: LabelTable, values: Any, mask: Any, names: tuple[str, ...], kind: Kind
    ) -> Targets:
        return Targets(values, mask, names, kind, table.folds, table.patients)


def column_names(store: Store) -> list[str]:
    """What :class:`Columns` can be made of in a store."""
    return [name for _, table in _tables(store) for name in table.columns]


def _tables(store: Store) -> Iterator[tuple[str, LabelTable]]:
    yield from tables_of(store).items()


def _find(name: str, store: Store) -> tuple[LabelTable, Column]:
    found = [
        (table, column)
        for key, table in _tables(store)
        for column in table.columns.values()
        if name in (column.name, f"{key}/{column.name}")
    ]
    if not found:
        raise LatentcastError(
            f"task {name}: no label table of {store.path} has such a column; "
            f"{nearest(name, column_names(store))}"
        )
    if len(found) > 1:
        raise LatentcastError(
            f"task {name}: {len(found)} tables have this column; write {found[0][0].name}/{name}"
        )
    return found[0]
