"""Several seeds of one configuration: each begins, and the best goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from latentcast.config import Config
from latentcast.engine.callbacks import Callback
from latentcast.errors import LatentcastError, printable
from latentcast.files import digested, write_text
from latentcast.monitors.early import end_of_first_tenth, merit, warnings
from latentcast.monitors.journal import read_metrics
from latentcast.runs.new import steps_done
from latentcast.workflows.train import TrainResult, train

RECORD = "seeds.json"
Keep = Literal["best", "all"]


class FirstTenth(Callback):
    """Ends a training after the first tenth of its steps."""

    def __init__(self, steps: int) -> None:
        self._end = end_of_first_tenth(steps)

    def wants(self, step: int) -> bool:
        return step == self._end

    def enough(self, step: int) -> bool:
        return step >= self._end


def train_seeds(
    config: Config,
    data: str | Path,
    out: str | Path,
    seeds: int,
    keep: Keep = "best",
    *,
    init: str | Path | None = None,
    quiet: bool = False,
) -> list[TrainResult]:
    """Train ``OUT/seed-N`` for each of several seeds, from ``train.seed`` upwards.

    To keep the best, each is trained for the first tenth of its steps. One that goes wrong there is
    out (:mod:`latentcast.monitors.early`); of the others that with the best online score goes on to
    the end, or, without labels, that with the highest rank. ``OUT/seeds.json`` says why. The same
    call goes on after an interruption and chooses the same: the choice is a function of the logs.

    Returns:
        what was trained to the end.

    Raises:
        LatentcastError: all of them go wrong, or what :func:`~latentcast.workflows.train.train`
            refuses.
    """
    if seeds < 1:
        raise LatentcastError(f"--seeds {seeds}: trains nothing; give 1 or more")
    out, steps = Path(out), config.train.steps
    numbers = range(config.train.seed, config.train.seed + seeds)
    configs = {seed: config.updated({"train.seed": seed}) for seed in numbers}
    runs = {seed: out / f"seed-{seed}" for seed in numbers}
    if keep == "best":
        for seed, run in runs.items():
            if steps_done(run) < end_of_first_tenth(steps):
                first = [FirstTenth(steps)]
                train(configs[seed], data, run, callbacks=first, init=init, quiet=quiet)
        best = _best(out, runs, steps)
        if not quiet:
            print(printable(f"{out}: seed {best} goes on; {RECORD} says why"))
        runs = {best: runs[best]}
    return [train(configs[seed], data, run, init=init, quiet=quiet) for seed, run in runs.items()]


def _best(out: Path, runs: dict[int, Path], steps: int) -> int:
    """The seed that goes on; why is written down."""
    logs = {seed: read_metrics(run) for seed, run in runs.items()}
    wrong: dict[int, Sequence[str]] = {seed: warnings(rows, steps) for seed, rows in logs.items()}
    sound = [seed for seed in runs if not wrong[seed]]
    if not sound:
        raise LatentcastError(
            f"{out}: every seed goes wrong in its first tenth ({_reasons(wrong)}); lower "
            f"optimizer.lr with another --out, or go on with one: latentcast train "
            f"{runs[min(runs)]}"
        )
    merits = {seed: merit(logs[seed], steps) for seed in runs}
    best = max(sound, key=lambda seed: (merits[seed], -seed))
    seeds: dict[str, Any] = {
        str(seed): {"warnings": wrong[seed], "online_linear, rank": merits[seed]} for seed in runs
    }
    content = {"step": end_of_first_tenth(steps), "seeds": seeds, "kept": best}
    try:
        write_text(out / RECORD, json.dumps(digested(content), indent=1) + "\n")
    except OSError as problem:
        raise LatentcastError(
            f"{out}: cannot be written ({problem}); free space or make the folder writable, and "
            "give the same command"
        ) from None
    return best


def _reasons(wrong: dict[int, Sequence[str]]) -> str:
    return "; ".join(f"seed {seed}: {', '.join(found)}" for seed, found in wrong.items())
