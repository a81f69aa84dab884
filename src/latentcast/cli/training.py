"""Verbs of training: recipes, masks, train, bench."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from latentcast.errors import LatentcastError


def recipes(name: Positional[str | None] = None) -> None:
    """List the recipes, or print one as YAML.

    Args:
        name: name of a recipe.
    """
    from latentcast.recipes import RECIPES, recipe

    if name is not None:
        print(recipe(name).to_yaml(), end="")
        return
    for title, make in RECIPES.items():
        summary = (make.__doc__ or "").strip().splitlines()[0]
        print(f"{title:<18} {summary}")


def models(name: Positional[str | None] = None) -> None:
    """List the models whose weights ship with latentcast, or print the card of one.

    Args:
        name: name of a model, latentcast/NAME, as "Encoder.from_pretrained" takes it.
    """
    from latentcast.pretrained.models import model_file
    from latentcast.pretrained.models import models as shipped

    if name is not None:
        print(model_file(name, ".md").read_text(encoding="utf-8"), end="")
        return
    print("\n".join(shipped()) or "this version ships no weights")


def masks(
    recipe: Positional[str | None] = None,
    out: Path | None = None,
    config: Path | None = None,
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = (),
) -> None:
    """Show what the masks of a JEPA or masked recipe cover: how often a patch is context or target.

    Args:
        recipe: name of a recipe (see "latentcast recipes"), optional with --config.
        out: picture to write, .png, .svg or .pdf.
        config: YAML with all or some of the keys; takes precedence over the recipe.
        set: single keys, as objective.masks.targets=2; take precedence over everything else.
    """
    from latentcast import config as configuration
    from latentcast.recipes import recipe as named
    from latentcast.report.masks import BATCH, coverage, plot_coverage
    from latentcast.report.style import save_figure
    from latentcast.terminal import Terminal

    if recipe is not None:
        resolved = configuration.resolve(named(recipe), config, set)
    elif config is not None:
        resolved = configuration.resolve(configuration.load(config), None, set)
    else:
        raise LatentcastError("masks: needs a recipe or --config; see latentcast recipes")
    covered = coverage(resolved)
    console = Terminal()
    context = covered.context
    console.print(
        f"context: {context.sum():.1f} of {len(context)} patches; a patch is in it in "
        f"{context.min():.1%} to {context.max():.1%} of samples",
    )
    for level, share in enumerate(covered.targets):
        console.print(
            f"targets, level {level}: {share.mean():.0%} of {len(share)} cells; a cell is in them "
            f"in {share.min():.1%} to {share.max():.1%} of samples",
            highlight=False,
        )
    console.print(
        f"{covered.shared} samples with a context patch under a target; {covered.shapes} shapes; "
        f"{covered.milliseconds:.2f} ms for {BATCH} samples",
    )
    if out is not None:
        save_figure(plot_coverage(covered), out, dpi=150)
        console.print(f"plotted {out}")


def train(
    recipe: Positional[str | None] = None,
    *,
    data: Path | None = None,
    out: Path | None = None,
    config: Path | None = None,
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = (),
    steps: int | None = None,
    parallel: Literal["ddp", "fsdp"] | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    compile: bool = False,
    auto: float | None = None,
    batch_size: int | None = None,
    init: Path | None = None,
    seeds: int | None = None,
    keep: Literal["best", "all"] = "best",
) -> int:
    """Pretrain a recipe on a store; the same command goes on after an interruption.

    With more steps a finished run trains on: latentcast train RUN --steps 20000. On several
    devices: torchrun --nproc-per-node 8 -m latentcast train ...

    Args:
        recipe: name of a recipe (see "latentcast recipes"), optional with --config; or a run
            folder, which goes on.
        data: folder of the store; of a run folder its own by default.
        out: run folder.
        config: YAML with all or some of the keys; takes precedence over the recipe.
        set: single keys, as optimizer.lr=3e-4; take precedence over everything else.
        steps: optimizer steps, as train.steps=N.
        parallel: of several ranks: whole copies (ddp), or shards (fsdp).
        precision: of the matrix products.
        compile: compile each transformer block.
        auto: epochs; batch size, steps, warm-up, lr and EMA follow from them and from the size of
            the data, with the reasons printed.
        batch_size: with --auto, one that fits the machine.
        init: run folder or exported file whose weights training starts from, where names and
            shapes agree; a run that goes on does not load it again.
        seeds: so many seeds from train.seed on, each in a folder OUT/seed-N.
        keep: of several seeds: train the first tenth of each and go on with the best that does not
            go wrong there, or train all to the end.
    """
    from latentcast import config as configuration
    from latentcast.errors import printable
    from latentcast.recipes import RECIPES
    from latentcast.recipes import recipe as named
    from latentcast.runs.folder import run_of
    from latentcast.runs.new import data_of, keep_steps
    from latentcast.workflows.seeds import train_seeds
    from latentcast.workflows.train import Interrupted, Terminated
    from latentcast.workflows.train import train as run_training

    if recipe is None and config is None:
        raise LatentcastError("train: needs a recipe or --config; see latentcast recipes")
    if batch_size is not None and auto is None:
        raise LatentcastError(
            f"--batch-size {batch_size}: is for --auto; write --set train.batch_size={batch_size}"
        )
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes one speaks
    named_flags = {
        "train.steps": None if steps is None else str(steps),
        "machine.parallel": parallel,
        "train.precision": precision,
        "machine.compile": "true" if compile else None,
    }
    flags = [f"{key}={value}" for key, value in named_flags.items() if value is not None]
    flags += set
    if recipe is None:
        assert config is not None
        base, file = configuration.load(config), None
    elif run_of(Path(recipe)) != Path(recipe):
        raise LatentcastError(
            f"{recipe}: is a checkpoint; name its run to go on, or start another from its weights "
            f"with --init {recipe}"
        )
    elif recipe not in RECIPES and (Path(recipe) / "config.yaml").is_file():
        if seeds is not None:
            raise LatentcastError(
                f"--seeds: is of a new training, and {recipe} is one run; leave it out"
            )
        base, file = configuration.load(Path(recipe) / "config.yaml"), config
        if base.objective.kind == "supervised":
            raise LatentcastError(
                f"{recipe}: is a run of latentcast finetune, which also chooses its checkpoint; "
                "give that command again, with more --epochs to train on"
            )
        keep_steps(Path(recipe), flags)
        out = out or Path(recipe)
        if data is None and (store := data_of(Path(recipe))) is not None:
            data = store.path
    else:
        if recipe not in RECIPES:
            _refuse_path(recipe)
        base, file = named(recipe), config
    if data is None or out is None:
        raise LatentcastError("train: needs --data STORE and --out RUN, or the folder of a run")
    if auto is None:
        resolved = configuration.resolve(base, file, flags)
    else:
        from latentcast.config.advice import advised
        from latentcast.data.store import Store

        samples = len(Store.open(data).rows("train"))
        resolved, reasons = advised(base, file, flags, samples, auto, batch_size)
        if first:
            print("\n".join(reasons))
    try:
        if seeds is None:
            results = [run_training(resolved, data, out, init=init)]
        else:
            results = train_seeds(resolved, data, out, seeds, keep, init=init)
    # 143 is what a process ended by SIGTERM returns, so that a scheduler can tell.
    except Interrupted as interrupt:
        if first:
            step = interrupt.result.step
            run = interrupt.result.run
            print(printable(f"{run}: stopped at step {step}; the same command goes on from there"))
        return 143
    except Terminated:  # the training has printed the same sentence
        return 143
    if first:
        for result in results:
            print(printable(f"{result.run}: {result.step} step{'s' * (result.step != 1)} done"))
    return 0


def _refuse_path(recipe: str) -> None:
    """Raises LatentcastError: what stands in the place of a recipe is a path."""
    from latentcast.places import MODELS, kind_of, refuse_graph

    path = Path(recipe)
    refuse_graph(path)
    kind = kind_of(path)
    if kind in MODELS:
        raise LatentcastError(
            f"{recipe}: {kind}; to start from its weights name a recipe (latentcast recipes) and "
            f"give --init {recipe}"
        )
    if kind == "is a store":
        raise LatentcastError(
            f"{recipe}: {kind}; name a recipe (latentcast recipes) and give the store as --data "
            f"{recipe}"
        )
    if path.exists() or kind == "is an archive" or len(path.parts) > 1:
        raise LatentcastError(
            f"{recipe}: {kind or 'is no run'}; name a recipe (latentcast recipes) or the folder of "
            "a run"
        )


def bench(
    recipe: Positional[str],
    data: Path | None = None,
    what: tuple[str, ...] = ("step", "forward", "loader", "ingest", "ema", "monitors"),
    rounds: int = 7,
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = (),
    out: Path | None = None,
) -> None:
    """Measure a recipe on this machine, against its matrix-product peak; prints JSON.

    Args:
        recipe: name of a recipe (see "latentcast recipes").
        data: store to read from; a synthetic one by default.
        what: parts to measure: step, forward, loader, ingest, ema, monitors.
        rounds: of each part; medians and quartiles are printed.
        set: single keys, as train.precision=bf16 machine.compile=true.
        out: file to write the JSON to as well.
    """
    import json

    from latentcast import config as configuration
    from latentcast.files import apart, write_text
    from latentcast.recipes import recipe as named
    from latentcast.workflows.bench import bench as measure

    if out is not None:
        apart(out, store=data)
    resolved = configuration.resolve(named(recipe), None, set)
    report = json.dumps(measure(resolved, data, what, rounds), indent=1)
    print(report)  # first: what took minutes to measure is not lost to a full disk
    if out is not None:
        try:
            write_text(out, report + "\n")
        except OSError as problem:
            raise LatentcastError(
                f"{out}: cannot be written ({problem}); name another file"
            ) from None
