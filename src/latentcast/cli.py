"""The command line: one verb a step of the path from recordings to a report.

Everything heavy is imported inside the verb that needs it, so ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from latentcast.errors import LatentcastError

if TYPE_CHECKING:
    from latentcast.data.image_ingest import ImageIngestResult
    from latentcast.data.ingest import IngestResult


def ingest(
    source: Positional[Path],
    out: Path,
    kind: Literal["auto", "ecg", "image"] = "auto",
    fs: float | None = None,
    leads: str | None = None,
    unit: str | None = None,
    layout: str | None = None,
    metadata: Path | None = None,
    missing_leads: Literal["quarantine", "mask"] | None = None,
    scale: float | None = None,
    shortest: float | None = None,
    size: int | None = None,
    encoding: Literal["pixels", "encoded"] | None = None,
    workers: int | None = None,
) -> None:
    """Read recordings or images into a store; a killed ingest goes on where it was.

    Args:
        source: recordings: a WFDB, Challenge or PTB-XL folder, or an .npy/.npz file. Images: a
            folder of them (CLASS/FILE, SPLIT/CLASS/FILE or flat), an .npy/.npz file of uint8, a
            Hugging Face dataset on disk, or parquet.
        out: folder of the store.
        kind: whether they are recordings or images, where the source does not say it.
        fs: sampling rate of the store in Hz; others are resampled to it. For arrays: their rate.
        leads: comma-separated lead names; for arrays in file order, else the leads of the store.
        unit: unit of an array: V, mV, uV or nV.
        layout: axes of an array: "records,leads,samples" or "records,samples,leads".
        metadata: CSV with a row for each record of an array.
        missing_leads: quarantine a record without a lead (the default), or keep it with that lead
            masked.
        scale: millivolts of one stored count; 0.001 by default, which holds ±32 mV.
        shortest: seconds, 1 by default; a shorter recording goes to quarantine.
        size: pixels a side of the images: the short side is brought to it, the middle taken.
        encoding: store pixels (the default), or the image files as they are, decoded when taken.
        workers: reader processes (images: threads); all processors by default.
    """
    from rich.console import Console

    from latentcast.data.opening import kind_of

    recordings_only: dict[str, Any] = {
        "fs": fs,
        "leads": leads.split(",") if leads else None,
        "unit": unit,
        "layout": layout,
        "metadata": metadata,
        "missing_leads": missing_leads,
        "scale": scale,
        "shortest": shortest,
    }
    images_only: dict[str, Any] = {"size": size, "encoding": encoding}
    flags = [{k: v for k, v in f.items() if v is not None} for f in (recordings_only, images_only)]
    for_recordings, for_images = flags
    if kind == "auto":
        kind = kind_of(source)
        # What an array holds is a guess from names and axes, until a flag says it.
        if source.suffix in (".npy", ".npz") and bool(for_recordings) != bool(for_images):
            kind = "ecg" if for_recordings else "image"
    for flag in for_recordings if kind == "image" else for_images:
        one, other = ("images", "recordings") if kind == "image" else ("recordings", "images")
        raise LatentcastError(
            f"--{flag.replace('_', '-')}: is for {other}, {source} is read as {one}; leave it out"
        )
    done: ImageIngestResult | IngestResult
    if kind == "image":
        from latentcast.data.image_ingest import ingest_images

        done = ingest_images(source, out, workers=workers, **for_images)
    else:
        from latentcast.data.ingest import ingest as read

        done = read(source, out, workers=workers, **for_recordings)
    Console().print(
        f"{out}: {done.records} records, {done.quarantined} in quarantine, {done.seconds:.1f} s",
        highlight=False,
    )


def inspect(store: Positional[Path], plot: Path | None = None, record: str | None = None) -> None:
    """Check a store, print what it holds, plot a recording on clinical grid.

    Args:
        store: folder of the store, of recordings or images.
        plot: picture to write (.png, .svg, .pdf).
        record: record id to plot; the first by default.
    """
    from rich.console import Console

    from latentcast.data import inspect as inspection
    from latentcast.data.opening import open_store
    from latentcast.data.store import Store

    opened = open_store(store)
    opened.verify()
    console = Console()
    if not isinstance(opened, Store):
        if plot is not None or record is not None:
            raise LatentcastError(
                f"{store}: holds images, --plot and --record are for recordings; leave them out"
            )
        inspection.print_image_description(inspection.describe_images(opened), console)
        return
    inspection.print_description(inspection.describe(opened), console)
    if plot is not None:
        from latentcast.report.ecg import plot_recording

        row = 0 if record is None else opened.row_of(record)
        figure = plot_recording(opened.recording(row))
        try:
            figure.savefig(plot)
        except (OSError, ValueError) as problem:
            raise LatentcastError(
                f"{plot}: cannot be written ({problem}); name a .png, .svg or .pdf"
            ) from None
        console.print(f"plotted {plot}", highlight=False)


def recipes(name: Positional[str | None] = None) -> None:
    """List the recipes, or print one as YAML.

    Args:
        name: of a recipe.
    """
    from latentcast.recipes import RECIPES, recipe

    if name is not None:
        print(recipe(name).to_yaml(), end="")
        return
    for known, make in RECIPES.items():
        summary = (make.__doc__ or "").strip().splitlines()[0]
        print(f"{known:<18} {summary}")


def masks(
    recipe: Positional[str],
    out: Path | None = None,
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = (),
) -> None:
    """Show what the masks of a JEPA recipe cover: how often each patch is context and target.

    Args:
        recipe: name of a recipe (see "latentcast recipes").
        out: picture to write, .png, .svg or .pdf.
        set: single keys, as objective.masks.targets=2; come before the recipe.
    """
    from rich.console import Console

    from latentcast import config as configuration
    from latentcast.recipes import recipe as named
    from latentcast.report.masks import BATCH, coverage, plot_coverage

    found = coverage(configuration.resolve(named(recipe), None, set))
    console = Console()
    context = found.context
    console.print(
        f"context: {context.sum():.1f} of {len(context)} patches; a patch is in it in "
        f"{context.min():.1%} to {context.max():.1%} of samples",
        highlight=False,
    )
    for level, share in enumerate(found.targets):
        console.print(
            f"targets, level {level}: {share.mean():.0%} of {len(share)} cells; a cell is in them "
            f"in {share.min():.1%} to {share.max():.1%} of samples",
            highlight=False,
        )
    console.print(
        f"{found.shared} samples with a context patch under a target; {found.shapes} shapes; "
        f"{found.milliseconds:.2f} ms for {BATCH} samples",
        highlight=False,
    )
    if out is not None:
        try:
            plot_coverage(found).savefig(out, dpi=150)
        except (OSError, ValueError) as problem:
            raise LatentcastError(
                f"{out}: cannot be written ({problem}); name a .png, .svg or .pdf"
            ) from None
        console.print(f"plotted {out}", highlight=False)


def train(
    recipe: Positional[str | None] = None,
    *,
    data: Path,
    out: Path,
    config: Path | None = None,
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = (),
) -> int:
    """Pretrain a recipe on a store; the same command goes on after an interruption.

    Args:
        recipe: name of a recipe (see "latentcast recipes"); optional with --config.
        data: folder of the store.
        out: run folder.
        config: YAML with all or some of the keys; comes before the recipe.
        set: single keys, as optimizer.lr=3e-4; come before everything.
    """
    from latentcast import config as configuration
    from latentcast.pretrain import pretrain
    from latentcast.recipes import recipe as named

    if recipe is None:
        if config is None:
            raise LatentcastError("train: needs a recipe or --config; see latentcast recipes")
        base = configuration.load(config)
        config = None
    else:
        base = named(recipe)
    resolved = configuration.resolve(base, config, set)
    state = pretrain(resolved, data, out)
    if state.step < resolved.train.steps:
        print(f"{out}: stopped at step {state.step}; the same command goes on from there")
        return 143  # what a process ended by SIGTERM returns, so that a scheduler can tell
    print(f"{out}: {state.step} steps done")
    return 0


def probe(
    run: Positional[Path],
    data: Path,
    task: str = "superdiagnostic",
    layer: str = "all",
    pooling: str | None = None,
    weights: Literal["teacher", "student"] = "teacher",
) -> None:
    """Score a run's frozen encoder next to its floors: a linear probe, for images kNN as well.

    Args:
        run: folder of the run.
        data: folder of a labelled store.
        task: of recordings: all, diagnostic, subdiagnostic, superdiagnostic, form or rhythm.
        layer: a layer by name, or all to choose on the validation split.
        pooling: mean, std, mean+std or last (mean+std for recordings, mean for images); cls is
            refused, with the reason.
        weights: the averaged weights (teacher) or the trained ones (student).
    """
    from rich.console import Console

    from latentcast.pretrain import data_of
    from latentcast.probing import probe_run

    console = Console()
    with console.status("reading features and fitting the probes"):
        report = probe_run(
            run, data, task=task, layer=layer, pooling=pooling, weights=weights, command=_command()
        )
    if data_of(run) is None:
        console.print(f"{run}: the store it was trained on is not here; only leaks within {data}")
    report.render(console)
    report.write(run)


def report(run: Positional[Path], data: Path, task: str = "superdiagnostic") -> None:
    """Write RUN/report.html: curves, an ECG with the model's errors, the embedding map, the table.

    Args:
        run: folder of the run, after "latentcast probe".
        data: folder of the labelled store.
        task: of the probe to show.
    """
    from latentcast.artifacts.ecg import EcgEncoder
    from latentcast.data.store import Store
    from latentcast.report.run import report_run

    print(f"report: {report_run(run, EcgEncoder.from_pretrained(run), Store.open(data), task)}")


def verify(parity: tuple[Path, ...]) -> int:
    """Compare this library with numbers of the public reference implementations.

    Args:
        parity: parity files (safetensors).
    """
    from rich.console import Console

    from latentcast.verification.parity import compare
    from latentcast.verification.table import print_agreements

    if not parity:
        raise LatentcastError("verify: has nothing to compare; give files with --parity")
    console, failed = Console(), 0
    for file in parity:
        agreements = compare(file)
        print_agreements(file, agreements, console)
        failed += any(not agreement.holds for agreement in agreements)
    return 1 if failed else 0


def main() -> None:
    """Entry point of the ``latentcast`` command."""
    verbs: dict[str, Callable[..., int | None]] = {
        "ingest": ingest,
        "inspect": inspect,
        "recipes": recipes,
        "masks": masks,
        "train": train,
        "probe": probe,
        "report": report,
        "verify": verify,
    }
    try:
        status: int | None = tyro.extras.subcommand_cli_from_dict(
            verbs,
            prog="latentcast",
            description="Self-supervised pretraining by prediction in latent space.",
        )
    except LatentcastError as problem:
        print(f"latentcast: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status or 0)


def _command() -> str:
    return " ".join(["latentcast", *sys.argv[1:]])


if __name__ == "__main__":
    main()
