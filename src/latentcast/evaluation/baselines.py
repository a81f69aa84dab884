"""Floors without any learning: fixed random convolutions of recordings, the pixels of images.

The convolutions are dilated, as in ROCKET. Each kernel has a random length, dilation, set of leads,
weights and bias, and gives two features of a recording: its maximum and the share of time it is
positive (Dempster, Petitjean & Webb 2020, doi 10.1007/s10618-020-00701-z). A pretrained encoder
that does not beat a linear probe on these has not learned what a few hundred random filters give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from latentcast import randomness
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import FeatureSource
from latentcast.evaluation.threads import one_thread
from latentcast.signals.recording import INVALID

TAPS = (7, 9, 11)
VALUES = 256  # of an image; about as many as a small encoder's features have


def baseline(store: Store) -> FeatureSource:
    """The floor that suits a store."""
    if store.modality == "image":
        return Pixels.from_store(store)
    return RandomConvolutions.from_store(store)


@dataclass(frozen=True)
class _Group:
    """Kernels of one length and dilation: weights (K, leads, taps), biases (K,)."""

    dilation: int
    weights: Tensor
    biases: Tensor


class RandomConvolutions:
    """A :class:`~latentcast.evaluation.features.FeatureSource` of one layer and one token.

    The token is the maximum of every kernel and then the share of positive values of every
    kernel, over the samples where at least one lead is valid.
    """

    name = "random convolutions"
    layer_names = ("kernels",)
    pooling = "max, share > 0"
    causal = False

    def __init__(
        self,
        *,
        leads: tuple[str, ...],
        sampling_rate: float,
        scale: float,
        length: int,
        mean: npt.ArrayLike,
        std: npt.ArrayLike,
        kernels: int = 600,
        seed: int = 0,
    ) -> None:
        """``mean`` and ``std`` are per lead in mV; ``length`` is in samples."""
        if length < max(TAPS):
            raise LatentcastError(
                f"random convolutions: {length} samples are fewer than {max(TAPS)} taps; "
                "use longer recordings"
            )
        self.leads, self.sampling_rate, self.scale = leads, sampling_rate, scale
        self.length, self.kernels, self.seed = length, kernels, seed
        self._mean = torch.as_tensor(np.asarray(mean, dtype=np.float32))
        self._std = torch.as_tensor(np.asarray(std, dtype=np.float32)).clamp(min=1e-6)
        self._groups = _draw(len(leads), length, kernels, seed)

    @classmethod
    def from_store(cls, store: Store, *, kernels: int = 600, seed: int = 0) -> RandomConvolutions:
        """Kernels for the store's most frequent record length, with its training statistics."""
        statistics = store.manifest.statistics
        lengths, times = np.unique(store.lengths, return_counts=True)
        return cls(
            leads=tuple(store.leads),
            sampling_rate=store.sampling_rate,
            scale=store.scale,
            length=int(lengths[times.argmax()]),
            # A lead that the training split never shows is read as zero.
            mean=[0.0 if mean is None else mean for mean in statistics.mean],
            std=[math.inf if std is None else std for std in statistics.std],
            kernels=kernels,
            seed=seed,
        )

    @property
    def fingerprint(self) -> str:
        """Of the kernels and of what they read; see :mod:`latentcast.evaluation.cache`."""
        reads = (self.leads, self.sampling_rate, self.scale, self.length)
        return repr(
            (self.name, reads, self.kernels, self.seed, self._mean.tolist(), self._std.tolist())
        )

    def token_layers(self, samples: npt.NDArray[np.int16]) -> tuple[list[Tensor], Tensor]:
        """Samples (B, length, leads) to one token (B, 1, 2 kernels) and its validity (B, 1)."""
        with one_thread():
            return self._read(torch.from_numpy(np.ascontiguousarray(samples.transpose(0, 2, 1))))

    def _read(self, counts: Tensor) -> tuple[list[Tensor], Tensor]:
        valid = counts != INVALID
        signal = (counts.float() * self.scale - self._mean[:, None]) / self._std[:, None]
        signal = torch.where(valid, signal, signal.new_zeros(()))
        some_lead = valid.any(dim=1)  # (B, T)
        time = some_lead.sum(dim=1, keepdim=True).clamp(min=1)
        peaks: list[Tensor] = []
        shares: list[Tensor] = []
        for group in self._groups:
            reach = group.dilation * (group.weights.shape[-1] - 1) // 2
            out = F.conv1d(
                signal, group.weights, group.biases, padding=reach, dilation=group.dilation
            )
            if not some_lead.all():
                out = out.masked_fill(~some_lead[:, None, :], -math.inf)
            peaks.append(out.amax(dim=-1))
            shares.append((out > 0).sum(dim=-1) / time)
        token = torch.cat([*peaks, *shares], dim=1)
        recorded = some_lead.any(dim=1)
        token = torch.where(recorded[:, None], token, token.new_zeros(()))
        return [token[:, None, :]], recorded[:, None]


