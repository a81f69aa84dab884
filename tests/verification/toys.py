"""Three claims and their faults, small enough to see through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from latentcast.objectives import nepa
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.nepa import Nepa
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.twin import Subject

broken: set[str] = set()
"""Ids of claims that a test wants to fail."""


def is_nepa(subject: Subject) -> bool:
    return not isinstance(subject.config.objective, JepaConfig)


def _loss(subject: Subject) -> Evidence:
    objective, inputs, draw = subject.objective(), subject.inputs(), subject.draw()
    assert isinstance(objective, Nepa)
    with torch.no_grad():
        told = float(objective(inputs, draw).loss)
        z = objective.student.embed(inputs.values)
        h = objective.student.transform(z, tuple(inputs.values.shape[2:]), draw)
        naive = -float(F.cosine_similarity(h[:, :-1].double(), z[:, 1:].double(), dim=-1).mean())
    gap = abs(told - naive)
    return Evidence(gap <= 1e-5, {"measured": told, "expected": naive, "difference": gap})


def _batch(subject: Subject) -> Evidence:
    return Evidence(len(subject.batch().ids) == 6, {"samples": len(subject.batch().ids)})


def _wanted(subject: Subject) -> Evidence:
    return Evidence("toy.wanted" not in broken, {"seed": subject.seed, "a | pipe": float("nan")})


CLAIMS = (
    Claim("loss.formula", "The loss is the paper's <formula>.", "NEPA, eq. 1", _loss, is_nepa),
    Claim("data.batch", "A batch has six samples.", "our design", _batch),
    Claim("toy.wanted", "It holds as long as nobody wants it broken.", "this test", _wanted),
    Claim("masks.none", "Nobody is asked.", "this test", _batch, lambda subject: False),
)


def _replacing(make: Callable[[Any], Any]) -> Callable[[], contextlib.AbstractContextManager[None]]:
    return lambda: replaced(nepa, "cosine", make)


@contextlib.contextmanager
def _wanting() -> Iterator[None]:
    broken.add("toy.wanted")
    try:
        yield
    finally:
        broken.discard("toy.wanted")


def _fails(a: Any, b: Any) -> Any:
    raise ValueError("wrong shape")


SIGN = Fault(
    "loss.sign",
    "The similarity itself is minimised.",
    "a classic",
    _replacing(lambda was: lambda a, b: -was(a, b)),
    ("loss.formula",),
    is_nepa,
)
WANTED = Fault("toy.wanted", "Somebody wants it.", "this test", _wanting, ("toy.wanted",))
SILENT = Fault(
    "loss.silent", "Nothing changes.", "this test", _replacing(lambda was: was), ("loss.formula",)
)
CRASH = Fault(
    "loss.crash", "It falls over.", "this test", _replacing(lambda was: _fails), ("loss.formula",)
)
ELSEWHERE = Fault("ema.nobody", "Only a claim that is not about it could tell.", "this test",
                  _replacing(lambda was: was), ("masks.none",))  # fmt: skip
