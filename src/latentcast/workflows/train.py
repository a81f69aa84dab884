"""From a configuration and a store to a trained run: the pieces put together, once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

import torch

from latentcast.artifacts.weights import Weights, encoder_weights, read_weights, start_from
from latentcast.config import Config, resolve
from latentcast.config.resolve import Flags
from latentcast.data.fit import fitted
from latentcast.data.flags import keep
from latentcast.data.staging import staged
from latentcast.data.store import Store
from latentcast.engine import loop
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import list_steps
from latentcast.engine.context import Context
from latentcast.engine.ranks import Ranks, joined_ranks
from latentcast.errors import LatentcastError, printable
from latentcast.evaluation.supervision import of_config, reading_of
from latentcast.files import apart
from latentcast.monitors.forecast import forecast
from latentcast.monitors.journal import Journal
from latentcast.monitors.online import Panel
from latentcast.monitors.validation import EarlyStopping, Validation
from latentcast.objectives.base import Objective
from latentcast.objectives.build import assemble, build
from latentcast.objectives.supervised import Supervised
from latentcast.places import is_store
from latentcast.recipes import recipe
from latentcast.runs.new import alone_in, note_changes, open_run, steps_done, trained_on
from latentcast.signatures import checked

LARGE = 2**31
"""Bytes of a store whose comparison with its checksums takes so long that a line announces it."""


@dataclass(frozen=True)
class TrainResult:
    """Where a training ended.

    Attributes:
        run: its folder.
        config: as it was trained, with the normalisation of the store.
        step: optimizer steps done; fewer than ``config.train.steps`` in the ``result`` of
            :class:`Interrupted` and :class:`Terminated`, and where ``objective.patience`` ran out
            or a callback had enough.
        skipped: batches left out because the gradient was not finite.
    """

    run: Path
    config: Config
    step: int
    skipped: int

    def __repr__(self) -> str:
        done = f"{self.config.recipe}, step {self.step} of {self.config.train.steps}"
        skipped = f", {self.skipped} skipped" * bool(self.skipped)
        return f"TrainResult({str(self.run)!r}: {done}{skipped})"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a training, after the step in hand was saved; ``result`` says which."""

    def __init__(self, result: TrainResult) -> None:
        super().__init__(f"{_stopped(result)}; the same call goes on from there")
        self.result = result


class Terminated(SystemExit):
    """Another signal that stops a training, after the step in hand was saved.

    A script that does not catch it ends here, with the status of a process that the signal ended,
    instead of going on with a model that is half trained.

    Attributes:
        result: the step that was saved.
        code: 128 + the number of the signal.
    """

    def __init__(self, result: TrainResult, number: signal.Signals) -> None:
        super().__init__(f"{_stopped(result)}; the same command goes on from there")
        self.result, self.code = result, 128 + number


def _stopped(result: TrainResult) -> str:
    return printable(f"{result.run}: stopped at step {result.step}")


@checked
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
        set: single keys, as ``["optimizer.lr=3e-4"]`` or ``{"optimizer.lr": 3e-4}``; take
            precedence over everything else.
        callbacks: instances, as ``[Mine()]``, called after each step and around the training; see
            :class:`~latentcast.engine.callbacks.Callback`.
        init: run folder or exported file whose weights training starts from, where names and
            shapes agree; recorded as ``train.init``. A run that goes on does not load it again.
        quiet: print nothing; ``metrics.jsonl`` in the run has it all.

    Raises:
        LatentcastError: the store does not fit the configuration or is damaged, the run folder
            belongs to another configuration or cannot be written, or nothing of ``init`` fits.
        Interrupted: a KeyboardInterrupt, after Ctrl-C, once the step in hand is saved.
        Terminated: a SystemExit with status 128 + signal, likewise after SIGTERM, SIGHUP or
            SIGUSR1.
    """
    config = recipe(config) if isinstance(config, str) else config
    data = data.path if isinstance(data, Store) else data
    # Not Path's own, which raises where there is no such user.
    run, data = (Path(expanduser(path)) for path in (out, data))  # noqa: PTH111
    apart(run, store=data, init=init)
    if is_store(Path(run)):
        raise LatentcastError(f"{run}: is a store; choose another --out for the run")
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
        labels, share = of_config(config.objective, store), (ranks.rank, ranks.size)
        loader, preprocess = reading_of(store, config, labels, share)

        def look(step: int, context: Context) -> dict[str, float]:
            found = panel.look(objective, preprocess, context) if panel.due(step) else {}
            early.record(step, found)
            return found

        early = EarlyStopping.of(run, config)
        journal = Journal(run, config, objective.step_flops(config.input.size), ranks, look, quiet)
        shards = [store.path / file for file in store.checksums]
        size = sum(file.stat().st_size for file in shards if file.is_file())
        if ranks.first and not quiet and size > LARGE:
            line = f"train: comparing {size / 1e9:.1f} GB of {store.path} with its checksums"
            print(printable(line), file=sys.stderr)
        if ranks.first:
            open_run(run, config, store, None if weights is None else weights.record)
            stack.enter_context(alone_in(run))
            note_changes(run, config)
            # After every refusal; a finished run takes no time any more.
            if not quiet and steps_done(run) < config.train.steps:
                context = Context.of(config, ranks)
                for line in forecast(objective, preprocess, loader, config, context):
                    journal.say(line)
        ranks.wait()
        if (stage := config.machine.stage) is not None:
            store = Store.open(staged(store.path, stage))
            loader, preprocess = reading_of(store, config, labels, share)
        panel = Panel.of(store, config) if labels is None else Validation(config, labels)
        with journal:
            rows = store.rows("train") if labels is None else labels.rows["train"]
            left_out = keep(store, rows, config.train.leave_out).summary
            for line in filter(None, (longer, left_out, *summary, panel.summary)):
                journal.say(line)
            listeners = [journal, early, *callbacks]
            state = loop.train(objective, preprocess, loader.stream, config, run, listeners, ranks)
    result = TrainResult(run, config, state.step, state.skipped)
    ended = any(listener.enough(state.step) for listener in listeners)
    if state.step == config.train.steps or (state.stopped is None and ended):
        return result
    if state.stopped == "SIGINT":
        raise Interrupted(result)
    # Where another rank was stopped this one has no signal of its own.
    terminated = Terminated(result, signal.Signals[state.stopped or "SIGTERM"])
    if ranks.first and not quiet:
        print(terminated, flush=True)
    raise terminated


def _built(
    config: Config, ranks: Ranks, weights: Weights | None
) -> tuple[Objective, tuple[str, ...]]:
    """With its weights, or, to be drawn in shards, with their shapes alone; and what was loaded."""
    if weights is not None:
        objective = build(config)
        supervised = weights.config.objective.kind == "supervised"
        if isinstance(objective, Supervised) != supervised:
            weights = encoder_weights(weights, objective)
        return objective, (start_from(objective, weights),)
    if ranks.size == 1 or config.machine.parallel == "ddp":
        return build(config), ()
    with torch.device("meta"):
        return assemble(config), ()
