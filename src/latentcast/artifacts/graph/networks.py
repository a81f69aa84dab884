"""What a graph computes: everything between a measured sample and the vector that users read.

A graph of recordings takes float32 millivolts ``(B, leads, samples)`` at the model's rate, NaN
where nothing was measured, of any length: quantised, cut into windows, normalised, encoded, pooled
and averaged as :meth:`~latentcast.artifacts.encoder.Encoder.embed` does it. A graph of images takes
uint8 ``(B, height, width, channels)`` of the size of the store.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.nn.pooling import Pooling, layers_of, pool_joined
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.signals.recording import INVALID


class Windows(nn.Module):
    """Recordings to the windows of counts that a store would give, int16 ``(B n, length, leads)``.

    The windows are those of :func:`~latentcast.signals.windows.window_starts`.
    """

    def __init__(self, length: int, scale: float) -> None:
        super().__init__()
        self.length, self.scale = length, scale

    def forward(self, signal: Tensor) -> Tensor:
        length, (batch, leads, samples) = self.length, signal.shape
        room = torch.sym_max(samples - length, 0)  # type: ignore[no-untyped-call]
        signal = F.pad(signal, (0, room + length - samples), value=math.nan)
        step = max(length // 2, 1)
        starts = (torch.arange((room + step - 1) // step + 1) * step).clamp(max=room)
        places = starts[:, None] + torch.arange(length)
        # float32 times float32, as quantise() has it: the same counts to the last one.
        scaled = signal * torch.tensor(1 / self.scale, dtype=torch.float32)
        counts = torch.where(scaled.isnan(), INVALID, scaled.nan_to_num().round())
        cut = counts[:, :, places.flatten()].view(batch, leads, -1, length)
        return cut.permute(0, 2, 3, 1).reshape(-1, length, leads).to(torch.int16)


class EmbeddingGraph(nn.Module):
    """``(B, features)`` as ``Encoder.embed`` gives them; a recording with nothing valid is NaN."""

    def __init__(self, encoder: Encoder, layer: str, pooling: Pooling) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.read = layers_of(layer, encoder.layer_names)
        self.windows = windows_of(encoder)

    def forward(self, samples: Tensor) -> Tensor:
        windows: Tensor = samples if self.windows is None else self.windows(samples)
        layers, valid = self.encoder(windows)
        vectors = pool_joined(layers[self.read], valid, self.pooling)
        counted = valid.any(dim=1, keepdim=True).view(samples.shape[0], -1, 1)
        of_windows = vectors.view(samples.shape[0], -1, vectors.shape[-1])
        means: Tensor = torch.where(counted, of_windows, 0).sum(1) / counted.sum(1)
        return means


class PredictionGraph(nn.Module):
    """``(B, labels)`` as ``Classifier.predict`` gives them: the mean over the crops, with the
    temperature in it."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.encoder, self.network = classifier.encoder, classifier.network
        self.settings: SupervisedConfig = classifier.settings
        self.temperature = classifier.choice.temperature
        self.windows = windows_of(classifier.encoder)

    def forward(self, samples: Tensor) -> Tensor:
        windows = samples if self.windows is None else self.windows(samples)
        outputs: Tensor = self.network(self.encoder.inputs(windows))
        if self.settings.target == "regression":
            values = outputs * self.settings.std + self.settings.mean
        elif self.settings.target == "multi-label":
            values = (outputs / self.temperature).sigmoid()
        else:
            values = (outputs / self.temperature).softmax(dim=1)
        return values.view(samples.shape[0], -1, values.shape[-1]).mean(1)


def windows_of(encoder: Encoder) -> Windows | None:
    """None for images, which are read whole."""
    return Windows(encoder.length, encoder.scale) if encoder.modality == "ecg" else None
