"""The weights of a run folder or of an exported file, and training that starts from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from latentcast.artifacts.choice import chosen_checkpoint
from latentcast.artifacts.export import read_export
from latentcast.artifacts.misfit import misfit
from latentcast.artifacts.public import is_public, read_public, refuse_unnormalised
from latentcast.config import Config
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.files import sha256
from latentcast.nn.hierarchy import Hierarchy
from latentcast.objectives.base import Objective, Role
from latentcast.objectives.build import assemble
from latentcast.places import refuse_graph
from latentcast.pretrained.models import located, models

SHOWN = 3
"""Names of tensors that a message lists."""


@dataclass(frozen=True)
class Weights:
    """All tensors of an objective, unsharded, on the CPU.

    Attributes:
        tensors: by their name in the objective.
        config: of the run, with the normalisation of its training split.
        step: optimizer steps of the weights.
        sha256: of the files they were read from, by name.
        source: where they were read from.
        encoder_alone: only the averaged encoder, which then stands for both roles; no predictor
            and no head.
        public: of weights that were trained elsewhere what a reader has to know of them.
    """

    tensors: dict[str, Tensor]
    config: Config
    step: int
    sha256: dict[str, str]
    source: str
    encoder_alone: bool = False
    public: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """What identifies these weights, for the environment of a run that starts from them."""
        return {"source": self.source, "step": self.step, "sha256": self.sha256}


def read_weights(source: str | Path) -> Weights:
    """The newest checkpoint of a run folder (of a fine-tuned run the chosen), one checkpoint, a
    file or folder that ``export`` wrote, a model that ships, by its name ``latentcast/NAME``, or
    public weights (:mod:`latentcast.artifacts.public`).

    Raises:
        LatentcastError: no such run, no checkpoint yet, or a damaged one.
    """
    path = located(source)
    refuse_graph(path)
    if path.is_file():
        if is_public(path):
            found, digests = read_public(path), {path.name: sha256(path)}
            about = str(source), True, found.remarks
            return _fitting(Weights(found.tensors, found.config, 0, digests, *about))
        tensors, config, step, alone = read_export(path)
        digests = {path.name: sha256(path)}
        return _fitting(Weights(tensors, config, step, digests, str(source), alone))
    if not path.exists():
        ships = next((f"{name}, " for name in models() if name.endswith(f"/{source}")), "")
        raise LatentcastError(
            f"{path}: does not exist, and nothing is downloaded; name {ships}a run folder, one of "
            "its checkpoints, an exported file, or a model that ships (latentcast models)"
        )
    newest = chosen_checkpoint(path)
    record = checkpoint.read_record(newest)
    # The checkpoint's own configuration: an edited config.yaml must not change what is read.
    config = checkpoint.config_of(newest, record)
    digests = {f"{newest.name}/{k}": v for k, v in record["sha256"].items() if k[:5] == "model"}
    tensors = checkpoint.read_tensors(newest, "model")
    return _fitting(Weights(tensors, config, record["step"], digests, str(source)))


def _fitting(weights: Weights) -> Weights:
    """The weights, if they are those of their configuration.

    Raises:
        LatentcastError: names the first tensor that is not.
    """
    depth = weights.config.encoder.depth

    def network() -> nn.Module:
        objective = assemble(weights.config)
        return objective.encoder("teacher") if weights.encoder_alone else objective

    problem = f"{len(weights.tensors)} tensors, and not {depth} blocks"
    if depth <= len(weights.tensors):  # no number of a damaged file is built
        problem = misfit(network, weights.tensors)
    if problem and weights.public:
        raise LatentcastError(
            f"{weights.source}: is incomplete or another network ({problem}); download it again"
        )
    if problem:
        raise LatentcastError(
            f"{weights.source}: does not fit the configuration beside it ({problem}); restore both "
            "from one copy, or train or export again"
        )
    if weights.encoder_alone:
        return replace(weights, tensors=_in_both_roles(weights.config, weights.tensors))
    return weights


def _in_both_roles(config: Config, encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an encoder under the names that an objective has for its student and its
    teacher."""
    with torch.device("meta"):
        objective = assemble(config)
    places = _places(objective, [objective.encoder(role) for role in get_args(Role)])
    return {f"{place}{n}": t for place in places for n, t in encoder.items()}


