"""What a fine-tuned run has chosen on the validation split: a checkpoint and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.files import check_digest, digested, read_object

CHOICE = "classifier.json"
"""In the run folder: which checkpoint predicts, its temperature and its thresholds."""


@dataclass(frozen=True)
class Choice:
    """What was chosen on the validation split.

    Attributes:
        step: of the checkpoint.
        score: its validation score.
        temperature: outputs are divided by it.
        thresholds: of each label, the probability from which on it is called; NaN of a label
            without validation positives. Empty of other kinds of task.
    """

    step: int
    score: float
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """With a digest; an undefined threshold is null."""
        thresholds = [None if np.isnan(value) else value for value in self.thresholds]
        return digested(
            {"format": 1, "step": self.step, "validation": self.score,
             "temperature": self.temperature, "thresholds": thresholds}
        )  # fmt: skip

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises LatentcastError: the file is damaged."""
        return cls.of(lambda: read_object(file), file)

    @classmethod
    def of(cls, read: Callable[[], dict[str, Any]], file: Path) -> Self:
        """Back from :meth:`as_json`. Raises LatentcastError: what is read of a file is damaged."""
        try:
            record = read()
            check_digest(record)
            thresholds = tuple(np.nan if t is None else float(t) for t in record["thresholds"])
            return cls(record["step"], record["validation"], record["temperature"], thresholds)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise LatentcastError(
                f"{file}: cannot be used ({problem}); restore it, or fine-tune again"
            ) from None


def choice_of(checkpoint_folder: Path) -> Choice | None:
    """What was chosen for a checkpoint ``RUN/checkpoints/step-N``; None where it is not the chosen
    one of a fine-tuned run."""
    file = checkpoint_folder.parent.parent / CHOICE
    if not file.is_file():
        return None
    choice = Choice.read(file)
    return choice if choice.step == checkpoint.step_of(checkpoint_folder) else None


def chosen_checkpoint(run: Path) -> Path:
    """The checkpoint that stands for a run: of a fine-tuned one the chosen, else the newest; or,
    named as ``RUN/checkpoints/step-N``, that one.

    Raises:
        LatentcastError: no such run, no checkpoint yet, or the chosen one is gone.
    """
    if (run / CHOICE).is_file():
        return checkpoint.of_step(run / "checkpoints", Choice.read(run / CHOICE).step)
    return checkpoint.checkpoint_of(run)
