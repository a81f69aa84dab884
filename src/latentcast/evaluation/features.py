"""Frozen features of an encoder, layer by layer, over a store.

Evaluation takes a :class:`FeatureSource`, whatever trained it. Features are pooled over VALID
tokens only and the encoder is left exactly as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.nn.modes import evaluating
from latentcast.nn.pooling import BATCH, JOINED, check_pooling, pool
from latentcast.signals.windows import window_starts

Windows = Literal["centre", "strided"]
Ints = npt.NDArray[np.int64]


class FeatureSource(Protocol):
    """Whatever turns stored samples into tokens, one set per readable layer.

    A source of recordings has the four attributes of :class:`ReadsRecordings` besides.
    """

    @property
    def name(self) -> str: ...
    @property
    def layer_names(self) -> tuple[str, ...]: ...
    @property
    def causal(self) -> bool: ...

    def token_layers(self, samples: Any) -> tuple[list[Tensor], Tensor]:
        """Samples as the store has them to patch tokens per layer and their validity.

        Samples are int16 (B, length, leads) of recordings, uint8 (B, height, width, channels) of
        images. The tokens are float (B, N, D), one tensor per entry of ``layer_names``, in time
        or raster order and without CLS; the validity is bool (B, N). A layer may have k tokens to
        a patch, (B, k N, D), those of a patch one after the other.
        """
        ...


@runtime_checkable
class ReadsRecordings(Protocol):
    """The signal that a source of recordings expects: leads in their order, Hz, millivolts for a
    count, and the samples of a window. :func:`extract` compares the first three with the store."""

    @property
    def leads(self) -> tuple[str, ...]: ...
    @property
    def sampling_rate(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def length(self) -> int: ...


@runtime_checkable
class PoolsItself(Protocol):
    """A source that gives one token a window or image, pooled by itself; read as it is."""

    @property
    def pooling(self) -> str:
        """What its token is, in words for the table."""
        ...


@runtime_checkable
class Noted(Protocol):
    """A source that the table has to say more about, such as a change of the sampling rate."""

    @property
    def note(self) -> str: ...


def pooling_of(source: FeatureSource, pooling: str) -> str:
    """How the features of a source are pooled: as given, unless it pools itself."""
    return source.pooling if isinstance(source, PoolsItself) else pooling


def extract(
    source: FeatureSource,
    store: Store,
    rows: Ints,
    *,
    pooling: str = "mean+std",
    windows: Windows = "strided",
) -> dict[str, npt.NDArray[np.float32]]:
    """Pooled features float32 (len(rows), F) of every layer, keyed by layer name; of several layers
    also ``joined``, all of them in their order.

    An image is one forward pass, without augmentation. A record longer than ``source.length`` is
    read through windows of that length: ``centre`` is the middle one, ``strided`` steps by half a
    window, ends flush with the record, and averages the pooled features. A shorter record is
    padded with invalid samples. A record without one valid token has NaN features in every layer,
    see :func:`readable`. A source that pools itself is read as it is. Raises LatentcastError when
    leads, rate or scale differ, and when a feature of a record that could be read is not finite.
    """
    how = check_pooling(pooling, causal=source.causal)
    if isinstance(source, PoolsItself):
        how = "mean"
    passes = Passes.over(source, store, rows, windows)
    # Of one window a record, float32 holds the sum as it is; of images there are many.
    exact = np.float32 if len(passes.owner) == len(rows) else np.float64
    sums: list[npt.NDArray[Any]] = []
    read = np.zeros(len(rows), dtype=np.int64)
    for part, layers, valid in passes:
        owner = passes.owner[part]
        has_token = valid.any(dim=1).cpu().numpy()
        np.add.at(read, owner, has_token)
        for i, tokens in enumerate(layers):
            pooled = pool(tokens.float(), valid, how).cpu().numpy().astype(exact)
            if len(sums) == i:
                sums.append(np.zeros((len(rows), pooled.shape[1]), exact))
            np.add.at(sums[i], owner[has_token], pooled[has_token])
    times = np.where(read > 0, read, np.nan)[:, None].astype(exact)
    means = [(total / times).astype(np.float32) for total in sums]
    by_layer = dict(zip(source.layer_names, means, strict=True))
    for layer, features in by_layer.items():
        check_finite(features[read > 0], source, layer)
    if len(by_layer) > 1:
        by_layer[JOINED] = np.concatenate(means, axis=1)
    return by_layer


@dataclass(frozen=True)
class Passes:
    """The forward passes of a source over rows of a store.

    Attributes:
        owner: int64 ``(crops,)``, of each crop the index into ``rows``, ascending; an image is one
            crop.
    """

    source: FeatureSource
    store: Store
    rows: Ints
    owner: Ints
    crops: tuple[Ints, int] | None

    @classmethod
    def over(cls, source: FeatureSource, store: Store, rows: Ints, windows: Windows) -> Passes:
        """Raises LatentcastError: the source reads other recordings than the store holds."""
        owner, crops = np.arange(len(rows)), None
        if store.modality == "ecg":
            owner, crops = _windows(source, store, rows, windows)
        return cls(source, store, rows, owner, crops)

    def __iter__(self) -> Iterator[tuple[slice, list[Tensor], Tensor]]:
        """Of at most BATCH crops at a time: which, their tokens by layer, and the validity."""
        with torch.no_grad(), evaluating(self.source):
            for begin in range(0, len(self.owner), BATCH):
                part = slice(begin, begin + BATCH)
                where = () if self.crops is None else (self.crops[0][part], self.crops[1])
                samples = self.store.take(self.rows[self.owner[part]], *where)
                layers, valid = self.source.token_layers(samples)
                if len(layers) != len(self.source.layer_names):
                    raise LatentcastError(
                        f"{self.source.name}: names {len(self.source.layer_names)} layers and "
                        f"returns {len(layers)}; layer_names and token_layers have to agree"
                    )
                yield part, layers, valid


def check_finite(features: npt.NDArray[np.float32], source: FeatureSource, layer: str) -> None:
    """Raises LatentcastError: the features of a layer are not finite."""
    if not np.isfinite(features).all():
        raise LatentcastError(
            f"{source.name}, layer {layer}: features are not finite; "
            "the run has diverged, probe an earlier checkpoint (RUN/checkpoints/step-N)"
        )


def readable(layers: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.bool_]:
    """Which records of :func:`extract`'s result had a valid token, (records,)."""
    first = next(iter(layers.values()))
    return np.asarray(~np.isnan(first).any(axis=1))


