"""From a run folder to its report: collects what the page shows, and that it belongs together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentcast.config import Config, EcgInput, load
from latentcast.config.resolve import leaves
from latentcast.errors import LatentcastError
from latentcast.evaluation.classification_results import ClassificationReport
from latentcast.evaluation.results import ProbeReport
from latentcast.recipes import RECIPES
from latentcast.report.page import Change, of_images, write_report
from latentcast.report.pictures import FeatureMap, Surprise
from latentcast.runs.comparison import shown
from latentcast.runs.folder import RunFolder

if TYPE_CHECKING:
    from latentcast.artifacts.ecg import EcgEncoder
    from latentcast.data.store import Store

BUNDLED_LICENCE = (
    "the ECGs bundled with latentcast: a subset of PTB-XL 1.0.3 (Wagner et al., PhysioNet, "
    "doi 10.13026/kfzx-aw45), CC BY 4.0, resampled to 100 Hz"
)


def report_run(run: Path, data: Path | None = None, task: str = "superdiagnostic") -> Path:
    """Write ``RUN/report.html`` from whatever the run has: its log, its settings, its probes.

    Args:
        run: folder of the run, finished or not.
        data: folder of a labelled store. Of recordings it adds an ECG with the model's errors and
            a map of the features; of images it adds nothing.
        task: the probe of recordings that these pictures go with.

    Raises:
        LatentcastError: a file of the run is missing or damaged, the store holds the other kind of
            data or belongs to another probe, a plotting package is missing, the page cannot be
            written.
    """
    config = load(run / "config.yaml")
    if data is not None:
        from latentcast.artifacts.ecg import EcgEncoder
        from latentcast.data.opening import open_store
        from latentcast.data.store import Store

        store = open_store(data)
        if isinstance(store, Store) != isinstance(config.input, EcgInput):
            held = "recordings" if isinstance(store, Store) else "images"
            raise LatentcastError(
                f"{data}: holds {held}, {run} was trained on {config.input.kind} data; "
                "give the report a store of its own kind, or none"
            )
        if isinstance(store, Store):
            return report_recordings(run, EcgEncoder.from_pretrained(run), store, task)
    return _write(run, config, RunFolder.read(run))


def report_recordings(run: Path, encoder: EcgEncoder, store: Store, task: str) -> Path:
    """The report with pictures of ``store``, next to the run's probe of ``task``.

    The table comes from the probe's file and the pictures from ``encoder`` and ``store``, so the
    three must be of one checkpoint and of the same samples.

    Raises:
        LatentcastError: the task was not probed yet, or the probe was of other weights or other
            data, beside the reasons of :func:`report_run`.
    """
    from latentcast.evaluation.features import extract, readable
    from latentcast.evaluation.tasks import task as named

    wanted = named(task)
    file = run / f"probe-{task}.json"
    again = f"run latentcast probe {run} --data {store.path} --task {task}"
    probe = _read(file, again)
    _check_same(probe, file, encoder, store, f"{again} again")
    tested = probe["rows"][0]
    targets, kept = wanted.targets(store.labels)
    rows = store.rows("test")
    rows = rows[kept[rows]]
    layers = extract(encoder, store, rows, pooling=tested["pooling"], windows=probe["windows"])
    read = readable(layers)
    rows, features = rows[read], layers[tested["layer"]][read]
    shown = _typical(encoder, store, rows)
    counts = store.take([shown], length=encoder.length)
    provenance = store.manifest.provenance
    about = {
        "pictures": f"{store.path}: {len(store):,} records of {store.patients:,} patients",
        "source": provenance.get("source"),
    }
    if provenance.get("kind") == "packed":
        about["licence of the data"] = BUNDLED_LICENCE
    return _write(
        run,
        encoder.config,
        RunFolder.read(run),
        first=file.name,
        about=about,
        surprise=Surprise(
            store.recording(shown),
            encoder.patch_errors(counts)[0],
            encoder.patch_seconds,
            encoder.predicted_from or "",
        ),
        features=FeatureMap(
            features,
            targets[rows],
            wanted.classes,
            f"layer {tested['layer']}, {tested['pooling']}",
        ),
    )


def _write(
    run: Path,
    config: Config,
    folder: RunFolder,
    first: str = "probe-superdiagnostic.json",
    about: Mapping[str, Any] | None = None,
    surprise: Surprise | None = None,
    features: FeatureMap | None = None,
) -> Path:
    """The page of what is in ``folder``; ``first`` is the probe that makes the headline."""
    environment = _read(
        run / "environment.json", "restore it from a copy, or put {} there to report without it"
    )
    command = environment.pop("command", None)
    newest = max(folder.checkpoints, default=None)
    remarks = [sentence for sentence in folder.problems if not sentence.startswith("probe-")]
    probes = []
    for name in sorted(folder.probes, key=lambda name: (name != first, name)):
        probe = folder.probes[name]
        if missing := _missing(probe):
            remarks.append(f"{name} is not shown: it has no {missing}, another version wrote it")
            continue
        weights = str(probe["provenance"].get("weights"))
        if newest is not None and not weights.endswith(f"step {newest}"):
            remarks.append(f"{name} is about {weights}, the newest checkpoint is of step {newest}")
        probes.append(probe)
    remarks += [sentence for sentence in folder.problems if sentence.startswith("probe-")]
    name = run.resolve().name
    return write_report(
        run,
        title=name if config.recipe in name else f"{config.recipe}, {name}",
        steps=config.train.steps,
        metrics=folder.rows,
        probes=probes,
        changes=_changes(config),
        what_was_run={
            "training": command,
            "probe": [told for p in probes if (told := p["provenance"].get("command"))] or None,
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


def _missing(probe: Mapping[str, Any]) -> str | None:
    """A field that a probe of this version would have; None when it has all."""
    kind = ClassificationReport if of_images(probe) else ProbeReport
    fields = {field.name for field in dataclasses.fields(kind)}
    return min(fields - probe.keys(), default=None)


def _read(file: Path, mend: str) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LatentcastError(f"{file}: does not exist; {mend}") from None
    except (OSError, ValueError) as error:
        raise LatentcastError(f"{file}: cannot be read ({error}); {mend}") from error
    if not isinstance(held, dict):
        raise LatentcastError(f"{file}: holds no JSON object; {mend}")
    return held


def _check_same(
    probe: dict[str, Any], file: Path, encoder: EcgEncoder, store: Store, again: str
) -> None:
    """The probe is of these weights and of these samples, or LatentcastError says what differs."""
    if missing := _missing(probe):
        raise LatentcastError(
            f"{file}: has no {missing}, another version of latentcast wrote it; {again}"
        )
    weights = encoder.weights
    if (told := probe["provenance"].get("weights")) != weights:
        raise LatentcastError(
            f"{file}: is about the weights '{told}', the run now holds '{weights}'; {again}"
        )
    if probe["data"]["shards"] != store.checksums:
        raise LatentcastError(
            f"{file}: is about the samples of {probe['data']['store']}, those of {store.path} are "
            f"others (sha256 of the shards); give the report that store, or {again}"
        )


def _typical(encoder: EcgEncoder, store: Store, rows: npt.NDArray[np.int64]) -> int:
    """The record whose mean prediction error is the median: neither the best nor the worst."""
    whole = rows[store.lengths[rows] >= encoder.length][:256]
    candidates = whole if len(whole) else rows[:256]
    errors = encoder.patch_errors(store.take(candidates, length=encoder.length))
    seen = np.isfinite(errors)
    total, count = np.where(seen, errors, 0).sum(axis=1), seen.sum(axis=1)
    # A record without a single predicted patch counts as the worst.
    means = np.divide(total, count, out=np.full(len(total), np.inf), where=count > 0)
    return int(candidates[np.argsort(means)[len(means) // 2]])
