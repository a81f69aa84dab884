"""A trained encoder of 12-lead recordings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.artifacts.encoder import Encoder
from latentcast.config import Config, EcgInput
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.errors import LatentcastError
from latentcast.nn.pooling import Pooling, check_pooling, pool
from latentcast.objectives.base import Objective, Role
from latentcast.signals.counts import to_counts
from latentcast.signals.recording import INVALID, Recording
from latentcast.signals.windows import window_starts

Counts = npt.NDArray[np.int16]


class EcgEncoder(Encoder):
    """Features of recordings; see :class:`~latentcast.artifacts.encoder.Encoder`."""

    def __init__(
        self, config: Config, objective: Objective, role: Role, name: str, step: int = 0
    ) -> None:
        assert isinstance(config.input, EcgInput)
        self._input = config.input
        super().__init__(config, objective, EcgPreprocess(config.input), role, name, step)

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
        index, how = self._layer(layer), check_pooling(pooling, causal=self.causal)
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
        return to_counts(recording, self.leads, self.scale, signal=self._input.signal)

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