def _windows(
    source: FeatureSource, store: Store, rows: Ints, windows: Windows
) -> tuple[Ints, tuple[Ints, int]]:
    """Owner (index into ``rows``) and start of every window, and the length of all."""
    if not isinstance(source, ReadsRecordings):
        raise LatentcastError(
            f"{source.name}: does not say which recordings it reads; give it leads, "
            "sampling_rate, scale and length"
        )
    check_same_signal(source, source.name, store)
    owner: list[int] = []
    starts: list[int] = []
    for i, length in enumerate(store.lengths[rows].tolist()):
        begins = (
            [max(length - source.length, 0) // 2]
            if windows == "centre"
            else window_starts(length, source.length)
        )
        owner += [i] * len(begins)
        starts += begins
    return np.array(owner, dtype=np.int64), (np.array(starts, dtype=np.int64), source.length)


def check_same_signal(source: ReadsRecordings, name: str, store: Store) -> None:
    """Raises LatentcastError: leads, rate or scale of source and store differ."""
    rate = str(float(source.sampling_rate))
    scale = f"re-ingest with --scale {source.scale:g}"
    for what, expected, found, fix in (
        ("sampling_rate is", rate, str(float(store.sampling_rate)), f"re-ingest with --fs {rate}"),
        ("leads are", " ".join(source.leads), " ".join(store.leads), "name a store of these"),
        ("a count is", f"{source.scale} mV", f"{store.scale} mV", scale),
    ):
        if expected != found:
            raise LatentcastError(f"{store.path}: {what} {found}, {name} reads {expected}; {fix}")
