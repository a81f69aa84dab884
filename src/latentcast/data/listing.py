"""The listing of a source, made fit for tables: no odd name stops an ingest or goes unseen."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentcast.archives import Unpacked
from latentcast.errors import printable
from latentcast.source import RecordRef, Source, is_hidden
from latentcast.walk import walk


def list_records(
    source: Source[Any], folder: Path | None, archive: Unpacked | None
) -> list[RecordRef]:
    """All records of a source, and with its problem all that hides or is none.

    Args:
        source: what lists the records.
        folder: where they lie, if that is a folder.
        archive: what ``folder`` was unpacked from.
    """
    refs = list(source.refs())
    if archive is not None:
        refs += [RecordRef(name, archive.archive.name, problem=p) for name, p in archive.rejected]
    if folder is not None:
        refs += _unlisted(folder)
    return [_nameable(ref) for ref in refs]


def _unlisted(root: Path) -> Iterator[RecordRef]:
    """The folders whose files nobody can list: every reader takes them for empty."""
    for error in sorted(walk(root).errors, key=lambda error: str(error.filename)):
        name = Path(error.filename).relative_to(root).as_posix()
        if is_hidden(name):
            continue
        yield RecordRef(name, name, problem=f"is a folder that cannot be listed ({error.strerror})")


def _nameable(ref: RecordRef) -> RecordRef:
    problem = odd_text(ref.record_id) or odd_text(ref.file)
    if problem is None:
        return ref
    shown = [printable(name).replace("\n", "\\n") for name in (ref.record_id, ref.file)]
    return replace(ref, record_id=shown[0], file=shown[1], problem=f"its name {problem}; rename it")


def odd_text(text: str) -> str | None:
    """Why a table in UTF-8, one line a record, cannot hold a text; None where it can."""
    if text.isprintable():
        return None
    kinds = {unicodedata.category(character) for character in text}
    if "Cs" in kinds:
        return "is not UTF-8"
    return "has a line end or another control character" if "Cc" in kinds else None
