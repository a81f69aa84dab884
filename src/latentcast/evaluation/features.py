"""Frozen features of an encoder, layer by layer, over a store of recordings or of images.

Evaluation knows a :class:`FeatureSource` and not what trained it. Features are pooled over VALID
tokens only and the encoder is left exactly as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.nn.modes import evaluating
from latentcast.nn.pooling import BATCH, check_pooling, pool
from latentcast.signals.windows import window_starts

Windows = Literal["centre", "strided"]


class FeatureSource(Protocol):
    """Whatever turns stored samples into tokens, one set per readable layer."""

    @property
    def name(self) -> str: ...
    @property
    def layer_names(self) -> tuple[str, ...]: ...
    @property
    def causal(self) -> bool: ...
    @property
    def leads(self) -> tuple[str, ...]: ...
    @property
    def sampling_rate(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def length(self) -> int: ...

    def token_layers(self, samples: npt.NDArray[np.int16]) -> tuple[list[Tensor], Tensor]:
        """Samples (B, length, leads) to patch tokens per layer and their validity.

        The tokens are float (B, N, D), one tensor per entry of ``layer_names``, in time order
        and without CLS; the validity is bool (B, N).
        """
        ...


class ImageFeatureSource(Protocol):
    """Whatever turns stored images into tokens, one set per readable layer."""

    @property
    def name(self) -> str: ...
    @property
    def layer_names(self) -> tuple[str, ...]: ...
    @property
    def causal(self) -> bool: ...

    def token_layers(self, samples: npt.NDArray[np.uint8]) -> tuple[list[Tensor], Tensor]:
        """Images (B, height, width, channels) to patch tokens per layer and their validity.

        Both are those of :class:`FeatureSource`, the tokens in raster order.
        """
        ...


@runtime_checkable
class PoolsItself(Protocol):
    """A source that gives one token a window or image, pooled by itself; read as it is."""

    @property
    def pooling(self) -> str:
        """What its token is, in words for the table."""
        ...


def pooling_of(source: FeatureSource | ImageFeatureSource, asked: str) -> str:
    """How the features of a source are pooled: as asked for, unless it pools itself."""
    return source.pooling if isinstance(source, PoolsItself) else asked


def extract(
    source: FeatureSource,
    store: Store,
    rows: npt.NDArray[np.int64],
    *,
    pooling: str = "mean+std",
    windows: Windows = "strided",
) -> dict[str, npt.NDArray[np.float32]]:
    """Pooled features float32 (len(rows), F) of every layer, keyed by layer name.

    A record longer than ``source.length`` is read through windows of that length: ``centre`` is
    the middle one, ``strided`` steps by half a window, ends flush with the record, and averages
    the pooled features. A shorter record is padded with invalid samples. A record without one
    valid token has NaN features in every layer, see :func:`readable`. A source that pools itself
    is read as it is. Raises LatentcastError when leads, rate or scale differ, and when a feature
    of a record that could be read is not finite.
    """
    asked = check_pooling(pooling, causal=source.causal)
    how = "mean" if isinstance(source, PoolsItself) else asked
    _check_same_signal(source, store)
    owner, starts = _windows(store.lengths[rows], source.length, windows)
    sums: list[npt.NDArray[np.float64]] = []
    read = np.zeros(len(rows), dtype=np.int64)
    with torch.no_grad(), evaluating(source):
        for begin in range(0, len(owner), BATCH):
            part = slice(begin, begin + BATCH)
            samples = store.take(rows[owner[part]], starts[part], source.length)
            layers, valid = source.token_layers(samples)
            seen = valid.any(dim=1).cpu().numpy()
            np.add.at(read, owner[part], seen)
            for i, tokens in enumerate(layers):
                pooled = pool(tokens.float(), valid, how).cpu().numpy().astype(np.float64)
                if len(sums) == i:
                    sums.append(np.zeros((len(rows), pooled.shape[1])))
                np.add.at(sums[i], owner[part][seen], pooled[seen])
    times = np.where(read > 0, read, np.nan)[:, None]
    means = [(total / times).astype(np.float32) for total in sums]
    return _by_layer(source, means, read > 0)


def extract_images(
    source: ImageFeatureSource,
    store: Store,
    rows: npt.NDArray[np.int64],
    *,
    pooling: str = "mean",
) -> dict[str, npt.NDArray[np.float32]]:
    """Pooled features float32 (len(rows), F) of every layer, keyed by layer name.

    An image is one forward pass, without augmentation. Raises LatentcastError when a feature is
    not finite.
    """
    asked = check_pooling(pooling, causal=source.causal)
    how = "mean" if isinstance(source, PoolsItself) else asked
    batches: list[list[npt.NDArray[np.float32]]] = []
    with torch.no_grad(), evaluating(source):
        for begin in range(0, len(rows), BATCH):
            layers, valid = source.token_layers(store.take(rows[begin : begin + BATCH]))
            batches.append([pool(tokens.float(), valid, how).cpu().numpy() for tokens in layers])
    features = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    return _by_layer(source, features, np.ones(len(rows), dtype=np.bool_))


def _by_layer(
    source: FeatureSource | ImageFeatureSource,
    layers: Sequence[npt.NDArray[np.float32]],
    read: npt.NDArray[np.bool_],
) -> dict[str, npt.NDArray[np.float32]]:
    """Features (records, F) by layer name, once those of the records ``read`` are finite."""
    if len(layers) != len(source.layer_names):
        raise LatentcastError(
            f"{source.name}: names {len(source.layer_names)} layers and returns {len(layers)}; "
            "layer_names and token_layers have to agree"
        )
    for layer, features in zip(source.layer_names, layers, strict=True):
        if not np.isfinite(features[read]).all():
            raise LatentcastError(
                f"{source.name}, layer {layer}: features are not finite; "
                "the run has diverged, probe an earlier checkpoint"
            )
    return dict(zip(source.layer_names, layers, strict=True))


def readable(layers: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.bool_]:
    """Which records of :func:`extract`'s result had a valid token, (records,)."""
    first = next(iter(layers.values()))
    return np.asarray(~np.isnan(first).any(axis=1))


def _windows(
    lengths: npt.NDArray[np.int64], window: int, how: Windows
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Owner (index into ``lengths``) and start of every window."""
    owner: list[int] = []
    starts: list[int] = []
    for i, length in enumerate(lengths.tolist()):
        begins = (
            [max(length - window, 0) // 2] if how == "centre" else window_starts(length, window)
        )
        owner += [i] * len(begins)
        starts += begins
    return np.array(owner, dtype=np.int64), np.array(starts, dtype=np.int64)


def _check_same_signal(source: FeatureSource, store: Store) -> None:
    if source.sampling_rate != store.sampling_rate:
        raise LatentcastError(
            f"{store.path}: sampling_rate is {store.sampling_rate:g}, {source.name} reads "
            f"{source.sampling_rate:g}; re-ingest with --fs {source.sampling_rate:g}"
        )
    if tuple(source.leads) != tuple(store.leads):
        raise LatentcastError(
            f"{store.path}: leads are {' '.join(store.leads)}, {source.name} reads "
            f"{' '.join(source.leads)}; re-ingest with these leads"
        )
    if source.scale != store.scale:
        raise LatentcastError(
            f"{store.path}: a count is {store.scale:g} mV, {source.name} reads "
            f"{source.scale:g} mV; re-ingest with the default scale"
        )
