"""From a run folder to its report: collects what the page shows, and that it belongs together."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentcast.artifacts.encoder import Encoder
from latentcast.config import Config, load
from latentcast.config.resolve import leaves
from latentcast.data.store import Store
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError, printable
from latentcast.evaluation.results import ProbeReport, file_name, probe_files
from latentcast.evaluation.tasks import Task, default_task
from latentcast.evaluation.tasks import task as task_of
from latentcast.files import read_object
from latentcast.places import is_store, refuse_model, refuse_other_than_run
from latentcast.recipes import RECIPES
from latentcast.report.hierarchy import hierarchy
from latentcast.report.page import PAGE, Change, write_report
from latentcast.report.picture import Picture
from latentcast.report.pictures import shows_pictures
from latentcast.report.store_pictures import store_pictures
from latentcast.report.tuned import Tuned
from latentcast.runs.comparison import shown
from latentcast.runs.folder import TUNED, RunFolder, run_of
from latentcast.runs.new import data_of

BUNDLED_LICENCE = (
    "the ECGs bundled with latentcast: a subset of PTB-XL 1.0.3 (Wagner et al., PhysioNet, "
    "doi 10.13026/kfzx-aw45), CC BY 4.0, resampled to 100 Hz"
)


EARLIER = "report-earlier.html"
"""A page with pictures of a store, where the newest one has none."""
HEADLINES = ("superdiagnostic", "labels", "classes")
"""Without a task, the first of these that was probed makes the headline."""


def report_run(
    run: str | Path,
    data: str | Path | None = None,
    task: str | None = None,
    device: str = AUTO,
    figures: str | Path | None = None,
) -> Path:
    """Write ``RUN/report.html`` from whatever the run has: its log, its settings, its probes.

    A page with pictures of a store is never replaced by one without: it then stays beside the new
    one as ``report-earlier.html``, and the new one says so.

    Args:
        run: folder of the run, finished or not; or one of its checkpoints, for the pictures.
        data: folder of a labelled store that was probed: adds maps of the features (where its test
            fold has five records or more) and of tokens and, of recordings, an ECG with the model's
            errors; by default the one the run was trained on, probed or not, or another one that it
            was probed on, where it is still there.
        task: the probe that makes the headline, and that these pictures go with; by default what
            suits the store.
        device: that the encoder reads on; by default the GPU when there is one, else the CPU.
        figures: folder for every picture of the page as PDF and SVG, with ``captions.md``.

    Raises:
        LatentcastError: a file of the run is missing or damaged, the store holds the other kind of
            data or belongs to another probe, a plotting package is missing, the page or a figure
            cannot be written.
    """
    path, run = Path(run), run_of(Path(run))
    refuse_model(
        run, "without the curves of its run; latentcast inspect {} prints what it holds, "
        "latentcast evaluate {} --data STORE --out OUT writes a page of its scores",
    )  # fmt: skip
    figures = None if figures is None else Path(figures)
    refuse_other_than_run(run)
    config = load(run / "config.yaml")
    if data is None:
        found, remarks = None, list[str]()
        try:
            found = _at_hand(path, task, device)
        except LatentcastError as problem:
            remarks.append(f"without pictures of the store it was trained on: {problem}")
        if found is None:
            tasks = HEADLINES if task is None else (task,)
            return _write(run, config, tasks, remarks=remarks, figures=figures)
        return _illustrated(run, *found, figures)
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
        return _write(run, config, HEADLINES, remarks=[remark], figures=figures)
    encoder = Encoder.from_pretrained(path, device=device)
    return report_pictures(run, encoder, store, task, figures)


def report_pictures(
    run: Path, encoder: Encoder, store: Store, task: str | None, figures: Path | None = None
) -> Path:
    """The report with pictures of ``store``, next to the run's probe of ``task``.

    The table comes from the probe's file and the pictures from ``encoder`` and ``store``, so the
    three must be of one checkpoint and of the same samples.

    Raises:
        LatentcastError: the task was not probed yet, or the probe was of other weights or other
            data, beside the reasons of :func:`report_run`.
    """
    chosen = task_of(task, store)
    probe = _probe(run, chosen.name, encoder, store)
    return _illustrated(run, encoder, store, chosen, probe, figures)


def _illustrated(
    run: Path, encoder: Encoder, store: Store, task: Task, probe: ProbeReport | None,
    figures: Path | None,
) -> Path:  # fmt: skip
    """Of a run that was not probed, too: then it is the encoder's own layer that is drawn."""
    drawn, remarks = store_pictures(encoder, store, task.targets(store), probe)
    for remark in remarks:
        print(f"report: {printable(remark)}", file=sys.stderr)
    provenance = store.manifest.provenance
    patients = f" of {store.patients:,} patients" if store.modality == "ecg" else ""
    noun = "image" if store.modality == "image" else "record"
    about = {
        "pictures": f"{store.path}: {len(store):,} {noun}s{patients}",
        "source": provenance.get("source"),
    }
    if provenance.get("kind") == "packed":
        about["licence of the data"] = BUNDLED_LICENCE
    return _write(
        run, encoder.config, (task.name,), headline=probe, about=about, pictures=drawn,
        remarks=remarks, figures=figures,
    )  # fmt: skip


