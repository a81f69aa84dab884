"""The encoder a run leaves behind, with the preprocessing that training saw."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import Config, EcgInput
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import Pooling, check_pooling, pool
from latentcast.nn.tokens import token_validity
from latentcast.objectives.base import Objective, Role
from latentcast.objectives.build import build
from latentcast.objectives.nepa import Nepa
from latentcast.signals.counts import to_counts
from latentcast.signals.preprocess import EcgPreprocess
from latentcast.signals.recording import INVALID, Recording
from latentcast.signals.windows import window_starts

Counts = npt.NDArray[np.int16]


class Encoder:
    """Frozen features of 12-lead recordings, from exactly the tensor that training saw.

    Args:
        config: of the run, with its normalisation filled in.
        objective: with its weights.
        role: ``teacher`` reads the averaged weights (what the original NEPA evaluates).
        name: how reports call it.
        step: optimizer steps the weights have seen.
    """

    def __init__(
        self, config: Config, objective: Objective, role: Role, name: str, step: int = 0
    ) -> None:
        if not isinstance(config.input, EcgInput):
            raise LatentcastError(f"{name}: was trained on images; this reads recordings only")
        self.config, self.name, self.role, self.step = config, name, role, step
        self._input, self._objective = config.input, objective.eval()
        self._network = objective.encoder(role)
        self._preprocess = EcgPreprocess(config.input)

    @classmethod
    def from_pretrained(cls, run: str | Path, role: Role = "teacher") -> Self:
        """The newest checkpoint of a run folder.

        Raises:
            LatentcastError: no such run, no checkpoint yet, or a damaged one.
        """
        newest, record, config = _newest(run)
        objective = build(config)
        objective.load_state_dict(checkpoint.read_tensors(newest, "model.safetensors"))
        return cls(config, objective, role, "pretrained", record["step"])

    @classmethod
    def random(cls, run: str | Path, seed: int | None = None) -> Self:
        """The same architecture and preprocessing at initialisation: the floor to beat.

        Without a seed it is the very network the run started from.
        """
        _, _, config = _newest(run)
        objective = build(config)
        if seed is not None:
            objective.initialise(seed)
        return cls(config, objective, "student", "random-initialised")

    @property
    def weights(self) -> str:
        """Which weights these are: recipe, role and step."""
        return f"{self.config.recipe}, {self.role}, step {self.step}"

    @property
    def leads(self) -> tuple[str, ...]:
        """Lead names, in the order of the weights."""
        return self._input.leads

    @property
    def scale(self) -> float:
        """Millivolts for one integer count."""
        return self._input.scale

    @property
    def sampling_rate(self) -> float:
        """Hz."""
        return self._input.sampling_rate

    @property
    def length(self) -> int:
        """Samples of a training crop."""
        return self._input.length

    @property
    def patch_seconds(self) -> float:
        """Seconds in a patch."""
        return self.config.encoder.patch / self._input.sampling_rate

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Readable depths: the embedding, each block, the final norm."""
        return self._network.layer_names

    @property
    def causal(self) -> bool:
        """Whether a token sees only what came before it."""
        return self.config.encoder.causal

    @torch.no_grad()
    def token_layers(self, samples: Counts) -> tuple[list[Tensor], Tensor]:
        """Patch tokens of every depth.

        Args:
            samples: int16 ``(B, samples, leads)`` counts, as :meth:`Store.take` gives them.

        Returns:
            for each of :attr:`layer_names` a float32 ``(B, N, width)``, and the validity of the
            tokens, bool ``(B, N)``. CLS is left out: under a causal mask it sees only itself.
        """
        inputs = self._inputs(samples)
        embedding = self._network.embed(inputs.values)
        layers = self._network.layers(embedding, tuple(inputs.values.shape[2:]))
        assert inputs.valid is not None
        valid = token_validity(inputs.valid, self._network.patches)
        return [layer[:, 1:].float() for layer in layers], valid

    def patch_errors(self, samples: Counts) -> npt.NDArray[np.float32]:
        """How badly each patch was predicted from its past: ``1 − cos``, NaN where not valid.

        Args:
            samples: int16 ``(B, samples, leads)``.

        Returns:
            float32 ``(B, N)``.
        """
        assert isinstance(self._objective, Nepa)
        errors = self._objective.patch_errors(self._inputs(samples), self.role)
        return errors.float().numpy()

    @torch.no_grad()
    def embed(
        self, recordings: Iterable[Recording], layer: str = "norm", pooling: str = "mean"
    ) -> npt.NDArray[np.float32]:
        """One vector a recording, ``(n, features)``: what the probe reads of it.

        A recording is quality-checked and brought to counts as ingest does it, read through
        windows of :attr:`length` (padded when it is shorter), pooled over valid tokens, and
        averaged over the windows.

        Args:
            layer: one of :attr:`layer_names`.
            pooling: mean, std, mean+std or last.

        Raises:
            LatentcastError: an unknown layer or pooling; a recording at another rate, without a
                lead that cannot be derived, or without a valid token.
        """
        if layer not in self.layer_names:
            raise LatentcastError(f"{layer}: is no layer; known: {', '.join(self.layer_names)}")
        index, how = self.layer_names.index(layer), check_pooling(pooling, causal=self.causal)
        return np.stack([self._vector(recording, index, how) for recording in recordings])

    def counts(self, recording: Recording) -> Counts:
        """A recording as the store would hold it: int16 ``(samples, leads)``, in our lead order.

        Raises:
            LatentcastError: another sampling rate, a missing lead, or an amplitude beyond int16.
        """
        if recording.sampling_rate != self.sampling_rate:
            raise LatentcastError(
                f"{recording.record_id}: sampling_rate is {recording.sampling_rate:g}, the encoder "
                f"needs {self.sampling_rate:g}; resample it first (latentcast.signals.resample)"
            )
        return to_counts(recording, self.leads, self.scale)

    def _vector(self, recording: Recording, index: int, how: Pooling) -> npt.NDArray[np.float32]:
        counts = self.counts(recording)
        starts = window_starts(len(counts), self.length)
        windows = np.full((len(starts), self.length, len(self.leads)), INVALID, np.int16)
        for window, start in zip(windows, starts, strict=True):
            piece = counts[start : start + self.length]
            window[: len(piece)] = piece
        layers, valid = self.token_layers(windows)
        seen = valid.any(dim=1)
        if not seen.any():
            raise LatentcastError(
                f"{recording.record_id}: has no valid patch of {self.patch_seconds:g} s; it is too "
                "short, flat or missing"
            )
        vector: Tensor = pool(layers[index][seen], valid[seen], how).mean(dim=0)
        return vector.numpy()

    def _inputs(self, samples: Counts) -> Inputs:
        return self._preprocess(torch.from_numpy(np.ascontiguousarray(samples)))


def _newest(run: str | Path) -> tuple[Path, dict[str, Any], Config]:
    newest = checkpoint.latest(Path(run) / "checkpoints")
    record = checkpoint.read_record(newest)
    # The checkpoint's own configuration: an edited config.yaml must not change what is read.
    return newest, record, checkpoint.config_of(newest, record)
