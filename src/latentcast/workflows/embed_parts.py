"""The finished parts of a table of embeddings, which the same call goes on behind."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentcast.artifacts.embeddings import ABOUT, Part, write_embeddings
from latentcast.artifacts.tables import rejected_beside
from latentcast.data.convert import Rejected
from latentcast.data.writer import write_rejected
from latentcast.errors import LatentcastError
from latentcast.files import check_digest, digested, read_object, replacing, write_text

PLAN = "plan.json"


@dataclass(frozen=True)
class Table:
    """What was written.

    Attributes:
        file: the table.
        records, features: its size.
        rejected: the records that could not be read, which are in ``rejected_file``.
    """

    file: Path
    records: int
    features: int
    rejected: tuple[Rejected, ...]
    rejected_file: Path


class Parts:
    """The finished parts of a table, each a file of its own that is whole or absent."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Make the folder, or go on in the one of the same call.

        Raises:
            LatentcastError: it is of another call, or cannot be written.
        """
        file, record = self.folder / PLAN, digested({**plan, "parts": self.count})
        try:
            if file.is_file():
                before = read_object(file)
                check_digest(before)
                changed = [name for name in record if before.get(name) != record[name]]
                if changed:
                    raise LatentcastError(
                        f"{self.folder}: holds parts of another embedding (another {changed[0]}); "
                        "give that command again, or name another file, or remove the folder"
                    )
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(record, indent=1))
        except (OSError, ValueError) as problem:
            raise LatentcastError(
                f"{self.folder}: cannot be used ({problem}); remove it, or name another file"
            ) from None

    def has(self, number: int) -> bool:
        return self._file(number).is_file()

    def done(self) -> int:
        """Records, also those that could not be read, of the parts that are there."""
        return sum(len(rest["ids"]) + len(rest["rejected"]) for rest in self._rests())

    def write(self, number: int, part: Part, rejected: Sequence[Rejected]) -> None:
        """Raises LatentcastError: the disk is full."""
        content = {
            "ids": part.ids, "patients": part.patients, "splits": part.splits,
            "about": part.about, "rejected": [asdict(record) for record in rejected],
            "features": part.vectors.shape[1],
        }  # fmt: skip
        try:
            with replacing(self._file(number)) as draft, draft.open("wb") as stream:
                np.savez(stream, vectors=part.vectors, rest=json.dumps(content, default=str))
        except OSError as problem:
            raise LatentcastError(
                f"{self.folder}: cannot be written ({problem}); free space and give the same "
                "command, it goes on"
            ) from None

    def join(self, file: Path, model: Mapping[str, Any]) -> Table:
        """Write the table and the list of what was left out, and remove the parts."""
        rests = [*self._rests()]
        rejected = tuple(Rejected(**record) for rest in rests for record in rest["rejected"])
        read = [rest for rest in rests if rest["ids"]]
        if not read:
            shutil.rmtree(self.folder)
            first = rejected[0] if rejected else Rejected("embed", "", "there is no record")
            raise LatentcastError(
                f"{first.record_id}: {first.reason} ({len(rejected)} records, of which none can be "
                "read); name others"
            )
        features = read[0]["features"]
        recorded = {name for rest in read for about in rest["about"] for name in about}
        about = [name for name in ABOUT if name in recorded]
        write_embeddings(self._parts, about, features, model, file)
        beside = rejected_beside(file)
        if rejected or beside.exists():
            write_rejected(beside, map(asdict, rejected))
        shutil.rmtree(self.folder)
        return Table(file, sum(len(rest["ids"]) for rest in read), features, rejected, beside)

    def _file(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npz"

    def _rests(self) -> Iterator[dict[str, Any]]:
        """All but the vectors, which may be larger than the memory."""
        for rest, _ in self._read(vectors=False):
            yield rest

    def _parts(self) -> Iterator[Part]:
        """Those with a record."""
        for rest, vectors in self._read(vectors=True):
            if rest["ids"]:
                columns = rest["ids"], rest["patients"], rest["splits"], rest["about"]
                yield Part(*columns, vectors)

    def _read(self, vectors: bool) -> Iterator[tuple[dict[str, Any], Any]]:
        for file in filter(Path.is_file, map(self._file, range(self.count))):
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    rest, found = json.loads(str(arrays["rest"])), vectors and arrays["vectors"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
                raise LatentcastError(
                    f"{file}: cannot be read ({problem}); remove it and give the same command"
                ) from None
            yield rest, found
