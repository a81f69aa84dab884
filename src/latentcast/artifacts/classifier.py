"""A fine-tuned run as what it is for: files in, probabilities out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.artifacts.choice import Choice, choice_of, chosen_checkpoint
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.export import read_choice
from latentcast.artifacts.predictions import activated, joined
from latentcast.artifacts.rejections import Errors, Rejections
from latentcast.artifacts.windows import in_batches
from latentcast.data.convert import Rejected
from latentcast.errors import LatentcastError
from latentcast.nn.modes import evaluating
from latentcast.nn.pooling import BATCH
from latentcast.objectives.base import Role
from latentcast.objectives.supervised import Supervised, SupervisedConfig
from latentcast.pretrained.models import located
from latentcast.signatures import checked


@dataclass(frozen=True, eq=False)
class Predicted:
    """Of recordings or images, one row each.

    Attributes:
        ids: their names.
        names: of the labels or classes.
        values: float64 ``(n, names)``, probabilities, or the value of a regression.
        spread: same shape, the standard deviation over the crops of a recording.
        crops: int64 ``(n,)``.
        rejected: the records that could not be read, each with its ``reason``.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    values: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]
    crops: npt.NDArray[np.int64]
    rejected: tuple[Rejected, ...] = ()

    def by_patient(self, patients: Sequence[str]) -> Self:
        """One row a patient, in the order of their first records: the mean over the records, the
        standard deviation over them, and the number of all their crops.

        Args:
            patients: of each row; a record without one ("") stays a row of its own.
        """
        owners = [name or f"record {id}" for name, id in zip(patients, self.ids, strict=True)]
        first = {owner: n for n, owner in reversed(list(enumerate(owners)))}
        order = sorted(first, key=first.__getitem__)
        place = {owner: n for n, owner in enumerate(order)}
        rows = np.array([place[owner] for owner in owners], dtype=np.int64)
        if not len(rows):
            return self
        means = joined([(rows, self.values)], len(order))
        crops = np.bincount(rows, self.crops, minlength=len(order)).astype(np.int64)
        ids = tuple(patients[first[owner]] or self.ids[first[owner]] for owner in order)
        return replace(self, ids=ids, values=means.values, spread=means.spread, crops=crops)


class Classifier:
    """A network that was trained on labels, with its preprocessing, temperature and thresholds.

    Attributes:
        encoder: what it reads with; its features can be read out too.
        settings: of the objective it was trained by.
        choice: what was chosen on validation.
    """

    @checked
    def __init__(self, encoder: Encoder, choice: Choice, role: Role = "teacher") -> None:
        settings = encoder.config.objective
        if not isinstance(settings, SupervisedConfig):
            raise LatentcastError(
                f"{encoder.weights}: was trained without labels and predicts none; fine-tune it "
                "(latentcast finetune)"
            )
        assert isinstance(encoder.objective, Supervised)
        if encoder.alone:
            raise LatentcastError(
                f"{encoder.weights}: is an encoder alone, without the head that was trained with "
                "it; name the run of its fine-tuning"
            )
        self.encoder, self.choice, self.settings = encoder, choice, settings
        self.network = encoder.objective.classifier(role)

    @classmethod
    @checked
    def from_pretrained(
        cls, run: str | Path, role: Role = "teacher", device: str | torch.device = "auto"
    ) -> Self:
        """A run of ``latentcast finetune``, at the checkpoint that was chosen on validation; one
        of its checkpoints; or an exported file. Weights that are not the chosen ones, and files
        exported before the choice was written into them, have no temperature and no thresholds:
        ``choice.score`` is NaN then.

        Raises:
            LatentcastError: no such run, none that was trained on labels, a damaged file.
        """
        path = located(run)
        encoder = Encoder.from_pretrained(path, role, device)
        if encoder.alone:  # which no choice belongs to
            choice = None
        else:
            choice = read_choice(path) if path.is_file() else choice_of(chosen_checkpoint(path))
        return cls(encoder, choice or Choice(encoder.step, np.nan), role)

    def __repr__(self) -> str:
        return f"Classifier({self.settings.task!r}, {len(self.names)} outputs, {self.encoder!r})"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the labels, classes, or the one quantity."""
        return self.settings.names

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of each name; NaN where none was chosen."""
        return self.choice.thresholds or (math.nan,) * len(self.names)

    def outputs(self, samples: npt.NDArray[Any]) -> Tensor:
        """Integers as a store gives them to outputs ``(B, outputs)``, not yet probabilities."""
        inputs = self.encoder.inputs(torch.from_numpy(np.ascontiguousarray(samples)))
        outputs: Tensor = self.network(inputs)
        return outputs

    @checked
    def predict(
        self, x: Any, batch_size: int = BATCH, *, errors: Errors = "refuse", **how: Any
    ) -> Predicted:
        """Probabilities of recordings or images, the mean over crops that step by half of one.

        Args:
            x: what :meth:`~latentcast.artifacts.encoder.Encoder.embed` takes.
            batch_size: crops or images a forward pass.
            errors: with ``skip`` records that cannot be read are left out and listed in
                ``rejected``; by default one of them refuses all.
            how: ``rows``, ``sampling_rate``, ``leads``, ``unit``, ``layout``, ``rename``,
                ``resample``, ``missing_leads``, as of ``embed``.

        Raises:
            LatentcastError: what ``embed`` refuses.
        """
        names: list[str] = []
        parts, rejections = [], Rejections(errors)
        samples = self.encoder.windows(x, rejections=rejections, **how)
        with torch.no_grad(), evaluating(self.network):
            for owner, windows in in_batches(samples, names, batch_size):
                outputs = self.outputs(windows).double().cpu().numpy()
                parts.append((owner, activated(outputs, self.settings, self.choice.temperature)))
        rejected = rejections.check(len(names))
        if not names:
            empty = np.zeros((0, len(self.names)))
            return Predicted((), self.names, empty, empty, np.zeros(0, dtype=np.int64))
        found = joined(parts, len(names))
        ids = tuple(names)
        return Predicted(ids, self.names, found.values, found.spread, found.crops, rejected)
