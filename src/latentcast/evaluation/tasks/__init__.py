"""Tasks by name; another one is a file here and a line in TASKS."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from latentcast.data.store import Store
from latentcast.data.tables.attached import tables_of
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation.tasks import ptbxl
from latentcast.evaluation.tasks.base import Kind, Targets, Task
from latentcast.evaluation.tasks.classes import Classes
from latentcast.evaluation.tasks.codes import AllCodes, CodeGroups
from latentcast.evaluation.tasks.columns import Columns, column_names
from latentcast.evaluation.tasks.groups import groups_of
from latentcast.evaluation.tasks.metadata import Metadata

__all__ = [
    "TASKS", "CodeGroups", "Kind", "Targets", "Task", "default_task", "label_tasks", "task",
    "task_name",
]  # fmt: skip

TASKS: Final[dict[str, Callable[[str], Task]]] = {
    **dict.fromkeys(ptbxl.NAMES, ptbxl.statements),
    "labels": AllCodes,
    "classes": Classes,
    "metadata:": Metadata,
}
"""By name, or by the part up to a colon; a task is made from its whole name."""


def task(name: str | None, store: Store) -> Task:
    """A task by its name, or the one that suits a store.

    A name of :data:`TASKS`, a ``.yaml`` file of groups of codes, or columns of a label table.

    Raises:
        LatentcastError: no such task, with the nearest name; no name, and no labels in the store.
    """
    chosen = task_name(name, store)
    key = "".join(chosen.partition(":")[:2])
    if key in TASKS:
        return TASKS[key](chosen)
    if chosen.endswith((".yaml", ".yml")):
        return groups_of(Path(chosen))
    columns = column_names(store)
    if columns:
        return Columns(chosen)
    suited = ("classes", "metadata:") if store.modality == "image" else TASKS
    raise LatentcastError(f"task {chosen}: does not exist; {nearest(chosen, suited)}")


def task_name(name: str | None, store: Store) -> str:
    """The name of a task, or of the one that suits a store.

    Raises:
        LatentcastError: no name, and nothing that suits the store.
    """
    chosen = default_task(store) if name is None else name
    if chosen is None:
        if columns := label_tasks(store):
            raise LatentcastError(
                f"{store.path}: has columns of labels ({', '.join(columns)}); name one, such "
                f"as --task {shlex.quote(columns[0])}"
            )
        raise LatentcastError(
            f"{store.path}: holds no labels; give it a table of them (latentcast label "
            f"{shlex.quote(str(store.path))} TABLE), ingest codes of recordings or one folder a "
            "class of images, or name a value of the metadata with --task metadata:NAME"
        )
    return chosen


def label_tasks(store: Store) -> list[str]:
    """The columns of the label tables of a store as ``--task`` takes them: with the name of their
    table where several tables have the column, or it has the name of another task."""
    tables = [
        (table.name, column) for table in tables_of(store).values() for column in table.columns
    ]
    times = Counter(column for _, column in tables)
    return [
        f"{table}/{column}" if times[column] > 1 or column in TASKS else column
        for table, column in tables
    ]


def default_task(store: Store) -> str | None:
    """The task that suits a store; None where its training records have no label.

    Of images the classes; of recordings the superdiagnostic classes where all codes are statements
    of PTB-XL, otherwise the codes as they are.
    """
    if store.modality == "image":
        return "classes" if store.classes and (store.class_ids >= 0).any() else None
    codes = {code for code, n in store.labels.counts(store.rows("train")).items() if n}
    superclasses = ptbxl.statements("superdiagnostic").members.values()
    diagnoses = {code for members in superclasses for code in members}
    if codes <= set(ptbxl.statements("all").classes) and diagnoses & codes:
        return "superdiagnostic"
    return "labels" if codes else None
