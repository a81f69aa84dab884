"""From a run and a labelled store to its scores: the pieces put together, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.classification import classify
from latentcast.evaluation.classification_results import ClassificationReport
from latentcast.evaluation.pixels import PixelSource
from latentcast.evaluation.protocol import probe
from latentcast.evaluation.random_convolutions import RandomConvolutions
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.tasks import task as named
from latentcast.objectives.base import Role
from latentcast.runs.new import data_of


def probe_run(
    run: Path,
    data: Path,
    *,
    task: str = "superdiagnostic",
    layer: str = "all",
    pooling: str | None = None,
    weights: Role = "teacher",
    command: str = "",
) -> ProbeReport | ClassificationReport:
    """Score a run's frozen encoder next to its floors.

    Recordings: a linear probe of ``task``, next to the same network at initialisation and random
    convolutions. Images: kNN and a linear head on the store's classes, next to the same network at
    initialisation and the pixels.

    Args:
        run: folder of the run.
        data: folder of a labelled store.
        task: of recordings; an image store has one task, its classes.
        layer: a layer by name, or ``all`` to choose on the validation split.
        pooling: by default mean+std for recordings and mean for images.
        weights: the averaged weights (teacher) or the trained ones (student).
        command: what was asked for, to stand in the report.

    Raises:
        LatentcastError: no checkpoint, a damaged store, recordings for an encoder of images or the
            other way round, no labels, a leak.
    """
    encoder = Encoder.from_pretrained(run, weights)
    store = Store.open(data)
    provenance: dict[str, Any] = {
        "run": str(run),
        "command": command,
        "training seed": encoder.config.train.seed,
        "weights": encoder.weights,
    }
    pretraining = data_of(run)
    if store.modality == encoder.modality == "image":
        store.verify()
        return classify(
            [encoder, Encoder.random(run), PixelSource.from_store(store)],
            store,
            layer=layer,
            pooling=pooling or "mean",
            pretraining=pretraining,
            provenance=provenance,
        )
    if store.modality == encoder.modality == "ecg":
        store.verify()
        return probe(
            [encoder, Encoder.random(run), RandomConvolutions.from_store(store)],
            store,
            named(task),
            layer=layer,
            pooling=pooling or "mean+std",
            pretraining=pretraining,
            provenance=provenance,
        )
    held = "images" if store.modality == "image" else "recordings"
    raise LatentcastError(
        f"{data}: holds {held}, {run} was trained on {encoder.config.input.kind} data; "
        "probe it on a store of its own kind"
    )
