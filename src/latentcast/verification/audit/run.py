"""What an audit looks at: the files of a run, read when they are needed; and what a check is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentcast import config as configuration
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.engine import checkpoint
from latentcast.files import read_text
from latentcast.objectives.base import Objective
from latentcast.objectives.build import assemble
from latentcast.runs.folder import check_config, read_environment
from latentcast.verification.evidence import Evidence

Row = dict[str, Any]


class Unmeasured(Exception):
    """A check that cannot be made here, and why: neither a success nor a failure."""


class Run:
    """The files of a run, read when they are needed.

    Args:
        data: where its store is now; where it was, by default.
        seconds: for which its last stretch may be trained again.
    """

    def __init__(self, path: Path, data: Path | None = None, seconds: float = 60.0) -> None:
        self.path, self._data, self.seconds = path, data, seconds
        self.config: Config = configuration.load(path / "config.yaml")
        check_config(path / "config.yaml")
        self.steps = checkpoint.list_steps(path / "checkpoints")

    @cached_property
    def rows(self) -> list[Row]:
        """As they stand in the file, neither sorted nor repaired; a cut last line is none."""
        text = read_text(self.path / "metrics.jsonl")
        lines = text.split("\n")
        return [json.loads(line) for line in lines[:-1]]  # a whole line ends with a newline

    @cached_property
    def environment(self) -> dict[str, Any]:
        return read_environment(self.path / "environment.json")

    def changes(self, key: str) -> list[dict[str, Any]]:
        """When the run was resumed under another value of a key, as ``[old, new]`` after a step."""
        return [change for change in self.environment.get("changed", ()) if key in change]

    def log_every(self, step: int) -> int:
        """As it was at a step."""
        later = (c["train.log_every"] for c in self.changes("train.log_every") if c["step"] >= step)
        return int(next(later, [self.config.train.log_every])[0])

    def some_rows(self) -> list[Row]:
        """The rows.

        Raises:
            Unmeasured: there is none.
        """
        if not self.rows:
            raise Unmeasured("there is no row yet")
        return self.rows

    @property
    def overtaken(self) -> bool:
        """Whether a checkpoint that was there is gone, and a newer one has come since."""
        now = checkpoint.list_steps(self.path / "checkpoints")
        return bool(set(self.steps) - set(now) and set(now) - set(self.steps))

    @cached_property
    def newest(self) -> Path:
        if not self.steps:
            raise Unmeasured("no checkpoint yet")
        return self.steps[-1]

    @cached_property
    def record(self) -> dict[str, Any]:
        return checkpoint.read_record(self.newest)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Of the newest checkpoint."""
        return checkpoint.read_tensors(self.newest, "model")

    @cached_property
    def objective(self) -> Objective:
        """Shapes and names alone."""
        with torch.device("meta"):
            return assemble(self.config)

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Parameter names of student and teacher, pair by pair."""
        names = {id(p): name for name, p in self.objective.named_parameters()}
        return [
            (names[id(s)], names[id(t)])
            for student, teacher in self.objective.ema_pairs()
            for s, t in zip(student.parameters(), teacher.parameters(), strict=True)
        ]

    @cached_property
    def store(self) -> Store:
        """The one it was trained on, if it still is where it was, or where ``data`` has it."""
        path = self._data or Path(self.environment["data"]["store"])
        if not (path / "manifest.json").is_file():
            raise Unmeasured(f"the store is not at hand ({path}); name it with --data")
        return Store.open(path)


Probe = Callable[[Run], Evidence]


@dataclass(frozen=True)
class Check:
    """A promise about a run folder and what measures it."""

    id: str
    sentence: str
    source: str
    probe: Probe


def check(id: str, sentence: str, *, source: str) -> Callable[[Probe], Check]:
    """Make a probe a check; in the files of this folder that is all there is to do."""
    return lambda probe: Check(id, sentence, source, probe)


def norm(tensors: Iterable[Tensor]) -> float:
    """Of all of them together, in float64."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
