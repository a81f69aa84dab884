"""What an evaluation compares: runs in families, baselines, encoders of others, concatenations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from latentcast.artifacts.choice import CHOICE, Choice
from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.weights import read_weights
from latentcast.config import Config, load
from latentcast.config.training import LOOKS
from latentcast.data.store import Store
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation.baselines import baseline
from latentcast.evaluation.cache import fingerprint_of
from latentcast.evaluation.concatenation import Concatenation
from latentcast.evaluation.evaluation import Kind
from latentcast.evaluation.foreign.specification import foreign
from latentcast.evaluation.question import Group, Member
from latentcast.evaluation.tasks import task as task_of
from latentcast.objectives.base import Role
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.pretrained.models import at_step
from latentcast.runs.new import data_of

BETWEEN = " + "
"""Between the names of two sources that are concatenated."""


@dataclass(frozen=True, eq=False)
class Trained:
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


def trained_run(path: Path, weights: Role, device: str | torch.device) -> Trained:
    """LatentcastError: no such run, a damaged one, or a fine-tuning that has not ended."""
    path = at_step(path)
    encoder = Encoder.from_pretrained(path, weights, device)
    config = encoder.config
    stores = training_stores(path, config)
    if not isinstance(config.objective, SupervisedConfig):
        return Trained(path, encoder, None, stores)
    choice = Choice(0, float("nan"))
    if (path / CHOICE).is_file():
        choice = Choice.read(path / CHOICE)
    elif (path / "config.yaml").is_file():
        raise LatentcastError(
            f"{path}: has not chosen a checkpoint yet; give the same latentcast finetune again"
        )
    return Trained(path, encoder, Classifier(encoder, choice, weights), stores)


def training_stores(path: Path, config: Config, own: Store | None = None) -> tuple[Store, ...]:
    """The stores that a run was trained on, and the runs before it whose weights it began with;
    those that are at hand, and of labels as they were divided. Of an exported file its own is not
    known.

    Args:
        own: the run's own, where it is at another place now than the run has recorded.
    """
    stores, own = [], data_of(path) if own is None else own
    if own is not None:
        if isinstance(config.objective, SupervisedConfig):
            own = task_of(config.objective.task, own).targets(own).divide(own)
        stores.append(own)
    if config.train.init and (before := _before(config.train.init)) is not None:
        stores += training_stores(*before)
    return tuple(stores)


def _before(init: str) -> tuple[Path, Config] | None:
    """The run, checkpoint or file that a training began with, and its configuration; of a
    checkpoint that was pruned since, its run. None where all of it is gone."""
    path = Path(init)
    run = path.parents[1] if path.parent.name == "checkpoints" else path
    try:
        path = at_step(init)
    except LatentcastError:  # the run has no such step any more
        run = Path(init.rpartition("@")[0])
    else:
        if path.exists():
            return path, read_weights(path).config
    return (run, load(run / "config.yaml")) if (run / "config.yaml").is_file() else None


def groups_of(
    trained: Sequence[Trained],
    encoders: Mapping[str, Any],
    concatenated: Sequence[str],
    store: Store,
    *,
    join: bool,
    device: str | torch.device,
) -> list[Group]:
    """Everything that a table has rows of; the baseline of the store is among it.

    Args:
        encoders: of somebody else by name, see :mod:`latentcast.evaluation.foreign.specification`.
        concatenated: names of two sources with BETWEEN between them.
        join: runs that differ in the training seed are one.

    Raises:
        LatentcastError: the same weights or name twice; no such source, or one without features.
    """
    floor = baseline(store)
    groups = [
        *_pretrained(trained, join, device), *_tuned(trained, join),
        Group(floor.name, "baseline", (Member(floor, "", None, (), {}),)),
        *(_foreign(name, target, store, device) for name, target in encoders.items()),
    ]  # fmt: skip
    names = [group.name for group in groups]
    for name in encoders:
        if names.count(name) > 1:
            raise LatentcastError(
                f"--encoder {name}: is the name of another source; write {name}-2=..."
            )
    return [*groups, *(_concatenated(text, groups) for text in concatenated)]


def _foreign(name: str, target: Any, store: Store, device: str | torch.device) -> Group:
    source = foreign(name, target, store, device)
    pretraining = data_of(Path(target)) if isinstance(source, Encoder) else None
    record = {"encoder": str(target), "sha256": fingerprint_of(source) or "not kept, has no file"}
    stores = () if pretraining is None else (pretraining,)
    return Group(name, "foreign", (Member(source, "", None, stores, record),))


def _concatenated(text: str, groups: Sequence[Group]) -> Group:
    """Trainings of the same seed together; where no two have one, all with all."""
    by_name = {
        group.name: group for group in groups
        if not any(isinstance(member.reads, Classifier) for member in group.members)
    }  # fmt: skip
    names = text.split(BETWEEN)
    for name in names:
        if name not in by_name:
            raise LatentcastError(
                f"--concatenate '{text}': {name} is no source with features; "
                f"{nearest(name, by_name)}"
            )
    if len(names) != 2:
        two = BETWEEN.join([*by_name][:1] + [*by_name][-1:])
        raise LatentcastError(
            f"--concatenate '{text}': names {len(names)} sources; write two of them, as in '{two}'"
        )
    every = list(product(*(by_name[name].members for name in names)))
    pairs = [(one, other) for one, other in every if one.seed == other.seed] or every
    members = []
    for one, other in pairs:
        assert not isinstance(one.reads, Classifier | Concatenation)
        assert not isinstance(other.reads, Classifier | Concatenation)
        run, seed = one.run or other.run, other.seed if one.seed is None else one.seed
        members.append(Member(Concatenation(one.reads, other.reads), run, seed, (), {}))
    return Group(text, "concatenated", tuple(members))


def _pretrained(trained: Sequence[Trained], join: bool, device: str | torch.device) -> list[Group]:
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


def _tuned(trained: Sequence[Trained], join: bool) -> list[Group]:
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
            name += ", supervised from scratch" * (kind == "from scratch")
            groups.append(Group(name, kind, tuple(run.member() for run in runs)))
    return groups


def _families(runs: Sequence[Trained], join: bool) -> dict[str, list[Trained]]:
    """Runs that differ in the training seed alone, by a name that tells them from the others.

    Raises:
        LatentcastError: the same weights are there twice.
    """
    families: dict[str, list[Trained]] = {}
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
    names: dict[str, list[Trained]] = {}
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
    if init and at_step(init).exists():
        before = Encoder.from_pretrained(init, device="cpu")
        init = _family(before.config, before.step)
    return json.dumps([content, init], sort_keys=True)
