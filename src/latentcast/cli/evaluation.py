"""Verbs of what a run is worth: runs, probe, evaluate, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def runs(
    folders: Positional[tuple[Path, ...]] = (Path(),),
    compare: bool = False,
    sort: Literal[
        "name", "recipe", "state", "step", "loss", "rank", "speed", "probe", "age", "size"
    ] = "name",
    json: bool = False,
) -> None:
    """List the runs below some folders, or compare them.

    Args:
        folders: where to look; the current folder by default.
        compare: configuration, last metrics and scores side by side.
        sort: column to sort by.
        json: print JSON.
    """
    from latentcast.runs import as_json, in_order, list_runs, print_comparison, print_runs
    from latentcast.runs import compare as side_by_side
    from latentcast.terminal import Terminal

    found = in_order(list_runs(folders), sort)
    comparison = side_by_side(found) if compare else None
    if json:
        print(as_json(found, comparison))
        return
    print_runs(found, console := Terminal())
    if comparison is not None:
        print_comparison(comparison, console)


def probe(
    run: Positional[Path],
    data: Path | None = None,
    task: str | None = None,
    layer: str = "all",
    pooling: str | None = None,
    head: tuple[str, ...] = (),
    encoder: Annotated[tuple[str, ...], arg(metavar="NAME=SPEC ...")] = (),
    weights: Literal["teacher", "student"] = "teacher",
    device: str = "auto",
    by: tuple[str, ...] = (),
    cache: Path | None = None,
    no_cache: bool = False,
    allow_leaks: bool = False,
) -> None:
    """Score a run's frozen encoder next to its floors: a linear probe, for images kNN as well.

    Args:
        run: folder of the run, RUN@STEP for an earlier checkpoint, or an exported file or folder.
        data: folder of a labelled store; by default the one the run was trained on.
        task: of PTB-XL superdiagnostic, all, diagnostic, subdiagnostic, form or rhythm; labels
            (every code of the store), classes, or metadata:NAME such as metadata:age; by default
            what suits the labels of the store.
        layer: a layer by name, joined for the features of all layers together, or all to choose
            among these on the validation split.
        pooling: mean, std, max, mean+std, mean+std+max or last (by default mean+std for
            recordings, mean for images; max finds single beats in a recording); cls is
            refused, with the reason.
        head: linear, kNN (default: linear, for images both), or attentive, a trained query over the
            frozen tokens, which others call linear evaluation.
        encoder: encoders of somebody else as further rows: module:function, an .onnx file, a run or
            exported file; of the first two what they read, as in
            theirs=net.onnx,sampling_rate=500,length=5000,leads=I+II,unit=mV.
        weights: the averaged weights (teacher) or the trained ones (student).
        device: such as cuda:1 or cpu; auto is the GPU when there is one.
        by: keys of the metadata, such as sex age device: a score for each group of test records.
        cache: folder in which features are kept for another probe or evaluation; by default one in
            the cache of the user, which takes at most 4 GiB.
        no_cache: read all features anew, and keep none.
        allow_leaks: score although test records or patients were trained on; it is written into
            the scores.
    """
    from latentcast.evaluation.tables import print_probe
    from latentcast.pretrained.models import scores_folder
    from latentcast.runs.folder import run_of
    from latentcast.runs.new import data_of
    from latentcast.terminal import Terminal
    from latentcast.workflows.probe import probe as score

    console = Terminal()
    encoders = _by_name(encoder)
    with console.status("reading features and fitting the probes"):
        report = score(
            run, data, task, layer, pooling, weights, _command(), head or None, device,
            encoders, by, False if no_cache else cache, allow_leaks,
        )  # fmt: skip
    if data_of(run) is None:
        console.print(f"{run}: the store it was trained on is not here; only leaks within {data}")
    if task is None:
        console.print(
            f"task {report.task}: suits the labels of {report.data['store']}; --task names another",
            soft_wrap=True,
        )  # fmt: skip
    print_probe(report, console)
    written = report.write(run_of(scores_folder(run)))
    console.print(f"probe: {written}", soft_wrap=True)


def evaluate(
    runs: Positional[tuple[Path, ...]],
    *,
    out: Path,
    data: Path | None = None,
    external: tuple[Path, ...] = (),
    task: tuple[str, ...] = (),
    head: tuple[str, ...] = ("kNN", "linear"),
    layer: str = "all",
    pooling: str | None = None,
    weights: Literal["teacher", "student"] = "teacher",
    labels_fraction: tuple[float, ...] = (),
    shots: tuple[int, ...] = (),
    draws: int = 3,
    resamples: int = 1000,
    seed: int = 0,
    seed_runs: bool = True,
    reference: str | None = None,
    encoder: Annotated[tuple[str, ...], arg(metavar="NAME=SPEC ...")] = (),
    concatenate: Annotated[tuple[str, ...], arg(metavar="'NAME + NAME' ...")] = (),
    by: tuple[str, ...] = (),
    cv: bool = False,
    drop_leads: tuple[int, ...] = (),
    cache: Path | None = None,
    allow_leaks: bool = False,
    device: str = "auto",
) -> None:
    """Compare runs: one table of sources, heads, tasks and stores, each row with its interval.

    Beside the runs stand each architecture at initialisation and random convolutions (of images the
    pixels). Writes OUT/evaluation.json, evaluation.md and evaluation.html.

    Args:
        runs: run folders, RUN@STEP, exported files or folders, or runs of latentcast finetune,
            which are scored by their own predictions.
        out: folder of the result.
        data: labelled store on which heads are fitted and tested; by default the one that the
            first run was trained on.
        external: stores from elsewhere: heads that were fitted on --data are scored there, on every
            record of the task.
        task: names as of probe; by default what suits the labels of the store.
        head: heads on frozen features: kNN, linear, attentive.
        layer: a layer by name, joined for all of them, or all to choose on the validation split.
        pooling: as of probe.
        weights: the averaged weights (teacher) or the trained ones (student).
        labels_fraction: shares of the labelled training patients, such as 0.01 0.1 1.
        shots: numbers of patients of each label.
        draws: of patients, for each amount of labels below all.
        resamples: of the test patients.
        seed: of the resamples.
        seed_runs: runs that differ in the training seed alone are one row, with mean and spread.
        reference: source that the others are compared with, paired by patient; by default random
            convolutions, of images the pixels.
        encoder: encoders of somebody else as further rows, as of probe.
        concatenate: features of two sources joined as a further row, as in
            'nepa-ecg-small + random convolutions'.
        by: keys of the metadata, such as sex age device: a score for each group of test records.
        cv: score the heads within the training records as well, by patients in four groups: what
            one chooses by while the test records are read once.
        drop_leads: numbers of random leads that the test records are read without, besides.
        cache: folder of features, which several evaluations may share; by default OUT/features.
        allow_leaks: score although test records or patients were trained on; it is written into
            the result.
        device: such as cuda:1 or cpu; auto is the GPU when there is one.
    """
    from latentcast.evaluation.evaluation_tables import print_evaluation
    from latentcast.terminal import Terminal
    from latentcast.workflows.evaluate import evaluate as score

    console = Terminal()
    with console.status("reading features and fitting the heads"):
        found = score(
            runs, data, task or None, external=external, heads=head, layer=layer, pooling=pooling,
            weights=weights, labels_fraction=labels_fraction, shots=shots, draws=draws,
            resamples=resamples, seed=seed, seed_runs=seed_runs, reference=reference, out=out,
            cache=cache, encoders=_by_name(encoder), concatenate=concatenate, by=by, cv=cv,
            drop_leads=drop_leads, allow_leaks=allow_leaks, device=device, command=_command(),
        )  # fmt: skip
    print_evaluation(found, console)
    for name in ("json", "md", "html"):
        console.print(f"evaluate: {out / f'evaluation.{name}'}", soft_wrap=True)


def export(
    run: Positional[Path],
    out: Path,
    layer: str | None = None,
    pooling: str = "mean",
    data: Path | None = None,
    int8: bool = False,
    format: Literal["safetensors", "onnx", "torch"] | None = None,
) -> None:
    """Write a run as one file of weights, as a folder with a model card, or as a graph that runs
    without torch.

    Args:
        run: folder of the run, RUN@STEP for an earlier checkpoint, an exported file or folder, or a
            model that ships.
        out: NAME.safetensors, all weights; NAME.onnx or NAME.pt2, a graph for onnxruntime or
            torch.export.load, preprocessing in it, which is compared with the library before it is
            written; or a folder for model.safetensors, config.json and README.md, whose scores,
            data and audit are those of the run. "Encoder.from_pretrained" reads file and folder.
        layer: of a graph of an encoder, what comes out; by default what embed reads.
        pooling: of a graph of an encoder, as of probe.
        data: store to compare a graph on; by default the one the run was trained on, else synthetic
            recordings or random images. Of public weights that do not hold how recordings were
            normalised, the store whose training split says so.
        int8: of an .onnx graph, weights and matrix products in 8 bits, which "evaluate --encoder
            small=NAME.onnx" compares with the run.
        format: has to agree with the ending of --out, which decides: .safetensors or a folder,
            .onnx, .pt2.
    """
    from functools import partial

    from latentcast.artifacts.export import export as written
    from latentcast.artifacts.graph.export import export_graph
    from latentcast.data.fit import fitted
    from latentcast.data.store import Store
    from latentcast.errors import LatentcastError, printable
    from latentcast.places import GRAPHS, PUBLIC, kind_of
    from latentcast.runs.new import data_of
    from latentcast.verification.card import export_folder

    ending = {"safetensors": ".safetensors", "onnx": ".onnx", "torch": ".pt2", None: ""}[format]
    if format and out.suffix != ending and (out.suffix or format != "safetensors"):
        raise LatentcastError(
            f"{out}: is not how --format {format} ends; name it {out.stem}{ending}"
        )
    if out.suffix in GRAPHS:
        own = data_of(run) if data is None and run.is_dir() else data
        made = export_graph(run, out, layer=layer, pooling=pooling, data=own, int8=int8)
        what = f"{made.output} of {made.weights}"
        line = f"{what}, differs by at most {made.difference:.1g} of the largest value"
        in_bits = f"; in 8 bits, cosine to float32 at least {made.cosine:.4f}" if int8 else ""
        print(printable(f"{out}: {line} on {made.compared}{in_bits}"))
        return
    public = kind_of(run) == PUBLIC
    if layer is not None or pooling != "mean" or (data is not None and not public) or int8:
        raise LatentcastError(
            f"{out}: --layer, --pooling, --data and --int8 are of graphs; name {out.stem}.onnx, or "
            "leave them out"
        )
    fit = None if data is None else partial(fitted, store=Store.open(data))
    step = written(run, out, fit) if out.suffix else export_folder(run, out, fit)
    print(printable(f"{out}: weights of step {step}"))


def report(
    run: Positional[Path],
    data: Path | None = None,
    task: str | None = None,
    device: str = "auto",
    figures: Path | None = None,
) -> None:
    """Write RUN/report.html: curves, configuration, alarms, scores, and pictures of a store.

    A page with pictures is never lost: one without them leaves it as RUN/report-earlier.html.

    Args:
        run: folder of the run, finished or not.
        data: folder of a labelled store that was probed: adds maps of embeddings and tokens, and of
            recordings an ECG with the model's errors; by default the one the run was trained on, or
            one that it was probed on.
        task: of the probe that makes the headline; by default what suits the labels of the store.
        device: that the encoder reads on, such as cuda:1 or cpu; auto is the GPU when there is one.
        figures: folder for every picture as PDF and SVG, with captions.md.
    """
    from latentcast.errors import printable
    from latentcast.report.run import report_run

    print(printable(f"report: {report_run(run, data, task, device, figures)}"))
    if figures is not None:
        print(printable(f"figures: {figures}"))


def _by_name(encoders: tuple[str, ...]) -> dict[str, str]:
    """Of NAME=SPEC each."""
    from latentcast.errors import LatentcastError

    found = dict(text.partition("=")[::2] for text in encoders)
    for name, spec in found.items():
        if not (name and spec):
            raise LatentcastError(
                f"--encoder {name or spec}: is no NAME=SPEC; write theirs=net.onnx"
            )
    return found


def _command() -> str:
    return " ".join(["latentcast", *sys.argv[1:]])
