"""Three claims small enough to see through."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.nepa import Nepa
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, true
from latentcast.verification.observe.twin import Twin

broken: set[str] = set()
"""Ids of claims that a test wants to fail."""


def is_nepa(twin: Twin) -> bool:
    return not isinstance(twin.config.objective, JepaConfig)


@claim("loss.formula", "The loss is the paper's <formula>.", source="NEPA, eq. 1", about=is_nepa)
def loss(twin: Twin) -> Evidence:
    objective, inputs, draw = twin.objective(), twin.inputs(), twin.draw()
    assert isinstance(objective, Nepa)
    with torch.no_grad():
        measured = float(objective(inputs, draw).loss)
        z = objective.student.embed(inputs.values)
        h = objective.student.transform(z, tuple(inputs.values.shape[2:]), draw)
        naive = -float(F.cosine_similarity(h[:, :-1].double(), z[:, 1:].double(), dim=-1).mean())
    gap = abs(measured - naive)
    return all_of(at_most("difference", gap, 1e-5), measured=measured, expected=naive)


@claim("data.batch", "A batch has six samples.", source="our design")
def batch(twin: Twin) -> Evidence:
    return equal("samples", len(twin.batch().ids), 6)


@claim("toy.wanted", "It holds as long as no test breaks it.", source="this test")
def wanted(twin: Twin) -> Evidence:
    holds = true("nothing broke it", "toy.wanted" not in broken)
    return all_of(holds, seed=twin.seed, **{"a | pipe": float("nan")})


@claim("masks.none", "It is about nothing.", source="this test", about=lambda twin: False)
def none(twin: Twin) -> Evidence:
    return equal("samples", 0, 1)


CLAIMS = (loss, batch, wanted, none)
