"""The command line: one verb a step of the path from recordings to a report.

Everything heavy is imported inside the verb that needs it, so ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from latentcast.errors import LatentcastError


def ingest(
    source: Positional[Path],
    out: Path,
    fs: float | None = None,
    leads: str | None = None,
    unit: str | None = None,
    layout: str | None = None,
    metadata: Path | None = None,
    missing_leads: Literal["quarantine", "mask"] = "quarantine",
    scale: float = 0.001,
    shortest: float = 1.0,
    workers: int | None = None,
) -> None:
    """Read recordings into a store; a killed ingest goes on where it was.

    Args:
        source: a WFDB, Challenge or PTB-XL folder, or an .npy/.npz file.
        out: folder of the store.
        fs: sampling rate of the store in Hz; others are resampled to it. For arrays: their rate.
        leads: comma-separated lead names; for arrays in file order, else the leads of the store.
        unit: unit of an array: V, mV, uV or nV.
        layout: axes of an array: "records,leads,samples" or "records,samples,leads".
        metadata: CSV with a row for each record of an array.
        missing_leads: quarantine a record without a lead, or keep it with that lead masked.
        scale: millivolts of one stored count; 0.001 holds ±32 mV.
        shortest: seconds; a shorter recording goes to quarantine.
        workers: reader processes; all processors by default.
    """
    from rich.console import Console

    from latentcast.data.ingest import ingest as read

    done = read(
        source,
        out,
        fs=fs,
        leads=leads.split(",") if leads else None,
        unit=unit,
        layout=layout,
        metadata=metadata,
        missing_leads=missing_leads,
        scale=scale,
        shortest=shortest,
        workers=workers,
    )
    Console().print(
        f"{out}: {done.records} records, {done.quarantined} in quarantine, {done.seconds:.1f} s",
        highlight=False,
    )


def inspect(store: Positional[Path], plot: Path | None = None, record: str | None = None) -> None:
    """Check a store, print what it holds, plot a recording on clinical grid.

    Args:
        store: folder of the store.
        plot: picture to write (.png, .svg, .pdf).
        record: record id to plot; the first by default.
    """
    from rich.console import Console

    from latentcast.data.inspect import describe, print_description
    from latentcast.data.store import Store

    opened = Store.open(store)
    opened.verify()
    console = Console()
    print_description(describe(opened), console)
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
    pooling: str = "mean+std",
    weights: Literal["teacher", "student"] = "teacher",
) -> None:
    """Score a run's frozen encoder with a linear probe, next to its floors.

    Args:
        run: folder of the run.
        data: folder of a labelled store.
        task: all, diagnostic, subdiagnostic, superdiagnostic, form or rhythm.
        layer: a layer by name, or all to choose on the validation fold.
        pooling: mean, std, mean+std or last; cls is refused, with the reason.
        weights: the averaged weights (teacher) or the trained ones (student).
    """
    from rich.console import Console

    from latentcast.artifacts.encoder import Encoder
    from latentcast.data.store import Store
    from latentcast.evaluation.protocol import probe as score
    from latentcast.evaluation.random_convolutions import RandomConvolutions
    from latentcast.evaluation.tasks import task as named
    from latentcast.pretrain import data_of

    console = Console()
    encoder, store = Encoder.from_pretrained(run, weights), Store.open(data)
    store.verify()
    pretraining = data_of(run)
    if pretraining is None:
        console.print(f"{run}: the store it was trained on is not here; only leaks within {data}")
    with console.status("reading features and fitting the probes"):
        report = score(
            [encoder, Encoder.random(run), RandomConvolutions.from_store(store)],
            store,
            named(task),
            layer=layer,
            pooling=pooling,
            pretraining=pretraining,
            provenance={
                "run": str(run),
                "command": _command(),
                "training seed": encoder.config.train.seed,
                "weights": encoder.weights,
            },
        )
    report.render(console)
    report.write(run)


def report(run: Positional[Path], data: Path, task: str = "superdiagnostic") -> None:
    """Write RUN/report.html: curves, an ECG with the model's errors, the embedding map, the table.

    Args:
        run: folder of the run, after "latentcast probe".
        data: folder of the labelled store.
        task: of the probe to show.
    """
    from latentcast.artifacts.encoder import Encoder
    from latentcast.data.store import Store
    from latentcast.report.run import report_run

    print(f"report: {report_run(run, Encoder.from_pretrained(run), Store.open(data), task)}")


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