def _draw(leads: int, length: int, kernels: int, seed: int) -> tuple[_Group, ...]:
    """Draw all kernels: a function of the seed, their number and the shape of the recording."""
    stream = randomness.key(seed, "random convolutions")
    width = 4 + leads + 2 * leads * max(TAPS)
    u = randomness.uniform(stream, np.arange(kernels * width).reshape(kernels, width))
    taps = np.array(TAPS)[(u[:, 0] * len(TAPS)).astype(int)]
    # A dilation is a power of two, up to the one whose kernel spans the recording.
    octaves = np.floor(np.log2((length - 1) / (taps - 1))).astype(int)
    dilations = 2 ** (u[:, 1] * (octaves + 1)).astype(int)
    biases = 2 * u[:, 2] - 1
    # The number of leads is log-uniform: many kernels read one lead, some read all.
    size = np.clip(np.floor((leads + 1) ** u[:, 3]), 1, leads)
    reads = (u[:, 4 : 4 + leads].argsort(axis=1).argsort(axis=1) < size[:, None])[:, :, None]
    first, second = u[:, 4 + leads :].reshape(2, kernels, leads, max(TAPS))
    normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)  # Box & Muller 1958
    groups = []
    for tap in TAPS:
        for dilation in np.unique(dilations[taps == tap]):
            of_group = (taps == tap) & (dilations == dilation)
            weights = normal[of_group][:, :, :tap]
            weights = (weights - weights.mean(axis=-1, keepdims=True)) * reads[of_group]
            tensors = (
                torch.from_numpy(part.astype(np.float32)) for part in (weights, biases[of_group])
            )
            groups.append(_Group(int(dilation), *tensors))
    return tuple(groups)


class Pixels:
    """A :class:`~latentcast.evaluation.features.FeatureSource` of one layer and one token.

    The token is the image, its sides halved by averaging until it has at most VALUES values. That
    is a higher floor than all pixels, and a cheaper one: on CIFAR-10 (45,000 training images), kNN
    reaches 0.355 on 32 × 32 pixels, 0.384 on 16 × 16 and 0.415 on 8 × 8; the linear probe reaches
    0.41 on either of the last two. Images of at most VALUES values are read as they are.
    """

    name = "pixels"
    layer_names = ("pixels",)
    causal = False

    def __init__(self, height: int, width: int, channels: int) -> None:
        while height * width * channels > VALUES and max(height, width) > 1:
            height, width = -(-height // 2), -(-width // 2)
        self.size = height, width

    @classmethod
    def from_store(cls, store: Store) -> Pixels:
        """For the canvas of a store."""
        return cls(store.height, store.width, store.channels)

    @property
    def pooling(self) -> str:
        """Height × width of what is read."""
        return f"{self.size[0]} × {self.size[1]}"

    @property
    def fingerprint(self) -> str:
        """The size that is read; see :mod:`latentcast.evaluation.cache`."""
        return f"{self.name} {self.size}"

    def token_layers(self, samples: npt.NDArray[np.uint8]) -> tuple[list[Tensor], Tensor]:
        """Images (B, height, width, channels) to one token (B, 1, F) in [0, 1], always valid."""
        images = torch.from_numpy(np.ascontiguousarray(samples.transpose(0, 3, 1, 2))).float()
        small = F.adaptive_avg_pool2d(images / 255, self.size)
        return [small.flatten(1)[:, None]], torch.ones(len(images), 1, dtype=torch.bool)
