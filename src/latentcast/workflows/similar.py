"""The recordings or images most similar to some, by the cosine of their embeddings."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latentcast.artifacts.embeddings import SUFFIXES, Embeddings, Neighbour, is_table
from latentcast.artifacts.tables import columns_of
from latentcast.data.convert import Rejected
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError
from latentcast.files import write_text
from latentcast.signatures import checked
from latentcast.workflows.embed import embed

COLUMNS = ["query", "rank", "id", "patient", "split", "cosine"]


@dataclass(frozen=True)
class Similar:
    """What is nearest to each query.

    Attributes:
        neighbours: of each query, the nearest first.
        itself: of each query, records with its very vector, which are left out.
        searched: records among which they were looked for.
        rejected: queries and records that could not be read.
    """

    neighbours: dict[str, list[Neighbour]]
    itself: dict[str, int]
    searched: int
    rejected: tuple[Rejected, ...]

    def write(self, file: Path) -> None:
        """A CSV with a row for each neighbour. Raises LatentcastError: it cannot be written."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for query, found in self.neighbours.items():
            writer.writerows((query, rank, *one) for rank, one in enumerate(found, start=1))
        try:
            write_text(file, text.getvalue())
        except OSError as problem:
            raise LatentcastError(
                f"{file}: cannot be written ({problem}); name another file"
            ) from None


@checked
def similar(
    model: str | Path,
    queries: Sequence[str | Path] | str | Path,
    source: str | Path,
    *,
    k: int = 10,
    layer: str | None = None,
    pooling: str = "mean",
    device: str | torch.device = AUTO,
    **how: Any,
) -> Similar:
    """Look for the records of a source that a model embeds most like the queries.

    Args:
        model: what ``Encoder.from_pretrained`` reads.
        queries: files, folders or stores.
        source: likewise, or a table that :func:`~latentcast.workflows.embed.embed` wrote with this
            model, layer and pooling.
        k: how many for each query.
        how: ``sampling_rate``, ``leads``, ``unit``, ``layout``, ``rename``, ``resample``,
            ``missing_leads``, as of ``embed``.

    Raises:
        LatentcastError: what ``embed`` refuses, or a table of another model.
    """
    if k < 1:
        raise LatentcastError(f"k {k}: is no number of neighbours; give 1 or more")
    how |= {"layer": layer, "pooling": pooling, "device": device}
    targets, rejected = _embedded(model, queries, how)
    table, others = Path(source), tuple[Rejected, ...]()
    if table.is_file() and table.suffix in SUFFIXES and is_table(table):
        rows = Embeddings.read(table)
    else:
        rows, others = _embedded(model, source, how)
    _check_same(table, rows, targets)
    neighbours, itself = dict[str, list[Neighbour]](), dict[str, int]()
    for query, vector in zip(targets.ids.tolist(), targets.vectors, strict=True):
        neighbours[query], itself[query] = rows.nearest(vector, k)
    return Similar(neighbours, itself, len(rows.ids), rejected + others)


def check_place(file: Path) -> None:
    """Raises LatentcastError: the file has another suffix, or is something else."""
    if file.suffix != ".csv":
        raise LatentcastError(f"{file}: neighbours are written as .csv; name it {file.stem}.csv")
    if columns_of(file) not in ([], COLUMNS):
        raise LatentcastError(f"{file}: exists and holds no neighbours; name another file")


def _embedded(
    model: str | Path, sources: Any, how: Mapping[str, Any]
) -> tuple[Embeddings, tuple[Rejected, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        made = embed(model, sources, Path(folder) / "e.npz", **how)
        return Embeddings.read(made.file), made.rejected


def _check_same(table: Path, rows: Embeddings, queries: Embeddings) -> None:
    """Raises LatentcastError: the vectors of a table are not those of the model."""
    for name in ("sha256", "layer", "pooling"):
        ours, theirs = queries.model[name], rows.model.get(name)
        if theirs is not None and ours != theirs:
            what = "other weights" if name == "sha256" else f"{name} {theirs}, not {ours}"
            raise LatentcastError(
                f"{table}: was embedded with {what}; name the model, --layer and --pooling of its "
                "latentcast embed, or embed the records again"
            )
    if rows.vectors.shape[1] != queries.vectors.shape[1]:
        raise LatentcastError(
            f"{table}: has vectors of {rows.vectors.shape[1]} numbers, the model gives "
            f"{queries.vectors.shape[1]}; embed the records again"
        )
