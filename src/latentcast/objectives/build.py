"""From a configuration to its objective; a new objective is one line in :data:`MODULES`."""

from __future__ import annotations

from importlib import import_module

from latentcast.config import OBJECTIVES, Config
from latentcast.objectives.base import Objective
from latentcast.objectives.views import TwoViews

MODULES = (
    "latentcast.objectives.nepa",
    "latentcast.objectives.jepa",
    "latentcast.objectives.masked",
    "latentcast.objectives.cpc",
    "latentcast.objectives.views",
    "latentcast.objectives.supervised",
)
"""Files and folders that register an objective."""

for module in MODULES:
    import_module(module)


def build(config: Config) -> Objective:
    """The objective of a run, initialised from the run's seed."""
    objective = assemble(config)
    objective.initialise(config.train.seed)
    return objective


def assemble(config: Config) -> Objective:
    """The objective of a run, its weights not drawn yet."""
    kind: type[Objective] = OBJECTIVES.builder(config.objective)
    return kind.of(config) if config.objective.views is None else TwoViews.of(config)
