"""Verbs of what an encoder reads out: embed, similar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from latentcast.cli.arguments import recording_options
from latentcast.errors import LatentcastError


def embed(
    model: Positional[Path],
    sources: Positional[tuple[Path, ...]],
    out: Path,
    layer: str | None = None,
    level: int | None = None,
    pooling: str = "mean",
    batch_size: int = 64,
    device: str = "auto",
    sampling_rate: float | None = None,
    leads: str | None = None,
    unit: str | None = None,
    layout: str = "records,leads,samples",
    rename: str | None = None,
    resample: bool = False,
    missing_leads: Literal["refuse", "mean"] = "refuse",
    cluster: str | None = None,
) -> None:
    """Write a vector for each recording or image, with ids, patients and splits. The same command
    goes on after an interruption.

    Files that cannot be read are left out, and listed with their reasons in a table beside it.

    Args:
        model: a run, RUN@STEP, an exported file or folder, or a model that ships.
        sources: recordings or images, folders of them, tables of files, array files, stores.
        out: .parquet (a column of lists, "embedding"), .csv (columns e0000, e0001, ...) or .npz
            (ids, patients, splits, vectors) to write.
        layer: of those that latentcast inspect MODEL lists, or joined, all of them; by default the
            norm after the last block.
        level: of a hierarchy, instead of --layer: 1 is the first above the finest.
        pooling: mean, std, max, mean+std, mean+std+max or last.
        batch_size: windows or images a forward pass; the vectors do not depend on it.
        device: such as cuda:1 or cpu; auto is the GPU when there is one.
        sampling_rate: of arrays and of files that have none (tables of leads), Hz.
        leads: of arrays, comma-separated.
        unit: of arrays and of files that have none: V, mV, uV or nV.
        layout: axes of arrays.
        rename: leads by what the files call them, as ECG1=II,ECG2=V1.
        resample: bring recordings at another rate to the model's.
        missing_leads: with "mean", recordings that lack leads are read with these at their mean of
            the training data.
        cluster: of Ray, whose machines read and embed instead: auto, local, ray://HOST:10001. The
            sources are on a disk that all of them have.
    """
    from latentcast.artifacts.rejections import summary
    from latentcast.terminal import Terminal
    from latentcast.workflows.embed import embed as write

    if not sources:
        raise LatentcastError("embed: needs a source; name recordings, images, a folder or a store")
    done = write(
        model, sources, out, layer=layer, level=level, pooling=pooling, batch_size=batch_size,
        device=device, cluster=cluster,
        **recording_options(sampling_rate, leads, unit, layout, rename, resample, missing_leads),
    )  # fmt: skip
    console, n = Terminal(), len(done.rejected)
    left = f", {n} record{'s' * (n > 1)} left out" if n else ""
    console.print(f"{out}: {done.records:,} × {done.features:,} numbers{left}", soft_wrap=True)
    for line in summary(done.rejected):
        console.print(f"left out: {line}; all are in {done.rejected_file}", soft_wrap=True)


def similar(
    model: Positional[Path],
    queries: Positional[tuple[Path, ...]],
    in_: Annotated[Path, arg(name="in")],
    k: int = 10,
    out: Path | None = None,
    layer: str | None = None,
    pooling: str = "mean",
    device: str = "auto",
    sampling_rate: float | None = None,
    leads: str | None = None,
    unit: str | None = None,
    layout: str = "records,leads,samples",
    rename: str | None = None,
    resample: bool = False,
    missing_leads: Literal["refuse", "mean"] = "refuse",
) -> None:
    """Show the recordings or images whose embeddings are nearest to some, by cosine.

    A record with the very vector of a query is that recording itself and is left out.

    Args:
        model: a run, RUN@STEP, an exported file or folder, or a model that ships.
        queries: recordings or images, folders of them, or stores.
        in_: where to look: a table of latentcast embed, or a folder or store to embed now.
        k: how many for each query.
        out: .csv to write: query, rank, id, patient, split, cosine.
        layer: as of embed.
        pooling: as of embed.
        device: such as cuda:1 or cpu; auto is the GPU when there is one.
        sampling_rate: of arrays and of files that have none (tables of leads), Hz.
        leads: of arrays, comma-separated.
        unit: of arrays and of files that have none: V, mV, uV or nV.
        layout: axes of arrays.
        rename: leads by what the files call them, as ECG1=II,ECG2=V1.
        resample: bring recordings at another rate to the model's.
        missing_leads: as of embed.
    """
    from latentcast.artifacts.rejections import summary
    from latentcast.files import apart
    from latentcast.terminal import Terminal, plain_table
    from latentcast.workflows.similar import COLUMNS, check_place
    from latentcast.workflows.similar import similar as look

    if not queries:
        raise LatentcastError("similar: needs a query; name a recording, an image or a store")
    if out is not None:
        for path in (model, *queries, in_):
            apart(out, input=path)
        check_place(out)
    found = look(
        model, queries, in_, k=k, layer=layer, pooling=pooling, device=device,
        **recording_options(sampling_rate, leads, unit, layout, rename, resample, missing_leads),
    )  # fmt: skip
    console, table = Terminal(), plain_table(f"nearest of {found.searched:,} records in {in_}")
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in ("rank", "cosine") else "left")
    for query, neighbours in found.neighbours.items():
        for rank, (*names, cosine) in enumerate(neighbours, start=1):
            table.add_row("" if rank > 1 else query, str(rank), *names, f"{cosine:.4f}")
    console.print(table)
    if itself := sum(found.itself.values()):
        console.print(f"left out: {itself} with the very vector of a query", soft_wrap=True)
    for line in summary(found.rejected):
        console.print(f"not read: {line}", soft_wrap=True)
    if out is not None:
        found.write(out)
        console.print(f"similar: {out}", soft_wrap=True)
