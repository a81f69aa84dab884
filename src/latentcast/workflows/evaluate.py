"""From runs, stores and tasks to one table: the pieces put together, once."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from latentcast.artifacts.choice import CHOICE, Choice
from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.config import Config
from latentcast.config.training import LOOKS
from latentcast.data.manifest import library_version
from latentcast.data.store import Store
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation import harness
from latentcast.evaluation.baselines import baseline
from latentcast.evaluation.cache import FeatureCache, fingerprint_of
from latentcast.evaluation.evaluation import Evaluation, Kind
from latentcast.evaluation.evaluation_tables import markdown
from latentcast.evaluation.features import (
    ReadsRecordings,
    Windows,
    check_same_signal,
)
from latentcast.evaluation.low_shot import amounts_of
from latentcast.evaluation.protocol import check_layer, heads_of, usual_pooling
from latentcast.evaluation.question import Group, Member, Question
from latentcast.evaluation.supervision import of_config
from latentcast.evaluation.tasks import Task, task_name
from latentcast.evaluation.tasks import task as task_of
from latentcast.files import apart, write_text
from latentcast.nn.pooling import check_pooling
from latentcast.objectives.base import Role
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.report.evaluation import page
from latentcast.runs.new import data_of
from latentcast.workflows.probe import check_kind, labelled_store

DRAWS = 3
"""Of labelled patients, for an amount below all."""


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
    device: str = AUTO,
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
    trained = [_trained(Path(run), weights, device) for run in runs]
    store = labelled_store(Path(runs[0]), data)
    if out is not None:
        apart(out, store=store.path)
    stores = _named([store, *map(Store.open, external)])
    tasks = _tasks([task] if isinstance(task, str) else task, trained, store)
    groups = [*_pretrained(trained, seed_runs, device), *_tuned(trained, seed_runs)]
    floor = baseline(store)
    groups.append(Group(floor.name, "baseline", (Member(floor, "", None, (), {}),)))
    reference = floor.name if reference is None else reference
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
        amounts, draws, resamples, seed, reference,
    )  # fmt: skip
    found = harness.evaluate(groups, tasks, question, kept)
    provenance = {
        "command": command, "latentcast": library_version(), "torch": torch.__version__,
        "seconds": round(time.perf_counter() - start, 1),
        "features": f"{kept.computed} read from samples, {kept.found} found in the cache",
    }  # fmt: skip
    found = replace(found, provenance=provenance, remarks=tuple(kept.notes))
    if out is not None:
        _write(found, Path(out))
    return found


@dataclass(frozen=True, eq=False)
class _Trained:
    """A run that is evaluated: its encoder, and the classifier where it was fine-tuned."""

    path: Path
    encoder: Encoder
    classifier: Classifier | None
    data: tuple[Store, ...]

    @property
    def seed(self) -> int:
        return self.encoder.config.train.seed

    @property
    def record(self) -> dict[str, Any]:
        weights = {"weights": self.encoder.weights, "sha256": fingerprint_of(self.encoder)}
        return {"run": str(self.path), "seed": self.seed, **weights}

    def member(self) -> Member:
        reads = self.encoder if self.classifier is None else self.classifier
        return Member(reads, str(self.path), self.seed, self.data, self.record)


def _trained(path: Path, weights: Role, device: str) -> _Trained:
    """LatentcastError: no such run, a damaged one, or a fine-tuning that has not ended."""
    encoder = Encoder.from_pretrained(path, weights, device)
    config, own = encoder.config, data_of(path)
    if not isinstance(config.objective, SupervisedConfig):
        return _Trained(path, encoder, None, () if own is None else (own,))
    choice = Choice(0, float("nan"))
    if (path / CHOICE).is_file():
        choice = Choice.read(path / CHOICE)
    elif (path / "config.yaml").is_file():
        raise LatentcastError(
            f"{path}: has not chosen a checkpoint yet; give the same latentcast finetune again"
        )
    stores = []
    if own is not None:
        stores.append(task_of(config.objective.task, own).targets(own).divide(own))
    if config.train.init and Path(config.train.init).exists():
        before = data_of(Path(config.train.init))
        stores += [] if before is None else [before]
    return _Trained(path, encoder, Classifier(encoder, choice, weights), tuple(stores))


def _tasks(names: Sequence[str] | None, trained: Sequence[_Trained], store: Store) -> list[Task]:
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


def _pretrained(trained: Sequence[_Trained], join: bool, device: str) -> list[Group]:
    """The runs without labels, and each architecture as it was before training."""
    families = _families([run for run in trained if run.classifier is None], join)
    groups, initial = list[Group](), list[Group]()
    reached = set[tuple[str, ...]]()
    for name, runs in families.items():
        groups.append(Group(name, "pretrained", tuple(run.member() for run in runs)))
        members = []
        for run in runs:
            encoder = Encoder.random(run.path, device=device)
            record = {"run": str(run.path), "seed": run.seed, "sha256": fingerprint_of(encoder)}
            members.append(Member(encoder, str(run.path), run.seed, (), record))
        networks = tuple(sorted(str(member.record["sha256"]) for member in members))
        if networks not in reached:
            reached.add(networks)
            initial.append(Group(f"{name} at initialisation", "initialisation", tuple(members)))
    return [*groups, *initial]


def _tuned(trained: Sequence[_Trained], join: bool) -> list[Group]:
    """The fine-tuned runs; those that started from no weights are the supervised baseline."""
    groups = []
    kinds: tuple[Kind, ...] = ("fine-tuned", "from scratch")
    for kind in kinds:
        of_kind = [
            run for run in trained
            if run.classifier is not None
            and (run.encoder.config.train.init is None) == (kind == "from scratch")
        ]  # fmt: skip
        for name, runs in _families(of_kind, join).items():
            groups.append(Group(name, kind, tuple(run.member() for run in runs)))
    return groups


def _families(runs: Sequence[_Trained], join: bool) -> dict[str, list[_Trained]]:
    """Runs that differ in the training seed alone, by a name that tells them from the others.

    Raises:
        LatentcastError: the same weights are there twice.
    """
    families: dict[str, list[_Trained]] = {}
    weights: dict[str, Path] = {}
    for place, run in enumerate(runs):
        digest = str(run.record["sha256"])
        if digest in weights:
            raise LatentcastError(
                f"{run.path}: has the weights of {weights[digest]}; leave one of them out"
            )
        weights[digest] = run.path
        key = _family(run.encoder.config, run.encoder.step) if join else str(place)
        same = families.setdefault(key, [])
        if run.seed in [other.seed for other in same]:  # of other data, or a copy that went on
            same = families.setdefault(f"{key} {place}", [])
        same.append(run)
    recipes = [members[0].encoder.config.recipe for members in families.values()]
    names: dict[str, list[_Trained]] = {}
    for members in families.values():
        name = members[0].encoder.config.recipe
        if recipes.count(name) > 1:
            name = f"{name} ({members[0].path.name})"
        names[name if name not in names else f"{name} {members[0].path}"] = members
    return names


def _family(config: Config, step: int) -> str:
    """The same for configurations that differ in the seed alone."""
    content = config.model_dump(mode="json", exclude={"machine": True, "train": {"seed", *LOOKS}})
    objective = config.objective
    if not isinstance(objective, SupervisedConfig):
        return json.dumps([content, step], sort_keys=True)
    del content["objective"]["labels_seed"]
    if objective.labels_fraction < 1:  # what follows from the number of records that were drawn
        for key in ("mean", "std", "class_weights"):
            del content["objective"][key]
        del content["ema"], content["train"]["steps"], content["optimizer"]["warmup_steps"]
    init = content["train"].pop("init")
    if init and Path(init).exists():
        before = Encoder.from_pretrained(init, device="cpu")
        init = _family(before.config, before.step)
    return json.dumps([content, init], sort_keys=True)


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
            encoder = reads.encoder if isinstance(reads, Classifier) else reads
            if group.kind == "pretrained":
                layers |= dict.fromkeys(encoder.layer_names)
                check_pooling(pooling, causal=encoder.causal)
            for store in stores.values():
                if isinstance(encoder, Encoder):
                    check_kind(encoder, Path(member.run), store)
                if store.modality == "ecg" and isinstance(encoder, ReadsRecordings):
                    check_same_signal(encoder, group.name, store)
    if layers:
        check_layer(layer, tuple(layers), heads)


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
