"""A task from a YAML file: which codes make which class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.tasks.base import Targets, Task
from latentcast.evaluation.tasks.codes import CodeGroups

KEYS = {"classes", "exclusive", "keep_unlabelled"}


@dataclass(frozen=True)
class ExclusiveGroups:
    """Classes of which a record has one: whoever has codes of none or of several is left out."""

    groups: CodeGroups

    @property
    def name(self) -> str:
        return self.groups.name

    def targets(self, store: Store) -> Targets:
        """Raises LatentcastError when no record of the store carries one of the codes."""
        values = self.groups.targets(store).values
        mask = values.sum(axis=1) == 1
        places = np.where(mask, values.argmax(axis=1), -1)
        return Targets(places.astype(np.int64), mask, self.groups.classes, "multi-class")


def groups_of(path: Path) -> Task:
    """The task of a file::

        classes:
          atrial fibrillation: [164889003, AFIB]
          sinus rhythm: [426783006, SR]
        exclusive: true        # one class a record; by default any number of them
        keep_unlabelled: true  # a record without any of the codes is a negative, not left out

    Raises:
        LatentcastError: the file cannot be read or is of another form.
    """
    try:
        read: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise LatentcastError(f"task {path}: cannot be read ({first}); write it anew") from error
    form = "write classes: {NAME: [CODE, CODE]} with one class or more"
    classes = read.get("classes") if isinstance(read, Mapping) else None
    if not isinstance(classes, Mapping) or not classes:
        raise LatentcastError(f"task {path}: holds no classes; {form}")
    if unknown := sorted(map(str, read.keys() - KEYS)):
        raise LatentcastError(
            f"task {path}: '{unknown[0]}' is no key of a task; they are {', '.join(sorted(KEYS))}"
        )
    members = {str(name): _codes(codes, path, form) for name, codes in classes.items()}
    for key in ("exclusive", "keep_unlabelled"):
        if not isinstance(read.get(key, False), bool):
            raise LatentcastError(f"task {path}: {key} is '{read[key]}'; write true or false")
    keeps = read.get("keep_unlabelled", False)
    groups = CodeGroups(path.stem, members, keeps_unlabelled=keeps)
    return ExclusiveGroups(groups) if read.get("exclusive", False) else groups


def _codes(codes: Any, path: Path, form: str) -> tuple[str, ...]:
    listed = codes if isinstance(codes, list) else [codes]
    # YAML reads SNOMED codes as integers; a float or a date would not be the code that was typed.
    if not listed or not all(type(code) in (str, int) for code in listed):
        raise LatentcastError(f"task {path}: {listed} are no codes; {form}, in quotes if need be")
    return tuple(str(code) for code in listed)
