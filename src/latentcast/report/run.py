"""From a run folder to its report: collects what the page shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import extract
from latentcast.evaluation.tasks import task as named
from latentcast.monitors.journal import read_metrics
from latentcast.report.page import write_report

BUNDLED_LICENCE = (
    "the ECGs bundled with latentcast: a subset of PTB-XL 1.0.3 (Wagner et al., PhysioNet, "
    "doi 10.13026/kfzx-aw45), CC BY 4.0, resampled to 100 Hz"
)


def report_run(run: Path, encoder: Encoder, store: Store, task: str) -> Path:
    """Write ``RUN/report.html`` from the run's log and its probe of ``task``.

    Raises:
        LatentcastError: the task was not probed yet, or a plotting package is missing.
    """
    file = run / f"probe-{task}.json"
    if not file.exists():
        raise LatentcastError(
            f"{file}: does not exist; run latentcast probe {run} --data {store.path} --task {task}"
        )
    probe: dict[str, Any] = json.loads(file.read_text())
    tested = probe["rows"][0]
    targets, kept = named(task).targets(store.labels)
    rows = store.rows("test")
    rows = rows[kept[rows]]
    features = extract(encoder, store, rows, pooling=tested["pooling"])[tested["layer"]]
    shown = _typical(encoder, store, rows)
    counts = store.take([shown], length=encoder.length)
    environment = json.loads((run / "environment.json").read_text())
    provenance = store.manifest.provenance
    what_was_run = {
        "training": environment.get("command"),
        "probe": probe["provenance"].get("command"),
        "training seed": encoder.config.train.seed,
        "weights": probe["provenance"].get("weights"),
        "data": f"{store.path}: {len(store)} records of {store.patients} patients",
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
        features=features,
        labels=targets[rows],
        classes=named(task).classes,
        features_from=f"layer {tested['layer']}, {tested['pooling']}",
        what_was_run=what_was_run,
        environment=environment,
        config_yaml=encoder.config.to_yaml(),
    )


def _typical(encoder: Encoder, store: Store, rows: np.ndarray) -> int:
    """The record whose mean prediction error is the median: neither the best nor the worst."""
    whole = rows[store.lengths[rows] >= encoder.length][:256]
    candidates = whole if len(whole) else rows[:256]
    errors = encoder.patch_errors(store.take(candidates, length=encoder.length))
    means = np.nanmean(errors, axis=1)
    return int(candidates[np.argsort(means)[len(means) // 2]])
