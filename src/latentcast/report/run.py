"""From a run folder to its report: collects what the page shows, and that it belongs together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentcast.config import Config, load
from latentcast.config.resolve import leaves
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError
from latentcast.evaluation.results import ProbeReport, file_name
from latentcast.recipes import RECIPES
from latentcast.report.page import Change, write_report
from latentcast.report.pictures import FeatureMap, Surprise
from latentcast.runs.comparison import shown
from latentcast.runs.folder import RunFolder

if TYPE_CHECKING:
    from latentcast.artifacts.encoder import Encoder
    from latentcast.data.store import Store
    from latentcast.evaluation.tasks import Targets

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
        run: folder of the run, finished or not.
        data: folder of a labelled store: adds a map of the features and, of recordings, an ECG
            with the model's errors.
        task: the probe that makes the headline, and that these pictures go with; by default what
            suits the store.
        device: that the encoder reads on; by default the GPU when there is one, else the CPU.

    Raises:
        LatentcastError: a file of the run is missing or damaged, the store holds the other kind of
            data or belongs to another probe, a plotting package is missing, the page cannot be
            written.
    """
    run = Path(run)
    config = load(run / "config.yaml")
    if data is None:
        names = HEADLINES if task is None else (task,)
        return _write(run, config, [file_name(name) for name in names])
    from latentcast.artifacts.encoder import Encoder
    from latentcast.data.store import Store

    store = Store.open(data)
    if store.modality != config.input.kind:
        content = "recordings" if store.modality == "ecg" else "images"
        raise LatentcastError(
            f"{data}: holds {content}, {run} was trained on {config.input.kind} data; "
            "give the report a store of its own kind, or none"
        )
    return report_pictures(run, Encoder.from_pretrained(run, device=device), store, task)


def report_pictures(run: Path, encoder: Encoder, store: Store, task: str | None) -> Path:
    """The report with pictures of ``store``, next to the run's probe of ``task``.

    The table comes from the probe's file and the pictures from ``encoder`` and ``store``, so the
    three must be of one checkpoint and of the same samples.

    Raises:
        LatentcastError: the task was not probed yet, or the probe was of other weights or other
            data, beside the reasons of :func:`report_run`.
    """
    from latentcast.evaluation.features import extract, readable
    from latentcast.evaluation.tasks import task as task_of

    chosen = task_of(task, store)
    file = run / file_name(chosen.name)
    again = f"run latentcast probe {run} --data {store.path} --task {chosen.name}"
    probe = _probe(file, encoder, store, again)
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
    return _write(
        run,
        encoder.config,
        [file.name],
        about=about,
        surprise=_surprise(encoder, store, rows) if predicted else None,
        features=FeatureMap(features, labels, classes, where, probe.noun),
    )


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
    first: list[str],
    about: Mapping[str, Any] | None = None,
    surprise: Surprise | None = None,
    features: FeatureMap | None = None,
) -> Path:
    """The page of what is in the folder; one of ``first`` is the probe that makes the headline."""
    folder = RunFolder.read(run)
    environment = _read(
        run / "environment.json", "restore it from a copy, or put {} there to report without it"
    )
    command = environment.pop("command", None)
    newest = max(folder.checkpoints, default=None)
    remarks = [sentence for sentence in folder.problems if not sentence.startswith("probe-")]
    order = {name: place for place, name in enumerate(first)}
    probes = []
    for name in sorted(folder.probes, key=lambda name: (order.get(name, len(order)), name)):
        try:
            probe = ProbeReport.from_json(folder.probes[name])
        except LatentcastError as problem:
            remarks.append(f"{name} is not shown: {problem}")
            continue
        weights = str(probe.provenance.get("weights"))
        if newest is not None and not weights.endswith(f"step {newest}"):
            remarks.append(f"{name} is about {weights}, the newest checkpoint is of step {newest}")
        probes.append(probe)
    remarks += [sentence for sentence in folder.problems if sentence.startswith("probe-")]
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


def _probe(file: Path, encoder: Encoder, store: Store, again: str) -> ProbeReport:
    """The probe in a file, of these weights and of these samples; LatentcastError otherwise."""
    plain = _read(file, again)
    try:
        probe = ProbeReport.from_json(plain)
    except LatentcastError as problem:
        raise LatentcastError(f"{file}: {problem}: {again}") from None
    weights = encoder.weights
    if (probed := probe.provenance.get("weights")) != weights:
        raise LatentcastError(
            f"{file}: is about the weights '{probed}', the run now holds '{weights}'; {again} again"
        )
    if probe.data["shards"] != store.checksums:
        raise LatentcastError(
            f"{file}: is about the samples of {probe.data['store']}, those of {store.path} are "
            f"others (sha256 of the shards); give the report that store, or {again} again"
        )
    return probe


def _read(file: Path, fix: str) -> dict[str, Any]:
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LatentcastError(f"{file}: does not exist; {fix}") from None
    except (OSError, ValueError) as error:
        raise LatentcastError(f"{file}: cannot be read ({error}); {fix}") from error
    if not isinstance(plain, dict):
        raise LatentcastError(f"{file}: holds no JSON object; {fix}")
    return plain
