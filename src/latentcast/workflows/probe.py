"""From a run and a labelled store to its scores: the pieces put together, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError
from latentcast.evaluation import protocol
from latentcast.evaluation.baselines import baseline
from latentcast.evaluation.cache import MOST, FeatureCache, usual_folder
from latentcast.evaluation.foreign.specification import foreign
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.tasks import task as task_of
from latentcast.objectives.base import Role
from latentcast.runs.new import data_of
from latentcast.signatures import checked
from latentcast.workflows.sources import training_stores


@checked
def probe(
    run: str | Path,
    data: str | Path | None = None,
    task: str | None = None,
    layer: str = "all",
    pooling: str | None = None,
    weights: Role = "teacher",
    command: str = "",
    heads: Sequence[str] | None = None,
    device: str | torch.device = AUTO,
    encoders: Mapping[str, Any] | None = None,
    by: Sequence[str] = (),
    cache: str | Path | Literal[False] | None = None,
    allow_leaks: bool = False,
) -> ProbeReport:
    """Score a run's frozen encoder next to its floors.

    The floors are the same network at initialisation and, of recordings, random convolutions, of
    images the pixels. ``report.write(run)`` keeps the result in the run folder.

    Args:
        run: folder of the run, one of its checkpoints, or an exported file.
        data: folder of a labelled store; the run's own by default.
        task: superdiagnostic and the other five of PTB-XL, labels, classes, metadata:NAME; by
            default what suits the labels of the store.
        layer: a layer by name, ``joined`` for all of them, or ``all`` to choose among these on the
            validation split.
        pooling: by default mean+std for recordings and mean for images.
        weights: the averaged weights (teacher) or the trained ones (student).
        command: to stand in the report.
        heads: of linear, kNN and attentive; by default linear for recordings, kNN and linear for
            images.
        encoders: of somebody else, as further rows by name; see
            :mod:`latentcast.evaluation.foreign.specification`.
        device: that the encoder reads on; by default the GPU when there is one, else the CPU.
        by: keys of the metadata, such as sex, age, device or site: each value is a subgroup of the
            test split with a score of its own.
        cache: folder of features, as of :func:`~latentcast.workflows.evaluate.evaluate`; False for
            none. By default a folder of the user's cache, from which what was used longest ago goes
            at 4 GiB.
        allow_leaks: score in spite of a leak; it stands in the report and beside its scores.

    Raises:
        LatentcastError: no checkpoint or device, a damaged store, recordings for an encoder of
            images or the other way round, no labels, a leak.
    """
    run = Path(run)
    encoder = Encoder.from_pretrained(run, weights, device)
    store = labelled_store(run, data)
    check_kind(encoder, run, store)
    others = [foreign(name, target, store) for name, target in (encoders or {}).items()]
    store.verify()
    if cache is None:
        kept = FeatureCache(usual_folder(), most=MOST)
    else:
        kept = None if cache is False else FeatureCache(cache)
    report = protocol.probe(
        [encoder, Encoder.random(run, device=device), baseline(store), *others],
        store,
        task_of(task, store),
        heads=heads,
        layer=layer,
        pooling=pooling,
        trained_on=training_stores(run, encoder.config),
        by=by,
        provenance={
            "run": str(run),
            "command": command,
            "training seed": encoder.config.train.seed,
            "weights": encoder.weights,
        },
        cache=kept,
        allow_leaks=allow_leaks,
    )
    return replace(report, notes=(*report.notes, *(() if kept is None else kept.notes)))


def labelled_store(run: Path, data: str | Path | None) -> Store:
    """The store to score a run on; by default the one it was trained on.

    Raises:
        LatentcastError: that one is not there any more.
    """
    store = data_of(run) if data is None else Store.open(data)
    if store is None:
        raise LatentcastError(
            f"{run}: the store it was trained on is not at hand; name a labelled one (--data)"
        )
    return store


def check_kind(encoder: Encoder, run: Path, store: Store) -> None:
    """Raises LatentcastError: a store of images for a run on recordings, or the other way round."""
    if store.modality != encoder.modality:
        content = "images" if store.modality == "image" else "recordings"
        raise LatentcastError(
            f"{store.path}: holds {content}, {run} was trained on {encoder.modality} data; score "
            "it on a store of its own kind"
        )
