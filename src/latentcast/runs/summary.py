"""A run in one line: what its files say about how far it is, how well it does, what went wrong."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

from latentcast.errors import LatentcastError
from latentcast.locks import is_locked
from latentcast.monitors import rows
from latentcast.places import refuse_model
from latentcast.runs.folder import LOCK, PARTS, TUNED, RunFolder, find, run_of
from latentcast.runs.scores import ProbeScore, newest, scores_of, tuned_score

State = Literal["done", "running?", "stopped", "damaged"]

QUIET_SECONDS: Final = 120.0
"""A folder that was not written to for longer, and for longer than three of its rows took, is
called stopped where it has no lock to look at: files cannot say that a process is alive, only that
something wrote lately."""


@dataclass(frozen=True)
class RunSummary:
    """One run. A number that its files do not hold is None.

    Attributes:
        name: the folder, relative to the one it was found below when there was only one.
        recipe, objective: of the configuration; the objective's kind.
        step, steps: of the last row or checkpoint, and of the whole run.
        checkpoint: step of the newest checkpoint, from where the run would go on.
        state: done (the last step has its checkpoint, or a fine-tuning its score), running?
            (locked or written to lately), stopped, or damaged (the configuration cannot be read,
            or nothing else can).
        loss: of the last row; None also when it was not finite.
        ranks: effective rank of the representation of each level, finest first.
        alarms: names of all that were raised; ``alarms_now`` of those in the last row.
        skipped: updates that were given up.
        samples_per_second: median of the rows.
        scores: of the probes in the folder, and of a fine-tuning its own.
        written: when the training last wrote, seconds since 1970.
        bytes: on disk, checkpoints and all.
        problems: what is wrong with its files, one sentence each.
    """

    folder: RunFolder
    name: str
    recipe: str | None
    objective: str | None
    step: int
    steps: int | None
    checkpoint: int | None
    state: State
    loss: float | None
    ranks: tuple[float, ...]
    alarms: tuple[str, ...]
    alarms_now: tuple[str, ...]
    skipped: int
    samples_per_second: float | None
    scores: tuple[ProbeScore, ...]
    written: float
    bytes: int
    problems: tuple[str, ...]

    @property
    def best(self) -> ProbeScore | None:
        """The probe's score that its validation split prefers; its value is of the test split."""
        scored = [score for score in newest(self.scores) if score.validation is not None]
        return max(scored, key=lambda score: score.validation or 0.0, default=None)

    def as_json(self) -> dict[str, Any]:
        """Plain values, ``best`` and the path among them."""
        hidden = {"folder", "scores"}
        plain = {name: value for name, value in vars(self).items() if name not in hidden}
        best = self.best
        return plain | {
            "path": str(self.folder.path),
            "scores": [score.as_json() for score in self.scores],
            "best": best.as_json() if best else None,
        }


def list_runs(folders: Sequence[Path]) -> list[RunSummary]:
    """The runs below some folders, each once, in the order they were found.

    Raises:
        LatentcastError: a folder does not exist, or there is no run at all. A damaged run is no
            error: its row says what is wrong.
    """
    found: dict[str, RunSummary] = {}
    for folder in folders:
        folder = run_of(folder)
        refuse_model(
            folder, "without the log of its run; latentcast inspect {} prints what it holds"
        )
        if not folder.is_dir():
            raise LatentcastError(f"{folder}: is no folder; name one that holds runs")
        for path in find(folder):
            # Below one folder the rest of the path tells runs apart, below several all of it.
            name = str(path if len(folders) > 1 else path.relative_to(folder))
            name = path.resolve().name if name == "." else name
            found.setdefault(str(path.resolve()), summarise(path, name))
    if not found:
        raise LatentcastError(
            f"{', '.join(map(str, folders))}: no run below; a run is a folder that "
            "latentcast train --out wrote"
        )
    return list(found.values())


def summarise(path: Path, name: str | None = None, now: float | None = None) -> RunSummary:
    """What the files of one run folder say; ``now`` is seconds since 1970, this moment by default.

    Never raises over what it finds there.
    """
    run = RunFolder.read(path)
    last: Mapping[str, Any] = run.rows[-1] if run.rows else {}
    newest = max(run.checkpoints, default=None)
    step = max(int(last.get("step", 0)), newest or 0)
    steps = _count(_under(run.tree, "train", "steps"))
    scores, problems = _scores(run)
    written = _written(path)
    quiet = (time.time() if now is None else now) - written
    locked = is_locked(path / LOCK)
    state: State = "stopped"
    if not run.tree or (run.problems and not run.rows and newest is None):
        state = "damaged"
    elif run.tuned or (steps is not None and newest is not None and newest >= steps):
        state = "done"
    elif locked or (locked is None and quiet < max(QUIET_SECONDS, 3 * _seconds_of_a_row(run.rows))):
        state = "running?"
    rates = _numbers(row.get("samples_per_second") for row in run.rows)
    record = run.checkpoints[newest] if newest is not None else {}
    return RunSummary(
        folder=run,
        name=path.name if name is None else name,
        recipe=_text(run.tree.get("recipe")),
        objective=_text(_under(run.tree, "objective", "kind")),
        step=step,
        steps=steps,
        checkpoint=newest,
        state=state,
        loss=rows.number(last.get("loss")),
        ranks=rows.ranks(last),
        alarms=tuple(dict.fromkeys(name for row in run.rows for name in _alarms(row))),
        alarms_now=_alarms(last),
        skipped=max(_count(last.get("skipped")) or 0, _count(record.get("skipped")) or 0),
        samples_per_second=statistics.median(rates) if rates else None,
        scores=scores,
        written=written,
        bytes=_bytes(path),
        problems=(*run.problems, *problems),
    )


def _scores(run: RunFolder) -> tuple[tuple[ProbeScore, ...], tuple[str, ...]]:
    """Of all probes in the folder, and a problem for each that this version cannot read."""
    scores: list[ProbeScore] = []
    problems = []
    for name, probe in run.probes.items():
        try:
            scores += scores_of(probe)
        except LatentcastError as problem:
            problems.append(f"{name}: {problem}")
    try:
        scores += [tuned_score(run.tuned)] if run.tuned else []
    except LatentcastError as problem:
        problems.append(f"{TUNED}: {problem}")
    return tuple(scores), tuple(problems)


def _written(path: Path) -> float:
    """When the training last wrote, seconds since 1970; a later probe or report is not meant."""
    times = []
    for part in PARTS:
        try:
            times.append((path / part).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def _bytes(path: Path) -> int:
    size = 0
    for root, _, files in os.walk(path):
        for name in files:
            try:
                size += (Path(root) / name).lstat().st_size
            except OSError:  # a training that goes on removes old checkpoints meanwhile
                continue
    return size


def _seconds_of_a_row(rows: Sequence[Mapping[str, Any]]) -> float:
    """The clock of the rows starts anew with each resume: only what it gained counts."""
    seconds = _numbers(row.get("seconds") for row in rows[-4:])
    gained = [b - a for a, b in pairwise(seconds) if b > a]
    return max(gained, default=0.0)


def _under(tree: Mapping[str, Any], section: str, name: str) -> Any:
    keys = tree.get(section)
    return keys.get(name) if isinstance(keys, Mapping) else None


def _alarms(row: Mapping[str, Any]) -> tuple[str, ...]:
    names = row.get("alarms")
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _numbers(values: Iterable[Any]) -> list[float]:
    return [number for value in values if (number := rows.number(value)) is not None]


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
