"""From a configuration to its objective."""

from __future__ import annotations

from latentcast.config import Config
from latentcast.objectives.base import Objective
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.nepa import Nepa


def build(config: Config) -> Objective:
    """The objective of a run, initialised from the run's seed."""
    objective = assemble(config)
    objective.initialise(config.train.seed)
    return objective


def assemble(config: Config) -> Objective:
    """The objective of a run, its weights not drawn yet."""
    match config.objective.kind:
        case "nepa":
            return Nepa.of(config)
        case "jepa":
            return Jepa.of(config)
