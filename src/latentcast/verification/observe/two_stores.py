"""Sources whose features are written here, and their tasks on two stores."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.evaluation.concatenation import Concatenation
from latentcast.evaluation.question import Group, Member
from latentcast.evaluation.tasks.base import Kind, Targets
from latentcast.verification.observe.answers import (
    NAMES,
    SCALE,
    Answers,
    Written,
    answers,
    elsewhere,
)
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
RESAMPLES, SEED, DRAWS, SHOTS, DROPPED = 6, 2, 2, 4, 5
EXTRA = {"multi-label": "not trained", "multi-class": "violet", "regression": ""}


class Two:
    """A source of two stores, of which each sample says where it is from.

    Of recordings without some leads the tokens are shifted by which these are; where both the first
    and the fourth are missing, none is valid.
    """

    causal = False

    def __init__(self, parts: tuple[Answers, Answers], name: str, noise: Mapping[str, float],
                 seed: int) -> None:  # fmt: skip
        self.parts = tuple(Written(one, name, noise, seed + n) for n, one in enumerate(parts))
        first = self.parts[0]
        self.name, self.layer_names = name, first.layer_names
        self.leads, self.sampling_rate = first.leads, first.sampling_rate
        self.scale, self.length = SCALE, first.length

    def token_layers(self, samples: Any) -> tuple[list[Tensor], Tensor]:
        samples = np.ascontiguousarray(samples)
        for part in self.parts:
            if samples[0].tobytes() in part.answers.samples:
                return part.token_layers(samples)
        return self._incomplete(samples)

    def _incomplete(self, samples: Array) -> tuple[list[Tensor], Tensor]:
        own = self.parts[0]
        every = np.array([np.frombuffer(key, np.int16).reshape(samples.shape[1:])
                          for key in own.answers.samples])  # fmt: skip
        missing = (samples == -32768).all(1)
        filled = []
        for sample, without in zip(samples, missing, strict=True):
            same = (every[:, :, ~without] == sample[:, ~without]).all((1, 2))
            filled.append(every[int(same.argmax())])
        layers, valid = own.token_layers(np.stack(filled))
        shift, unread = (torch.from_numpy(part) for part in of_missing(missing))
        valid = valid & ~unread[:, None]
        return [layer + shift[:, None, None] for layer in layers], valid


def of_missing(missing: Array) -> tuple[Array, Array]:
    """By which the tokens of each are shifted, and whether it has none; of flags ``(N, leads)``."""
    shift = (missing * np.linspace(-1, 1, missing.shape[1])).sum(1).astype(np.float32)
    return shift, np.asarray(missing[:, 0] & missing[:, 3])


def targets_elsewhere(other: Answers, kind: Kind) -> Targets:
    """The same labels in another order, and one more."""
    own = other.targets(kind)
    if kind == "regression":
        return own
    names = (EXTRA[kind], *reversed(NAMES[kind]))
    if kind == "multi-class":
        values = np.where(np.arange(len(own.values)) % 7 == 1, 0, len(names) - 1 - own.values)
    else:
        values = np.concatenate([own.values[:, :1], own.values[:, ::-1]], 1)
    return Targets(values, own.mask, names, kind)


def task_of(twin: Twin, kind: Kind) -> Any:
    own = answers(twin)

    def targets(store: Any) -> Targets:
        first = store.path == own.store.path
        return own.targets(kind) if first else targets_elsewhere(elsewhere(twin), kind)

    return SimpleNamespace(name=kind, targets=targets)


def sources_of(twin: Twin) -> list[Group]:
    both, layers = (answers(twin), elsewhere(twin)), {"lower": 1.0, "upper": 0.5}
    trained = [Two(both, f"trained {n}", layers, 10 * n) for n in range(2)]
    floor = Two(both, "floor", {"only": 1.5}, 70)
    joined: Any = Concatenation(trained[0], floor)
    return [
        Group("floor", "baseline", (_member(floor, "", None),)),
        Group("trained", "pretrained", tuple(_member(one, f"run {n}", n)
                                             for n, one in enumerate(trained))),
        Group("both", "concatenated", (_member(joined, "run 0", 0),)),
    ]  # fmt: skip


def _member(reads: Any, run: str, seed: int | None) -> Member:
    return Member(reads, run, seed, (), {"run": run})