def _places(objective: Objective, networks: Iterable[nn.Module]) -> list[str]:
    """What stands before the names of the tensors of some parts of an objective."""
    names = {id(module): name for name, module in objective.named_modules()}
    return sorted({f"{names[id(network)]}." for network in networks})


def filled(weights: Weights) -> Objective:
    """The objective of some weights with them in it; of an encoder alone all else is not drawn.

    Raises:
        LatentcastError: of public weights the file does not hold the normalisation.
    """
    if weights.public:
        refuse_unnormalised(weights.source, weights.config)
    objective = assemble(weights.config)
    objective.load_state_dict(weights.tensors, strict=not weights.encoder_alone)
    return objective


def fingerprint(config: Config, network: nn.Module) -> str:
    """sha256 of an encoder's weights as they are now, and of the settings that decide how they
    read."""
    settings = config.model_dump(mode="json", include={"input", "encoder", "objective"})
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def encoder_weights(weights: Weights, objective: Objective) -> Weights:
    """The averaged encoder of some weights alone, by the names that another objective has for that
    of its student: of a pretraining for a fine-tuning, or the other way round."""
    network = _finest(filled(weights).encoder("teacher"))
    (place,) = _places(objective, [_finest(objective.encoder("student"))])
    tensors = {f"{place}{name}": tensor for name, tensor in network.state_dict().items()}
    return replace(weights, tensors=tensors)


def _finest(network: nn.Module) -> nn.Module:
    return network.finest if isinstance(network, Hierarchy) else network


@torch.no_grad()
def start_from(objective: Objective, weights: Weights) -> str:
    """Put weights into an objective where names and shapes agree; what was done, in a sentence.

    An objective with two views agrees with the one without. Everything else stays as it was
    initialised, except that a teacher without weights of its own starts as its student does.

    Raises:
        LatentcastError: nothing agrees.
    """
    own = objective.state_dict()
    sources = {name: _in(weights, name) for name in own}
    loaded = {
        name: weights.tensors[source] for name, source in sources.items()
        if source is not None and weights.tensors[source].shape == own[name].shape
    }  # fmt: skip
    if not loaded:
        raise LatentcastError(
            f"{weights.source}: none of its {len(weights.tensors)} tensors agrees in name and "
            f"shape with one of this objective's {len(own)}; start from a run of the same kind of "
            "objective and encoder"
        )
    for name, tensor in loaded.items():
        own[name].copy_(tensor)
    names = {id(tensor): name for name, tensor in _tensors(objective)}
    copied = []
    for student, teacher in objective.ema_pairs():
        for (_, ours), (_, theirs) in zip(_tensors(student), _tensors(teacher), strict=True):
            if names[id(ours)] in loaded and names[id(theirs)] not in loaded:
                theirs.copy_(ours)
                copied.append(names[id(theirs)])
    initial = [name for name in own if name not in loaded and name not in copied]
    used = {sources[name] for name in loaded}
    unused = [name for name in weights.tensors if name not in used]
    parts = [f"{len(loaded)} of {len(own)} tensors loaded ({_first(loaded)})"]
    if copied:
        parts.append(f"{len(copied)} of the teacher copied from the student ({_first(copied)})")
    if initial:
        parts.append(f"{len(initial)} left at initialisation ({_first(initial)})")
    if unused:
        parts.append(f"{len(unused)} of the source not used ({_first(unused)})")
    return f"start from {weights.source}, step {weights.step}: " + "; ".join(parts)


def _in(weights: Weights, name: str) -> str | None:
    """The name in some weights of a tensor of an objective; with two views the objective itself is
    their ``base``."""
    names = (name, name.removeprefix("base."), f"base.{name}")
    return next((other for other in names if other in weights.tensors), None)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def _first(names: Iterable[str]) -> str:
    several = list(names)
    return ", ".join(several[:SHOWN]) + " ..." * (len(several) > SHOWN)
