"""The objectives, a file or a folder each; a new one is one line in :data:`KINDS`."""

from __future__ import annotations

from latentcast.config import OBJECTIVES, Config
from latentcast.objectives.base import Objective
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.nepa import Nepa

KINDS: tuple[type[Objective], ...] = (
    Nepa,
    Jepa,
)

for objective in KINDS:
    OBJECTIVES.register(objective)


def build(config: Config) -> Objective:
    """The objective of a run, initialised from the run's seed."""
    assembled = assemble(config)
    assembled.initialise(config.train.seed)
    return assembled


def assemble(config: Config) -> Objective:
    """The objective of a run, its weights not drawn yet."""
    kind: type[Objective] = OBJECTIVES.builder(config.objective)
    return kind.of(config)
