"""Files, folders, lists of files and stores as a table of embeddings; a killed call goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentcast.artifacts.embeddings import Part, check_table
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.recordings import ArrayAxes, MissingLeads
from latentcast.artifacts.rejections import Embedded, NoneRead
from latentcast.artifacts.weights import fingerprint
from latentcast.data.cluster import Cluster
from latentcast.data.convert import Rejected
from latentcast.data.progress import Progress
from latentcast.data.readers import in_order
from latentcast.engine.device import AUTO, device_of
from latentcast.errors import LatentcastError, nearest
from latentcast.files import apart
from latentcast.locks import Locked, locked
from latentcast.nn.pooling import BATCH
from latentcast.places import is_store
from latentcast.signatures import checked
from latentcast.workflows.embed_parts import Parts, Table
from latentcast.workflows.embed_sources import (
    RecordsOfFiles,
    RowsOfStore,
    chunks_of,
    columns_of,
    contents_of,
)

Chunk = RowsOfStore | RecordsOfFiles


@checked
def embed(
    model: str | Path,
    sources: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    layer: str | None = None,
    level: int | None = None,
    pooling: str = "mean",
    batch_size: int = BATCH,
    device: str | torch.device = AUTO,
    sampling_rate: float | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    layout: str = "records,leads,samples",
    rename: Mapping[str, str] | None = None,
    resample: bool = False,
    missing_leads: MissingLeads = "refuse",
    cluster: str | None = None,
    quiet: bool = False,
) -> Table:
    """Write a vector for each record: what :meth:`Encoder.embed` gives, with ids, patients, splits.

    Records are read and embedded 256 at a time, and each such part is kept beside ``out`` until
    the table is complete. The same call after a kill goes on behind the parts that are there.

    Args:
        model: what ``Encoder.from_pretrained`` reads.
        sources: files, folders, tables of files, or stores.
        out: ``.parquet``, ``.csv`` or ``.npz``.
        layer: of :attr:`Encoder.layer_names`, or ``joined``.
        level: of a hierarchy, instead of ``layer``: 1 is the first one above the finest.
        cluster: of Ray, whose machines read and embed instead; see
            :class:`~latentcast.data.cluster.Cluster` for its addresses. Sources lie on a disk that
            all of them have under one name. With ``device`` cuda each call takes a GPU.
        quiet: no progress.
        pooling, batch_size, device, sampling_rate, leads, unit, layout, rename, resample,
            missing_leads: as of :meth:`Encoder.embed`.

    Raises:
        LatentcastError: no such model, layer or source; no record can be read; ``out`` is a file of
            something else, or beside it are parts of another call.
    """
    several = [sources] if isinstance(sources, str | Path) else list(sources)
    if not several:
        raise LatentcastError("embed: needs a source; name recordings, images, a folder or a store")
    file = Path(out)
    for path in (model, *several):
        apart(file, input=path)
    check_table(file)
    # Of a cluster, the machines that embed need the device, and this one does not.
    encoder = Encoder.from_pretrained(model, device=device if cluster is None else "cpu")
    layer = _layer(encoder, layer, level)
    axes = ArrayAxes(sampling_rate, leads, unit, layout, rename)
    how: dict[str, Any] = {
        "layer": layer, "pooling": pooling, "resample": resample, "missing_leads": missing_leads,
    }  # fmt: skip
    weights = fingerprint(encoder.config, encoder.network)
    made_by = {"weights": encoder.weights, "sha256": weights, "layer": layer, "pooling": pooling}
    chunks = [*chunks_of(encoder, several, axes, resample)]
    listing = hashlib.sha256("\0".join(chunk.digest for chunk in chunks).encode())
    for source in map(Path, several):
        if not is_store(source):  # whose checksums are in the digests of its chunks
            listing.update(contents_of(source, file).encode())
    parts = Parts(file.with_name(f"{file.name}.parts"), len(chunks))
    plan = {**made_by, **how, "axes": repr(axes), "records": listing.hexdigest()}
    total = sum(chunk.size for chunk in chunks)
    embedder = _Embedder(encoder, batch_size, axes, how, None if cluster is None else device)
    shared = tuple(Path(source) for source in several)
    workers = 1 if cluster is None else Cluster(cluster, shared, int("cuda" in str(device)))
    with _alone(file):
        parts.begin(plan)
        rest = [number for number in range(len(chunks)) if not parts.has(number)]
        results = in_order(embedder, [chunks[n] for n in rest], workers, 1, "embed")
        with Progress("embed", total, parts.done(), quiet=quiet) as progress, closing(results):
            for number, (part, rejected) in zip(rest, results, strict=True):
                parts.write(number, part, rejected)
                for _ in part.ids:
                    progress.advance(bad=False)
                for _ in rejected:
                    progress.advance(bad=True)
        return parts.join(file, made_by)


@dataclass
class _Embedder:
    """Chunks as parts of the table, here or on another machine."""

    encoder: Encoder
    batch_size: int
    axes: ArrayAxes
    how: Mapping[str, Any]
    device: str | torch.device | None
    """Of another machine."""

    def __call__(self, chunks: Sequence[Chunk]) -> list[tuple[Part, tuple[Rejected, ...]]]:
        if self.device is not None:
            self.encoder.to(device_of(self.device))
            self.device = None
        return [self._part(chunk) for chunk in chunks]

    def _part(self, chunk: Chunk) -> tuple[Part, tuple[Rejected, ...]]:
        try:
            found = self.encoder.embed(
                chunk.source, rows=chunk.rows, errors="skip", batch_size=self.batch_size,
                **vars(self.axes), **self.how,
            )  # fmt: skip
        except NoneRead as none:
            found = Embedded((), np.zeros((0, 0), np.float32), none.rejected)
        return Part(found.ids, *columns_of(chunk, found.ids), found.vectors), found.rejected


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Raises LatentcastError: another call writes the same table, or it cannot be written there."""
    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(file.with_name(f".{file.name}.lock"), remove=True))
        except Locked:
            raise LatentcastError(
                f"{file}: is being written by another latentcast embed; wait for it, or name "
                "another file"
            ) from None
        except OSError as problem:
            raise LatentcastError(
                f"{file}: cannot be written ({problem}); name another file"
            ) from None
        yield


def _layer(encoder: Encoder, layer: str | None, level: int | None) -> str:
    """Raises LatentcastError: both are given, or the encoder has no such level."""
    if level is None:
        return encoder.layer if layer is None else layer
    if layer is not None:
        raise LatentcastError(f"--level {level}: is a layer, and so is --layer; leave one out")
    if f"level {level}" not in encoder.layer_names:
        near = nearest(f"level {level}", encoder.layer_names)
        raise LatentcastError(f"--level {level}: does not exist; {near} (--layer)")
    return f"level {level}"
