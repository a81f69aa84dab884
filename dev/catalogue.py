"""The catalogue of faults: text files in ``dev/faults``, an entry for each bug.

An entry (``dev/README.md`` shows one) has an id with a sentence, some fields, and edits of files
of the package, as a diff without line numbers. Indentation is relative: the edited lines may move
into another block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "faults"
HEAD = re.compile(r"\[([a-z0-9-]+\.[a-z0-9-]+)\] (.+)")
FIELDS = ("source", "reddens", "where")


class Unreadable(Exception):
    """An entry is not written as it should be."""


@dataclass(frozen=True)
class Edit:
    """Lines of one file and those in their place; indentation is relative to each other."""

    file: str
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """One bug.

    Attributes:
        id: ``area.name``, as ``ema.before-step``.
        sentence: what is wrong.
        source: who made this bug, a paper, a public implementation; else it is a classic.
        reddens: ids of the claims that must not hold under it: at the least these.
        where: conditions on the recipe, beside that all of ``reddens`` are about it.
    """

    id: str
    sentence: str
    source: str
    reddens: tuple[str, ...]
    where: tuple[str, ...]
    edits: tuple[Edit, ...]


def all_faults(folder: Path = FOLDER) -> tuple[Fault, ...]:
    """In the order of their files, which is that of the alphabet."""
    faults = [fault for file in sorted(folder.glob("*.txt")) for fault in read(file)]
    first: dict[str, Fault] = {}
    for fault in faults:
        if fault is not first.setdefault(fault.id, fault):
            raise Unreadable(f"{fault.id}: is in the catalogue twice")
    return tuple(faults)


def read(file: Path) -> Iterator[Fault]:
    """The entries of a file; they are set apart by empty lines, ``#`` begins a comment."""
    entry, begun = list[str](), 0
    for number, line in enumerate([*file.read_text(encoding="utf-8").splitlines(), ""], 1):
        if line.startswith("#"):
            continue
        if line.strip():
            begun = begun if entry else number
            entry.append(line)
        elif entry:
            try:
                yield _parsed(entry)
            except Unreadable as problem:
                raise Unreadable(f"{file.name}:{begun}: {problem}") from None
            entry = []


def _parsed(lines: list[str]) -> Fault:
    head = HEAD.fullmatch(lines[0])
    if head is None:
        raise Unreadable(f"begins with {lines[0]!r} and not with '[area.name] A sentence.'")
    id, sentence = head.groups()
    rest = iter(lines[1:])
    line = next(rest, "")
    while line.startswith("  "):
        sentence, line = f"{sentence} {line.strip()}", next(rest, "")
    fields: dict[str, str] = {}
    while line.partition(":")[0] in FIELDS:
        name, _, value = line.partition(":")
        fields[name], line = value.strip(), next(rest, "")
    edits = tuple(_edits([line, *rest] if line else []))
    if not edits or not fields.get("reddens"):
        raise Unreadable(f"{id}: has no {'edit' if fields.get('reddens') else 'reddens: line'}")
    return Fault(
        id,
        sentence,
        fields.get("source", "classic"),
        tuple(fields["reddens"].split()),
        tuple(fields.get("where", "").split()),
        edits,
    )


def _edits(lines: list[str]) -> Iterator[Edit]:
    """``- `` goes, ``+ `` comes, two spaces stay; ``...`` begins another edit of the file."""
    file, block = "", list[str]()
    for line in [*lines, "..."]:
        if line[:2] in ("- ", "+ ", "  "):
            block.append(line)
            continue
        if block:
            yield _edit(file, block)
            block = []
        if line.endswith(".py"):
            file = line
        elif line != "...":
            raise Unreadable(f"{line!r}: is neither a field, a file, nor a line of an edit")


def _edit(file: str, block: list[str]) -> Edit:
    if not file:
        raise Unreadable(f"{block[0]!r}: stands before the name of a file")
    old = tuple(line[2:] for line in block if line[0] != "+")
    new = tuple(line[2:] for line in block if line[0] != "-")
    if not old or old == new:
        raise Unreadable(f"{file}: an edit names no line of it" if not old else f"{file}: no edit")
    return Edit(file, old, new)
