"""Runs killed again and again (SIGKILL) against runs left alone: do they end in the same bits?

    python benchmarks/soak.py STORE [STORE ...] --out FOLDER [--kills 60] [--recipes ...]

Each recipe, made tiny, is trained once without interruption and once with its share of the kills,
by the command a user gives. Kills fall before the first step, between any two steps, into the
middle of a batch's micro-batches, and a good part of them into the writing of a checkpoint. Every
process reads with another number of readers (``machine.workers``). Then weights, teacher, moments,
counters and the log have to be equal, bit for bit. Prints one JSON object; exit status 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.engine import checkpoint
from latentcast.monitors.journal import TIMINGS, read_metrics
from latentcast.objectives.jepa import JepaConfig
from latentcast.recipes import recipe

RECIPES = ("nepa-ecg-tiny", "ijepa-image-digits", "hjepa-ecg-tiny")
EVERY = 4
"""Steps from one checkpoint to the next: short, so that much of the time goes into writing them."""
WORKERS = (0, 1, 4)
LOOK = 0.001
HITS = ("while starting", "while training", "inside a write", "inside a removal")
MOST_LOOKS = 300_000
"""At a process that gets no further, a millisecond apart and more, until that is a failure of
its own; not counted in seconds, for a busy machine stands still at times."""


@dataclass
class Kills:
    """What was done to a run, and what the kills hit.

    Attributes:
        hits: how many fell into the start of their process, into training, into the writing of a
            checkpoint and into the removal of an old one, as the remains show.
        resumed: the checkpoint each process went on from.
        workers: readers of each process.
    """

    hits: Counter[str] = field(default_factory=Counter)
    resumed: list[int] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)


def tiny(config: Config, kills: int) -> Config:
    """A recipe with all its parts and little of each, long enough for so many kills."""
    steps = steps_for(kills)
    narrow = {"encoder.width": 24, "encoder.depth": 2, "encoder.heads": 2, "encoder.mlp_width": 48,
              "encoder.drop_path": 0.2}  # fmt: skip
    changes: dict[str, Any] = narrow | {
        "optimizer.warmup_steps": steps // 4,
        "train.steps": steps,
        "train.batch_size": 6,
        "train.micro_batches": 3,
        "train.log_every": 3,
        "train.checkpoint_every": EVERY,
    }
    if isinstance(config.objective, JepaConfig):
        own = {"width": 16, "heads": 2, "mlp_width": 32}
        changes["objective.regularizer"] = None  # refuses micro-batches
        changes |= {f"objective.predictor.{k}": v for k, v in own.items()}
        for number in range(len(config.objective.coarser)):
            level = f"objective.coarser.{number}"
            changes |= {f"{level}.{k}": v for k, v in own.items()}
            changes |= {f"{level}.predictor.{k}": v for k, v in own.items()}
    return config.updated(changes)


def steps_for(kills: int) -> int:
    """Enough that no process ends before its kill, however long the one who kills is held up."""
    return EVERY * (2 * kills + 20)


def command(store: Path, run: Path, config: Path, *changes: str) -> list[str]:
    told = [sys.executable, "-m", "latentcast", "train", "--config", str(config),
            "--data", str(store), "--out", str(run)]  # fmt: skip
    return [*told, "--set", *changes] if changes else told


@dataclass
class Pace:
    """Seconds of a run left alone: to its start, from save to save, and of which one takes."""

    start: float
    period: float
    save: float


def left_alone(store: Path, run: Path, config: Path) -> Pace:
    """Train without interruption.

    Raises:
        RuntimeError: the command failed; in its words.
    """
    begun = time.monotonic()
    process = _process(command(store, run, config))
    _until(process, lambda: (run / "metrics.jsonl").exists())
    trains, looks, saving = time.monotonic(), 0, 0
    while process.poll() is None:
        looks, saving = looks + 1, saving + _saves(run)
        time.sleep(LOOK)
    if process.returncode:
        raise RuntimeError(process.communicate()[1])
    period = (time.monotonic() - trains) * EVERY / newest(run)
    return Pace(trains - begun, period, period * saving / looks)


def killed(store: Path, run: Path, config: Path, kills: int, seed: int, pace: Pace) -> Kills:
    """Start the command and kill it, so many times; then let it finish.

    Raises:
        RuntimeError: a process failed, finished before its kill, or came no further.
    """
    draws, done = random.Random(seed), Kills()
    # Two of five into a write, one of eight into the start, the rest anywhere.
    kinds = ["write"] * round(0.4 * kills) + ["start"] * round(kills / 8)
    kinds += ["step"] * (kills - len(kinds))
    draws.shuffle(kinds)
    # Each process gets at least so far: the run ends after a known number of kills on any machine.
    goals = sorted(draws.randrange(2 * kills * EVERY) for _ in kinds)
    for kind, goal in zip(kinds, goals, strict=True):
        _kill_once(store, run, config, kind, goal, draws, pace, done)
    readers = draws.choice(WORKERS)
    done.resumed.append(newest(run))
    done.workers.append(readers)
    process = _process(command(store, run, config, f"machine.workers={readers}"))
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(said)
    return done


def _kill_once(
    store: Path,
    run: Path,
    config: Path,
    kind: str,
    goal: int,
    draws: random.Random,
    pace: Pace,
    done: Kills,
) -> None:
    log = run / "metrics.jsonl"
    readers = draws.choice(WORKERS)
    done.resumed.append(newest(run))
    done.workers.append(readers)
    logged = _identity(log)
    with _process(command(store, run, config, f"machine.workers={readers}")) as process:
        try:
            if kind == "start":
                time.sleep(draws.random() * pace.start)
            else:
                # A resume puts the log in its place anew before the first step.
                _until(process, lambda: _identity(log) != logged and newest(run) >= goal)
            if kind == "step":
                time.sleep(draws.random() * pace.period)
            if kind == "write":
                _until(process, lambda: _saves(run))
                time.sleep(draws.random() * pace.save)
            if process.poll() is not None:
                raise RuntimeError(f"it ended before its kill: {process.communicate()[1]}")
        finally:
            process.kill()
    done.hits[_hit(run, trained=_identity(log) != logged)] += 1


def _hit(run: Path, trained: bool) -> str:
    if not trained:  # what lies there is of the kill before
        return "while starting"
    if _saves(run):
        return "inside a write"
    if _drafts(run):
        return "inside a removal"
    return "while training"


def _saves(run: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any(step > newest(run) for step in _drafts(run))


def _drafts(run: Path) -> list[int]:
    """Steps whose checkpoint is being written, or removed."""
    return [step_of(path) for path in (run / "checkpoints").glob(".draft-step-*")]


def step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def newest(run: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    return max(map(step_of, checkpoint.list_steps(run / "checkpoints")), default=0)


def _identity(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return None


def _process(arguments: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def _until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    for _ in range(MOST_LOOKS):
        if condition():
            return
        if process.poll() is not None:
            raise RuntimeError(f"it ended before its kill: {process.communicate()[1]}")
        time.sleep(LOOK)
    raise RuntimeError("it came no further")


def differing(one: Path, other: Path) -> list[str]:
    """Names of the tensors, counters and rows in which two finished runs differ."""
    ends = [checkpoint.latest(run / "checkpoints") for run in (one, other)]
    records = [checkpoint.read_record(end) for end in ends]
    found = [key for key in ("step", "skipped", "scale") if records[0][key] != records[1][key]]
    for which in ("model", "optimizer"):
        a, b = (checkpoint.read_tensors(end, which) for end in ends)
        found += sorted(a.keys() ^ b.keys())
        found += [name for name in sorted(a.keys() & b.keys()) if not torch.equal(a[name], b[name])]
    logs = [
        [{k: v for k, v in row.items() if k not in TIMINGS} for row in read_metrics(run)]
        for run in (one, other)
    ]
    if len(logs[0]) != len(logs[1]):
        found.append(f"rows of the log: {len(logs[0])} and {len(logs[1])}")
    found += [f"row of step {a['step']}" for a, b in zip(*logs, strict=False) if a != b]
    return found


def soak(name: str, store: Path, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """One recipe, left alone and killed; a row of the table."""
    config, begun = tiny(recipe(name), kills), time.monotonic()
    folder.mkdir(parents=True)
    file = folder / "config.yaml"
    file.write_text(config.to_yaml())
    pace = left_alone(store, folder / "alone", file)
    done = killed(store, folder / "killed", file, kills, seed, pace)
    differences = differing(folder / "alone", folder / "killed")
    record = checkpoint.read_record(checkpoint.latest(folder / "killed" / "checkpoints"))
    return {
        "recipe": name,
        "precision": config.train.precision,
        "steps": config.train.steps,
        "skipped": record["skipped"],
        "kills": kills,
        **{name: done.hits[name] for name in HITS},
        "resumed_from": done.resumed[1:],
        "workers": dict(sorted(Counter(done.workers).items())),
        "identical": not differences,
        "differing": differences[:20],
        "seconds": round(time.monotonic() - begun),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stores", nargs="+", type=Path, help="of recordings, of images, or both")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs, new")
    parser.add_argument("--kills", type=int, default=60, help="of all recipes together")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    of_images = {Store.open(store).modality == "image": store for store in arguments.stores}
    rows, parts = [], len(arguments.recipes)
    for number, name in enumerate(arguments.recipes):
        store = of_images[recipe(name).input.kind == "image"]
        share = arguments.kills // parts + (number < arguments.kills % parts)
        rows.append(soak(name, store, arguments.out / name, share, arguments.seed + number))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    told = {
        "benchmark": "soak",
        "command": " ".join(["python", "benchmarks/soak.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "kills": sum(row["kills"] for row in rows),
        "inside_a_write": sum(row.get("inside a write", 0) for row in rows),
        "identical": all(row["identical"] for row in rows),
        "recipes": rows,
    }
    print(json.dumps(told, indent=1))
    sys.exit(0 if told["identical"] else 1)


if __name__ == "__main__":
    main()
