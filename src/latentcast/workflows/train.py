"""From a configuration and a store to a trained run: the pieces put together, once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

import torch

from latentcast.artifacts.weights import Weights, read_weights, start_from
from latentcast.config import Config, resolve
from latentcast.config.resolve import Flags
from latentcast.data.fit import fitted, reading
from latentcast.data.staging import staged
from latentcast.data.store import Store
from latentcast.engine import loop
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import list_steps
from latentcast.engine.context import Context
from latentcast.engine.ranks import Ranks, joined_ranks
from latentcast.errors import LatentcastError
from latentcast.files import apart
from latentcast.monitors.forecast import forecast
from latentcast.monitors.journal import Journal
from latentcast.monitors.online import Panel
from latentcast.objectives.base import Objective
from latentcast.objectives.build import assemble, build
from latentcast.recipes import recipe
from latentcast.runs.new import alone_in, note_changes, open_run, trained_on


@dataclass(frozen=True)
class TrainResult:
    """Where a training ended.

    Attributes:
        run: its folder.
        config: as it was trained, with the normalisation of the store.
        step: optimizer steps done; fewer than ``config.train.steps`` after a signal.
        skipped: batches left out because the gradient was not finite.
    """

    run: Path
    config: Config
    step: int
    skipped: int


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a training, after the step in hand was saved; ``result`` says which."""

    def __init__(self, result: TrainResult) -> None:
        super().__init__(
            f"{result.run}: stopped at step {result.step}; the same call goes on from there"
        )
        self.result = result


def train(
    config: Config | str,
    data: str | Path | Store,
    out: str | Path,
    *,
    set: Flags = (),
    callbacks: Sequence[Callback] = (),
    init: str | Path | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Train a configuration on a store, or go on where the run was interrupted.

    Args:
        config: resolved, or the name of a recipe; its normalisation is filled in from the store
            when it has none.
        data: the store, or its folder.
        out: run folder to write to; made when absent. The same call on a run that was interrupted
            goes on from its newest checkpoint and ends with the same bits. With more
            ``train.steps`` a finished run trains on, its schedules from there over the new total;
            the intervals of logging and saving may change as well.
        set: single keys, as ``["optimizer.lr=3e-4"]`` or ``{"optimizer.lr": 3e-4}``; come before
            everything.
        callbacks: instances, called after each step and around the training; see
            :class:`~latentcast.engine.callbacks.Callback`.
        init: run folder or exported file whose weights training starts from, where names and
            shapes agree; recorded as ``train.init``. A run that goes on does not load it again.
        quiet: print nothing; ``metrics.jsonl`` in the run has it all.

    Raises:
        LatentcastError: the store does not fit the configuration or is damaged, the run folder
            belongs to another configuration or cannot be written, or nothing of ``init`` fits.
        KeyboardInterrupt: after Ctrl-C, once the step in hand is saved.
    """
    config = recipe(config) if isinstance(config, str) else config
    _check_callbacks(callbacks)
    data = data.path if isinstance(data, Store) else data
    # Not Path's own, which raises where there is no such user.
    run, data = (Path(expanduser(path)) for path in (out, data))  # noqa: PTH111
    apart(run, store=data, init=init)
    config = resolve(config, flags=set)
    if init is not None:
        config = config.updated({"train.init": str(init)})
    with joined_ranks(config.machine.device) as ranks, ExitStack() as stack:
        store = Store.open(data)
        config, longer = trained_on(run, fitted(config, store))
        weights = None
        if config.train.init is not None and not list_steps(run / "checkpoints"):
            weights = read_weights(config.train.init)
        objective, summary = _built(config, ranks, weights)
        loader, preprocess = reading(store, config, (ranks.rank, ranks.size))

        def look(step: int, context: Context) -> dict[str, float]:
            return panel.look(objective, preprocess, context) if panel.due(step) else {}

        journal = Journal(run, config, objective.step_flops(config.input.size), ranks, look, quiet)
        if ranks.first and not quiet:  # before the store is verified, which may take minutes
            context = Context.of(config, ranks)
            for line in forecast(objective, preprocess, loader, config, context):
                journal.say(line)
        if ranks.first:
            open_run(run, config, store, None if weights is None else weights.record)
            stack.enter_context(alone_in(run))
            note_changes(run, config)
        ranks.wait()
        if (stage := config.machine.stage) is not None:
            store = Store.open(staged(store.path, stage))
            loader, preprocess = reading(store, config, (ranks.rank, ranks.size))
        panel = Panel.of(store, config)
        with journal:
            for line in filter(None, (longer, *summary, panel.summary)):
                journal.say(line)
            listeners = [journal, *callbacks]
            state = loop.train(objective, preprocess, loader.stream, config, run, listeners, ranks)
    result = TrainResult(run, config, state.step, state.skipped)
    if state.stopped == "SIGINT" and state.step < config.train.steps:
        raise Interrupted(result)
    return result


def _check_callbacks(callbacks: object) -> None:
    if isinstance(callbacks, Sequence) and all(isinstance(c, Callback) for c in callbacks):
        return
    wrong = callbacks
    if isinstance(callbacks, Sequence):
        wrong = next(c for c in callbacks if not isinstance(c, Callback))
    what = f"class {wrong.__name__}" if isinstance(wrong, type) else type(wrong).__name__
    raise LatentcastError(
        f"callbacks: hold a {what}; they are a list of instances of subclasses of "
        "latentcast.engine.callbacks.Callback, as in callbacks=[Mine()]"
    )


def _built(
    config: Config, ranks: Ranks, weights: Weights | None
) -> tuple[Objective, tuple[str, ...]]:
    """With its weights, or, to be drawn in shards, with their shapes alone; and what was loaded."""
    if weights is not None:
        objective = build(config)
        return objective, (start_from(objective, weights),)
    if ranks.size == 1 or config.machine.parallel == "ddp":
        return build(config), ()
    with torch.device("meta"):
        return assemble(config), ()
