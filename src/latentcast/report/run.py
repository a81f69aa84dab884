"""From a run folder to its report: collects what the page shows, and that it belongs together."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.encoder import Encoder
from latentcast.config import Config, load
from latentcast.config.resolve import leaves
from latentcast.data.store import Store
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError, printable
from latentcast.evaluation.features import extract, readable
from latentcast.evaluation.results import ProbeReport, file_name, probe_files
from latentcast.evaluation.tasks import Targets, default_task
from latentcast.evaluation.tasks import task as task_of
from latentcast.files import read_object
from latentcast.places import refuse_model, refuse_other_than_run
from latentcast.recipes import RECIPES
from latentcast.report.embedding import LEAST
from latentcast.report.page import PAGE, Change, write_report
from latentcast.report.pictures import FeatureMap, Surprise, shows_pictures
from latentcast.runs.comparison import shown
from latentcast.runs.folder import RunFolder, run_of
from latentcast.runs.new import data_of

BUNDLED_LICENCE = (
    "the ECGs bundled with latentcast: a subset of PTB-XL 1.0.3 (Wagner et al., PhysioNet, "
    "doi 10.13026/kfzx-aw45), CC BY 4.0, resampled to 100 Hz"
)


HEADLINES = ("superdiagnostic", "labels", "classes")
"""Without a task, the first of these that was probed makes the headline."""


def report_run(
    run: str | Path, data: str | Path | None = None, task: str | None = None, device: str = AUTO
) -> Path:
    """Write ``RUN/report.html`` from whatever the run has: its log, its settings, its probes.

    Args:
        run: folder of the run, finished or not; or one of its checkpoints, for the pictures.
        data: folder of a labelled store: adds a map of the features (where its test fold has five
            records or more) and, of recordings, an ECG with the model's errors; by default the one
            the run was trained on, where it is still there and was probed.
        task: the probe that makes the headline, and that these pictures go with; by default what
            suits the store.
        device: that the encoder reads on; by default the GPU when there is one, else the CPU.

    Raises:
        LatentcastError: a file of the run is missing or damaged, the store holds the other kind of
            data or belongs to another probe, the page would replace one with pictures by one
            without, a plotting package is missing, the page cannot be written.
    """
    path, run = Path(run), run_of(Path(run))
    refuse_model(
        run, "without the curves of its run; latentcast inspect {0} prints what it holds, "
        "latentcast evaluate {0} --data STORE --out OUT writes a page of its scores",
    )  # fmt: skip
    refuse_other_than_run(run)
    config = load(run / "config.yaml")
    if data is None:
        own, remarks = None, list[str]()
        try:
            own = _own_pictures(path, task, device)
        except LatentcastError as problem:
            remarks.append(f"without pictures of the store it was trained on: {problem}")
        if own is None:
            return _write(run, config, HEADLINES if task is None else (task,), remarks=remarks)
        return report_pictures(run, *own)
    store = Store.open(data)
    if store.modality != config.input.kind:
        content = "recordings" if store.modality == "ecg" else "images"
        raise LatentcastError(
            f"{data}: holds {content}, {run} was trained on {config.input.kind} data; "
            "give the report a store of its own kind, or none"
        )
    if task is None and default_task(store) is None:
        remark = f"without scores and pictures of {data}: it holds no labels"
        print(f"report: {printable(remark)}", file=sys.stderr)
        return _write(run, config, HEADLINES, remarks=[remark])
    return report_pictures(run, Encoder.from_pretrained(path, device=device), store, task)


def report_pictures(run: Path, encoder: Encoder, store: Store, task: str | None) -> Path:
    """The report with pictures of ``store``, next to the run's probe of ``task``.

    The table comes from the probe's file and the pictures from ``encoder`` and ``store``, so the
    three must be of one checkpoint and of the same samples.

    Raises:
        LatentcastError: the task was not probed yet, or the probe was of other weights or other
            data, beside the reasons of :func:`report_run`.
    """
    chosen = task_of(task, store)
    probe = _probe(run, chosen.name, encoder, store)
    tested = probe.readings()[0]
    targets = chosen.targets(store)
    rows = store.rows("test")
    rows = rows[targets.mask[rows]]
    layers = extract(encoder, store, rows, pooling=tested.pooling, windows=probe.windows)
    read = readable(layers)
    rows, features = rows[read], layers[tested.layer][read]
    provenance = store.manifest.provenance
    patients = f" of {store.patients:,} patients" if store.modality == "ecg" else ""
    about = {
        "pictures": f"{store.path}: {len(store):,} {probe.noun}s{patients}",
        "source": provenance.get("source"),
    }
    if provenance.get("kind") == "packed":
        about["licence of the data"] = BUNDLED_LICENCE
    labels, classes = _colours(targets, rows)
    predicted = store.modality == "ecg" and encoder.predicted_from
    where = f"layer {tested.layer}, {tested.pooling}"
    few = f"without a map of the features: {len(rows)} test {probe.noun}s are too few"
    drawn = len(rows) >= LEAST
    if not drawn:
        print(f"report: {few}", file=sys.stderr)
    return _write(
        run,
        encoder.config,
        (chosen.name,),
        headline=probe,
        about=about,
        surprise=_surprise(encoder, store, rows) if predicted else None,
        features=FeatureMap(features, labels, classes, where, probe.noun) if drawn else None,
        remarks=() if drawn else (few,),
    )


def _own_pictures(path: Path, task: str | None, device: str) -> tuple[Encoder, Store, str] | None:
    """What the pictures of the run's own store are of; None where it is gone or was not probed.

    Args:
        path: of the run, or of one of its checkpoints.
    """
    run, store = run_of(path), data_of(path)
    reports, _ = _probes(RunFolder.read(run))
    if store is None:
        return None
    of_store = [
        report
        for report in reports.values()
        if report.data["shards"] == store.checksums and task in (None, report.task)
    ]
    if not of_store:
        return None
    encoder = Encoder.from_pretrained(path, device=device)
    tasks = {report.task for report in of_store if report.weights == encoder.weights}
    first = next((name for name in (*HEADLINES, *sorted(tasks)) if name in tasks), None)
    return None if first is None else (encoder, store, first)


def _colours(
    targets: Targets, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
    """Membership (rows, classes) in what a map is coloured by; of numbers in their quarters."""
    values = targets.values[rows]
    if targets.kind == "multi-label":
        return values, targets.names
    if targets.kind == "multi-class":
        return values[:, None] == np.arange(len(targets.names)), targets.names
    edges = np.unique(np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    ends = list(pairwise(edges)) or [(edges[0], edges[0])]
    place = np.searchsorted(edges[1:-1], values, side="right")
    names = tuple(f"{targets.names[0]} {low:.4g} to {high:.4g}" for low, high in ends)
    return place[:, None] == np.arange(len(names)), names


def _surprise(encoder: Encoder, store: Store, rows: npt.NDArray[np.int64]) -> Surprise:
    """The record whose mean prediction error is the median: neither the best nor the worst."""
    complete = rows[store.lengths[rows] >= encoder.length][:256]
    candidates = complete if len(complete) else rows[:256]
    errors = encoder.patch_errors(store.take(candidates, length=encoder.length))
    if (rows_of_leads := encoder.config.input.lead_rows) is not None:
        # A span is predicted in all leads at once: the picture has the mean over those recorded.
        apart = np.ma.masked_invalid(errors.reshape(len(errors), rows_of_leads, -1))
        errors = apart.mean(axis=1).filled(np.nan).astype(np.float32)
    predicted = np.isfinite(errors)
    total, count = np.where(predicted, errors, 0).sum(axis=1), predicted.sum(axis=1)
    # A record without a single predicted patch counts as the worst.
    means = np.divide(total, count, out=np.full(len(total), np.inf), where=count > 0)
    typical = int(np.argsort(means)[len(means) // 2])
    return Surprise(
        store.recording(int(candidates[typical])),
        errors[typical],
        encoder.patch_seconds,
        encoder.predicted_from or "",
    )


def _write(
    run: Path,
    config: Config,
    tasks: Sequence[str],
    headline: ProbeReport | None = None,
    about: Mapping[str, Any] | None = None,
    surprise: Surprise | None = None,
    features: FeatureMap | None = None,
    remarks: Sequence[str] = (),
) -> Path:
    """The page of what is in the folder; ``headline``, or a probe of the first of ``tasks`` that
    has one, is above the others."""
    page = run / PAGE
    if surprise is None and features is None and shows_pictures(page):
        raise LatentcastError(
            f"{page}: shows pictures of a store, and the new page would have none; name a store "
            "that was probed (--data), or move the page away"
        )
    folder = RunFolder.read(run)
    environment = _read(
        run / "environment.json", "restore it from a copy, or put {} there to report without it"
    )
    environment = {k: v for k, v in environment.items() if k not in ("format", "digest")}
    command = environment.pop("command", None)
    newest = max(folder.checkpoints, default=None)
    reports, unreadable = _probes(folder)

    def place(name: str) -> tuple[Any, ...]:
        report = reports[name]
        first = headline is not None and report.question == headline.question
        order = tasks.index(report.task) if report.task in tasks else len(tasks)
        return not first, order, report.step != newest, report.variant != "", name

    probes = [reports[name] for name in sorted(reports, key=place)]
    remarks = [
        *remarks,
        *(sentence for sentence in folder.problems if not sentence.startswith("probe-")),
        *unreadable,
        *(
            f"{name} is about {report.weights}, the newest checkpoint is of step {newest}"
            for name, report in reports.items()
            if newest is not None and report.step != newest
        ),
        *(sentence for sentence in folder.problems if sentence.startswith("probe-")),
    ]
    name = run.resolve().name
    commands = [text for probe in probes if (text := probe.provenance.get("command"))]
    return write_report(
        run,
        title=name if config.recipe in name else f"{config.recipe}, {name}",
        steps=config.train.steps,
        metrics=folder.rows,
        probes=probes,
        changes=_changes(config),
        what_was_run={
            "training": command,
            "probe": commands or None,
            "training seed": config.train.seed,
            **(about or {}),
        },
        environment=environment,
        config_yaml=config.to_yaml(),
        surprise=surprise,
        features=features,
        remarks=remarks,
    )


def _changes(config: Config) -> list[Change] | None:
    """What differs from the recipe of that name, settings of the machine last."""
    if config.recipe not in RECIPES:
        return None
    trees = [leaves(c.model_dump(mode="json")) for c in (config, RECIPES[config.recipe]())]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    differing = [key for key in keys if trees[0].get(key) != trees[1].get(key)]
    differing.sort(key=lambda key: key.startswith("machine."))
    return [(key, shown(trees[0].get(key)), shown(trees[1].get(key))) for key in differing]


def _probes(folder: RunFolder) -> tuple[dict[str, ProbeReport], list[str]]:
    """By the name of its file; and a sentence for each that this version cannot read."""
    reports, unreadable = {}, []
    for name, plain in folder.probes.items():
        try:
            reports[name] = ProbeReport.from_json(plain)
        except LatentcastError as problem:
            unreadable.append(f"{name} is not shown: {problem}")
    return reports, unreadable


def _probe(run: Path, task: str, encoder: Encoder, store: Store) -> ProbeReport:
    """The probe of these weights and of these samples; LatentcastError where there is none."""
    again = f"run latentcast probe {run} --data {store.path} --task {task}"
    found, problem = [], LatentcastError(f"{run / file_name(task)}: does not exist; {again}")
    for file in reversed(probe_files(run, task)):
        try:
            probe = ProbeReport.read(file)
        except LatentcastError as unreadable:
            problem = LatentcastError(f"{unreadable}: {again}")
            continue
        if probe.weights != encoder.weights:
            problem = LatentcastError(
                f"{file}: is about the weights '{probe.weights}', the run now holds "
                f"'{encoder.weights}'; {again} again"
            )
        elif probe.data["shards"] != store.checksums:
            problem = LatentcastError(
                f"{file}: is about the samples of {probe.data['store']}, those of {store.path} are "
                f"others (sha256 of the shards); give the report that store, or {again} again"
            )
        else:
            found.append(probe)
    if not found:
        raise problem
    return min(found[::-1], key=lambda probe: probe.variant != "")


def _read(file: Path, fix: str) -> dict[str, Any]:
    try:
        return read_object(file)
    except FileNotFoundError:
        raise LatentcastError(f"{file}: does not exist; {fix}") from None
    except (OSError, ValueError) as error:
        raise LatentcastError(f"{file}: cannot be read ({error}); {fix}") from error