def _at_hand(
    path: Path, task: str | None, device: str
) -> tuple[Encoder, Store, Task, ProbeReport | None] | None:
    """What pictures can be drawn of without being given a store; None where there is none.

    The store that the run was trained on comes first, then those it was probed on, where they
    still hold the same samples.

    Args:
        path: of the run, or of one of its checkpoints.
    """
    run, own = run_of(path), data_of(path)
    probes = [*_probes(RunFolder.read(run))[0].values()]
    stores = [] if own is None else [own]
    for probe in probes:
        folder = Path(str(probe.data.get("store", "")))
        if is_store(folder) and (store := Store.open(folder)).checksums == probe.data["shards"]:
            stores.append(store)
    if not stores:
        return None
    encoder = Encoder.from_pretrained(path, device=device)
    for store in stores:
        of_store = {
            probe.task: probe
            for probe in reversed(probes)
            if probe.data["shards"] == store.checksums
            and probe.weights == encoder.weights
            and task in (None, probe.task)
        }
        first = next((n for n in (*HEADLINES, *sorted(of_store)) if n in of_store), None)
        if first is not None:
            return encoder, store, task_of(first, store), _probe(run, first, encoder, store)
    if own is None or own.modality != encoder.modality:
        return None
    suited = task or default_task(own)
    return None if suited is None else (encoder, own, task_of(suited, own), None)


def _write(
    run: Path,
    config: Config,
    tasks: Sequence[str],
    headline: ProbeReport | None = None,
    about: Mapping[str, Any] | None = None,
    pictures: Sequence[Picture] = (),
    remarks: Sequence[str] = (),
    figures: Path | None = None,
) -> Path:
    """The page of what is in the folder; ``headline``, or a probe of the first of ``tasks`` that
    has one, is above the others."""
    remarks = [*remarks, *([] if pictures else _kept(run))]
    levels = hierarchy(config)
    folder = RunFolder.read(run)
    environment = _read(
        run / "environment.json", "restore it from a copy, or put {} there to report without it"
    )
    environment = {k: v for k, v in environment.items() if k not in ("format", "digest")}
    command = environment.pop("command", None)
    newest = max(folder.checkpoints, default=None)
    reports, unreadable = _probes(folder)
    tuned = None
    if folder.tuned:
        try:
            tuned = Tuned.of(folder.tuned)
        except LatentcastError as problem:
            unreadable.append(f"{TUNED}: {problem}")

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
        pictures=[*pictures, *([levels] if levels else [])],
        tuned=tuned,
        remarks=remarks,
        figures=figures,
    )


def _kept(run: Path) -> list[str]:
    """Keep a page with pictures from being replaced by one without; a sentence where there is one.

    Raises:
        LatentcastError: the page cannot be kept.
    """
    page, earlier = run / PAGE, run / EARLIER
    try:
        if shows_pictures(page):
            page.replace(earlier)
    except OSError as problem:
        raise LatentcastError(
            f"{earlier}: cannot be written ({problem}); make the folder writable"
        ) from None
    if not shows_pictures(earlier):
        return []
    return [
        "without pictures of a store: none that fits is at hand. The page of before, with them, "
        f"is {earlier}; name a store that was probed (--data) for new ones"
    ]


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
