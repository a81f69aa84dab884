"""From a configuration and a store to a trained run: the pieces put together, once."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch

from latentcast.config import Config
from latentcast.data.fit import fitted, reading
from latentcast.data.opening import open_store
from latentcast.data.staging import staged
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.loop import train
from latentcast.engine.ranks import Ranks, joined_ranks
from latentcast.monitors.journal import Journal
from latentcast.monitors.online import Panel
from latentcast.objectives.base import Objective
from latentcast.objectives.build import assemble, build
from latentcast.runs.new import alone_in, open_run


def pretrain(config: Config, data: Path, run: Path) -> State:
    """Train a configuration on a store, or go on where the run was interrupted.

    Args:
        config: resolved; its normalisation is filled in from the store when it has none.
        data: folder of the store.
        run: folder to write to; made when absent.

    Raises:
        LatentcastError: the store does not fit the configuration or is damaged, the run folder
            belongs to another configuration or cannot be written.
    """
    with joined_ranks(config.machine.device) as ranks, ExitStack() as held:
        store = open_store(data)
        config = fitted(config, store)
        if ranks.first:
            open_run(run, config, store)
            held.enter_context(alone_in(run))
        ranks.wait()
        objective = _built(config, ranks)
        if (stage := config.machine.stage) is not None:
            store = open_store(staged(store.path, stage))
        loader, preprocess = reading(store, config, (ranks.rank, ranks.size))
        panel = Panel.of(store, config)

        def look(step: int, context: Context) -> dict[str, float]:
            return panel.look(objective, preprocess, context) if panel.due(step) else {}

        flops = objective.step_flops(config.input.size)
        with Journal(run, config, flops, ranks, look) as journal:
            journal.say(panel.summary)
            return train(objective, preprocess, loader.stream, config, run, [journal], ranks)


def _built(config: Config, ranks: Ranks) -> Objective:
    """With its weights, or, to be drawn in shards, with their shapes alone."""
    if ranks.size == 1 or config.machine.parallel == "ddp":
        return build(config)
    with torch.device("meta"):
        return assemble(config)
