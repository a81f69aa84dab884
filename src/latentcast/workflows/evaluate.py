"""From runs, stores and tasks to one table: the pieces put together, once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.data.manifest import library_version
from latentcast.data.store import Store
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation import harness
from latentcast.evaluation.cache import FeatureCache
from latentcast.evaluation.concatenation import Concatenation
from latentcast.evaluation.evaluation import Evaluation
from latentcast.evaluation.evaluation_tables import markdown
from latentcast.evaluation.features import Noted, ReadsRecordings, Windows, check_same_signal
from latentcast.evaluation.heads import READ_TOKENS
from latentcast.evaluation.low_shot import amounts_of
from latentcast.evaluation.protocol import check_layer, heads_of, usual_pooling
from latentcast.evaluation.question import Group, Question
from latentcast.evaluation.supervision import of_config
from latentcast.evaluation.tasks import Task, task_name
from latentcast.evaluation.tasks import task as task_of
from latentcast.files import apart, write_text
from latentcast.nn.pooling import check_pooling
from latentcast.objectives.base import Role
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.report.evaluation import page
from latentcast.signatures import checked
from latentcast.workflows.probe import check_kind, labelled_store
from latentcast.workflows.sources import Trained, groups_of, trained_run

DRAWS = 3
"""Of labelled patients, for an amount below all."""


@checked
def evaluate(
    runs: Sequence[str | Path],
    data: str | Path | None = None,
    task: Sequence[str] | str | None = None,
    *,
    external: Sequence[str | Path] = (),
    heads: Sequence[str] = ("kNN", "linear"),
    layer: str = "all",
    pooling: str | None = None,
    windows: Windows = "strided",
    weights: Role = "teacher",
    labels_fraction: Sequence[float] = (),
    shots: Sequence[int] = (),
    draws: int = DRAWS,
    resamples: int = 1000,
    seed: int = 0,
    seed_runs: bool = True,
    reference: str | None = None,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    encoders: Mapping[str, Any] | None = None,
    concatenate: Sequence[str] = (),
    by: Sequence[str] = (),
    cv: bool = False,
    drop_leads: Sequence[int] = (),
    allow_leaks: bool = False,
    device: str | torch.device = AUTO,
    command: str = "",
) -> Evaluation:
    """Score several runs under one harness, next to their floors.

    The floors are, of each architecture, the network at initialisation, and random convolutions (of
    images the pixels). Features are read once and kept; a further task costs seconds.

    Args:
        runs: folders, checkpoints or exported files. Runs that differ in the training seed alone
            are one line. A run of ``finetune`` is scored by its own predictions.
        data: a labelled store: heads are fitted on its training split and tested on its test split;
            by default the one of the first run.
        task: one or several; by default what suits the labels of the store.
        external: stores from elsewhere, of which every record of the task is tested.
        heads: names of :data:`~latentcast.evaluation.heads.HEADS`.
        layer: by name, or ``all`` to choose on the validation split; a source without it chooses.
        pooling: by default mean+std for recordings and mean for images.
        windows: how a record longer than a source's window is read.
        weights: the averaged weights (teacher) or the trained ones (student).
        labels_fraction: shares of the labelled training patients, such as ``(0.01, 0.1, 1)``.
        shots: patients of each label.
        draws: of patients, for each amount below all.
        resamples: of the test patients, drawn by ``seed``.
        seed_runs: join runs that differ in the training seed.
        reference: the source that others are compared with; by default the convolutions or pixels.
        out: folder for ``evaluation.json``, ``.md`` and ``.html``.
        cache: folder of features; by default ``OUT/features``.
        encoders: of somebody else by name, as further rows, see
            :mod:`latentcast.evaluation.foreign.specification`.
        concatenate: names of two sources as in ``"NAME + random convolutions"``: their features
            joined, as a further row.
        by: keys of the metadata, such as sex, whose values make subgroups of the test records.
        cv: score heads by cross-validation within the training records besides.
        drop_leads: score the test records without so many random leads besides.
        allow_leaks: score in spite of a leak; it stands in all that is written.
        device: that encoders read on.
        command: to stand in the result.

    Raises:
        LatentcastError: no such run, task, head or layer, a damaged file, a store of another kind,
            a leak.
    """
    start = time.perf_counter()
    if not runs:
        raise LatentcastError("evaluate: needs a run; name one or more run folders")
    if draws < 1 or resamples < 1:
        raise LatentcastError("evaluate: draws and resamples are counts; give one or more")
    amounts, heads = amounts_of(labels_fraction, shots), heads_of(heads)
    trained = [trained_run(Path(run), weights, device) for run in runs]
    store = labelled_store(Path(runs[0]), data)
    if out is not None:
        apart(out, store=store.path)
    stores = _named([store, *map(Store.open, external)])
    tasks = _tasks([task] if isinstance(task, str) else task, trained, store)
    groups = groups_of(trained, encoders or {}, concatenate, store, join=seed_runs, device=device)
    if reference is None:
        reference = next(group.name for group in groups if group.kind == "baseline")
    if reference not in {group.name for group in groups}:
        near = nearest(reference, [group.name for group in groups])
        raise LatentcastError(f"reference {reference}: is no source of this table; {near}")
    pooling = pooling or usual_pooling(store)
    _check_sources(groups, stores, layer, pooling, heads)
    for each in stores.values():
        each.verify()
    if cache is None and out is not None:
        cache = Path(out) / "features"
    kept = FeatureCache(cache)
    name, *others = stores
    question = Question(
        name, store, {other: stores[other] for other in others}, heads, layer, pooling, windows,
        amounts, draws, resamples, seed, reference, by, cv, drop_leads,
    )  # fmt: skip
    found = harness.evaluate(groups, tasks, question, kept, allow_leaks)
    provenance = {
        "command": command, "latentcast": library_version(), "torch": torch.__version__,
        "seconds": round(time.perf_counter() - start, 1),
        "features": f"{kept.computed} read from samples, {kept.found} found in the cache",
    }  # fmt: skip
    found = replace(found, provenance=provenance, remarks=(*_notes(groups), *kept.notes))
    if out is not None:
        _write(found, Path(out))
    return found


def _tasks(names: Sequence[str] | None, trained: Sequence[Trained], store: Store) -> list[Task]:
    """By name; by default those of fine-tuned runs, or what suits the store.

    Raises:
        LatentcastError: no such task, or a run was fine-tuned on another or on other labels.
    """
    settings = {
        run.path: run.encoder.config.objective for run in trained if run.classifier is not None
    }
    learned = [of.task for of in settings.values() if isinstance(of, SupervisedConfig)]
    chosen = list(dict.fromkeys(names or learned)) or [task_name(None, store)]
    for path, name in zip(settings, learned, strict=True):
        if name not in chosen:
            raise LatentcastError(
                f"{path}: was fine-tuned on a task that is not evaluated; add --task {name}"
            )
        of_config(settings[path], store)
    return [task_of(name, store) for name in chosen]


def _named(stores: Sequence[Store]) -> dict[str, Store]:
    """By the name of the folder, or the path where two have one name."""
    folders = [store.path.resolve().name for store in stores]
    named = {
        name if folders.count(name) == 1 else str(store.path): store
        for name, store in zip(folders, stores, strict=True)
    }
    if len(named) < len(stores):
        raise LatentcastError("evaluate: one store is there twice; test on each once")
    return named


def _check_sources(
    groups: Sequence[Group],
    stores: dict[str, Store],
    layer: str,
    pooling: str,
    heads: Sequence[str],
) -> None:
    """Refuse what the first forward pass would refuse, before it."""
    layers = dict[str, None]()
    for group in groups:
        for member in group.members:
            reads = member.reads
            if isinstance(reads, Concatenation):
                continue
            encoder = reads.encoder if isinstance(reads, Classifier) else reads
            if group.kind == "pretrained":
                layers |= dict.fromkeys(encoder.layer_names)
                check_pooling(pooling, causal=encoder.causal)
            for store in stores.values():
                if isinstance(encoder, Encoder):
                    check_kind(encoder, Path(member.run or group.name), store)
                if store.modality == "ecg" and isinstance(encoder, ReadsRecordings):
                    check_same_signal(encoder, group.name, store)
    if layers:
        check_layer(layer, tuple(layers), heads)
    if set(heads) <= READ_TOKENS and any(group.kind == "concatenated" for group in groups):
        raise LatentcastError(
            "--concatenate: the attentive head reads tokens, which are not concatenated; add "
            "--head linear attentive"
        )


def _notes(groups: Sequence[Group]) -> list[str]:
    """What was done to the signal for single sources."""
    sources = [member.reads for group in groups for member in group.members]
    return [source.note for source in sources if isinstance(source, Noted) and source.note]


def _write(found: Evaluation, out: Path) -> None:
    try:
        found.write(out)
        write_text(out / "evaluation.md", markdown(found))
        write_text(out / "evaluation.html", page(found))
    except OSError as error:
        raise LatentcastError(
            f"{out}: cannot be written ({error}); make the folder writable or free space, and "
            "evaluate again"
        ) from None
