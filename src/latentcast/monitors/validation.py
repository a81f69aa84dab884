"""The validation score of a supervised run, by which its checkpoint is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt
import torch

from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.loop import Preprocess
from latentcast.evaluation.metrics import METRICS, macro
from latentcast.evaluation.predictions import of_metric, predict
from latentcast.evaluation.supervision import Supervision
from latentcast.monitors.journal import read_metrics
from latentcast.objectives.base import Objective
from latentcast.objectives.supervised import Supervised, SupervisedConfig

SCORE = "validation_score"
"""Column of ``metrics.jsonl``."""


@dataclass(frozen=True)
class Validation:
    """The labelled validation records, read as they will be predicted: every crop, the mean of
    their probabilities."""

    config: Config
    labels: Supervision

    @property
    def summary(self) -> str:
        """For the log."""
        rows, every = self.labels.rows, self.config.train.evaluate_every
        return (
            f"supervised by {self.labels.targets.kind} labels of {len(rows['train'])} training "
            f"records; {METRICS[self.labels.targets.kind][0].name} on {len(rows['validation'])} of "
            f"the validation split every {'step' if every == 1 else f'{every} steps'}"
        )

    def due(self, step: int) -> bool:
        """Whether the row of this step has a score; the first has none, the last one has."""
        train = self.config.train
        return train.evaluate_every is not None and (
            step % train.evaluate_every == 0 or step == train.steps
        )

    def look(
        self, objective: Objective, preprocess: Preprocess, context: Context
    ) -> dict[str, float]:
        """The task's metric on the validation records, of the averaged weights."""
        assert isinstance(objective, Supervised)
        assert isinstance(self.config.objective, SupervisedConfig)
        network = objective.classifier("teacher")

        def classify(samples: npt.NDArray[Any]) -> torch.Tensor:
            inputs: Inputs = preprocess(torch.from_numpy(samples).to(context.device), None)
            with context.autocast():
                outputs: torch.Tensor = network(inputs)
            return outputs

        rows = self.labels.rows["validation"]
        length = self.config.input.size[0]
        found = predict(classify, network, self.labels.store, rows, length, self.config.objective)
        targets = self.labels.targets
        metric = METRICS[targets.kind][0]
        columns = metric.columns(targets.values[rows], of_metric(found, targets.kind), None)
        return {SCORE: float(macro(columns))}


class EarlyStopping(Callback):
    """Ends a training whose validation score has not risen for ``patience`` looks.

    A function of the scores up to a step, which stand in the log: a run that goes on ends where it
    would have ended uninterrupted.
    """

    def __init__(self, run: Path, patience: int | None) -> None:
        self._run, self._patience, self._scores = run, patience, dict[int, float]()

    @classmethod
    def of(cls, run: Path, config: Config) -> Self:
        """By the configuration; without supervision nothing ends early."""
        settings = config.objective
        return cls(run, settings.patience if isinstance(settings, SupervisedConfig) else None)

    def on_train_start(self, state: State, context: Context) -> None:
        for row in read_metrics(self._run):
            if row["step"] <= state.step:
                self.record(row["step"], row)

    def record(self, step: int, found: Mapping[str, Any]) -> None:
        """The look at a step, if it has a score."""
        score = found.get(SCORE)
        if score is not None and math.isfinite(score):
            self._scores[step] = score

    def enough(self, step: int) -> bool:
        if self._patience is None or not self._scores:
            return False
        best = max(self._scores, key=lambda at: (self._scores[at], -at))
        return sum(at > best for at in self._scores) >= self._patience
