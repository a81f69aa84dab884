"""The encoder a run leaves behind, with the preprocessing that training saw."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast import config as configuration
from latentcast.batch import Inputs
from latentcast.config import Config, EcgInput
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.nn.tokens import token_validity
from latentcast.objectives.base import Objective, Role
from latentcast.objectives.build import build
from latentcast.objectives.nepa import Nepa
from latentcast.signals.preprocess import EcgPreprocess
from latentcast.signals.recording import INVALID, Recording

Counts = npt.NDArray[np.int16]


class Encoder:
    """Frozen features of 12-lead recordings, from exactly the tensor that training saw.

    Args:
        config: of the run, with its normalisation filled in.
        objective: with its weights.
        role: ``teacher`` reads the averaged weights (what the original NEPA evaluates).
        name: how reports call it.
    """

    def __init__(self, config: Config, objective: Objective, role: Role, name: str) -> None:
        if not isinstance(config.input, EcgInput):
            raise LatentcastError(f"{name}: was trained on images; this reads recordings only")
        self.config, self.name, self.role = config, name, role
        self._input, self._objective = config.input, objective.eval()
        self._network = objective.encoder(role)
        self._preprocess = EcgPreprocess(config.input)

    @classmethod
    def from_pretrained(cls, run: str | Path, role: Role = "teacher") -> Self:
        """The newest checkpoint of a run folder.

        Raises:
            LatentcastError: no such run, no checkpoint yet, or a damaged one.
        """
        run = Path(run)
        config = configuration.load(run / "config.yaml")
        newest = checkpoint.latest(run / "checkpoints")
        checkpoint.read_record(newest)
        objective = build(config)
        objective.load_state_dict(checkpoint.read_tensors(newest, "model.safetensors"))
        return cls(config, objective, role, f"{config.recipe} ({newest.name})")

    @classmethod
    def random(cls, run: str | Path, seed: int | None = None) -> Self:
        """The same architecture and preprocessing at initialisation: the floor to beat.

        Without a seed it is the very network the run started from.
        """
        config = configuration.load(Path(run) / "config.yaml")
        objective = build(config)
        if seed is not None:
            objective.initialise(seed)
        return cls(config, objective, "student", f"{config.recipe} (random-initialised)")

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

    def embed(
        self, recordings: Iterable[Recording], layer: str = "norm"
    ) -> npt.NDArray[np.float32]:
        """One vector a recording: the mean over valid tokens of a layer, ``(n, width)``.

        Raises:
            LatentcastError: an unknown layer, a recording at another rate or without a lead.
        """
        if layer not in self.layer_names:
            raise LatentcastError(f"{layer}: is no layer; known: {', '.join(self.layer_names)}")
        index = self.layer_names.index(layer)
        return np.stack([self._mean(self.counts(recording), index) for recording in recordings])

    def counts(self, recording: Recording) -> Counts:
        """A recording as the store would hold it: int16 ``(samples, leads)``, in our lead order."""
        if recording.sampling_rate != self.sampling_rate:
            raise LatentcastError(
                f"{recording.record_id}: sampling_rate is {recording.sampling_rate:g}, the encoder "
                f"needs {self.sampling_rate:g}; resample it first"
            )
        missing = [lead for lead in self.leads if lead not in recording.leads]
        if missing:
            raise LatentcastError(
                f"{recording.record_id}: lead {missing[0]} is missing; derive it or use "
                "an encoder of fewer leads"
            )
        rows = [recording.leads.index(lead) for lead in self.leads]
        millivolts, valid = recording.signal[rows], recording.valid[rows]
        counts = np.rint(np.where(valid, millivolts, 0) / self.scale).clip(-32767, 32767)
        whole = counts.shape[1] - counts.shape[1] % self.config.encoder.patch
        return np.where(valid, counts, INVALID).astype(np.int16).T[:whole]

    def _mean(self, counts: Counts, index: int) -> npt.NDArray[np.float32]:
        layers, valid = self.token_layers(counts[None])
        tokens = layers[index][0][valid[0]]
        return tokens.mean(0).numpy() if len(tokens) else np.full(layers[index].shape[-1], np.nan)

    def _inputs(self, samples: Counts) -> Inputs:
        return self._preprocess(torch.from_numpy(np.ascontiguousarray(samples)))
