"""From a run folder to its report: collects what the page shows, and that it belongs together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.ecg import EcgEncoder
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import extract, readable
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.tasks import task as named
from latentcast.monitors.journal import read_metrics
from latentcast.report.page import write_report

BUNDLED_LICENCE = (
    "the ECGs bundled with latentcast: a subset of PTB-XL 1.0.3 (Wagner et al., PhysioNet, "
    "doi 10.13026/kfzx-aw45), CC BY 4.0, resampled to 100 Hz"
)

PREDICTED_FROM = {
    "nepa": "what came before (nothing, for the first patch)",
    "jepa": "the recording outside a tenth of it around the patch",
}
"""By kind of objective, what its patch errors show."""


def report_run(run: Path, encoder: EcgEncoder, store: Store, task: str) -> Path:
    """Write ``RUN/report.html`` from the run's log and its probe of ``task``.

    The table comes from the probe's file and the pictures from ``encoder`` and ``store``, so the
    three must be of one checkpoint and of the same samples.

    Raises:
        LatentcastError: the task was not probed yet, or the probe was of other weights or other
            data; a file of the run is missing or damaged; a plotting package is missing; the page
            cannot be written.
    """
    wanted = named(task)
    file = run / f"probe-{task}.json"
    again = f"run latentcast probe {run} --data {store.path} --task {task}"
    probe = _read(file, again)
    _check_same(probe, file, encoder, store, f"{again} again")
    environment = _read(
        run / "environment.json", "restore it from a copy, or put {} there to report without it"
    )
    command = environment.pop("command", None)
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
    what_was_run = {
        "training": command,
        "probe": probe["provenance"].get("command"),
        "training seed": encoder.config.train.seed,
        "weights": probe["provenance"]["weights"],
        "data": f"{store.path}: {len(store):,} records of {store.patients:,} patients",
        "source": provenance.get("source"),
    }
    if provenance.get("kind") == "packed":
        what_was_run["licence of the data"] = BUNDLED_LICENCE
    return write_report(
        run,
        title=encoder.config.recipe,
        metrics=read_metrics(run),
        probe=probe,
        recording=store.recording(shown),
        patch_errors=encoder.patch_errors(counts)[0],
        patch_seconds=encoder.patch_seconds,
        predicted_from=PREDICTED_FROM[encoder.config.objective.kind],
        features=features,
        labels=targets[rows],
        classes=wanted.classes,
        features_from=f"layer {tested['layer']}, {tested['pooling']}",
        what_was_run=what_was_run,
        environment=environment,
        config_yaml=encoder.config.to_yaml(),
    )


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
    fields = {field.name for field in dataclasses.fields(ProbeReport)}
    if missing := sorted(fields - probe.keys()):
        raise LatentcastError(
            f"{file}: has no {missing[0]}, another version of latentcast wrote it; {again}"
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
