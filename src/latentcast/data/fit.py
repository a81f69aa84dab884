"""A store and a configuration brought together: statistics filled in, loader and preprocessing."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from latentcast.config import Config, EcgInput, ImageInput, Normalisation
from latentcast.data.arrays import MEMORY
from latentcast.data.ecg_filters import filtered
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.flags import keep
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.data.loader import Loader
from latentcast.data.manifest import MANIFEST, Statistics
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.signals.readers.arrays import ArraySource
from latentcast.signals.recording import INVALID

MOST_FILTERED, _BATCH = 2048, 64
"""Records whose filtered samples are enough for a mean and a deviation, and how many at a time."""


def reading(
    store: Store,
    config: Config,
    share: tuple[int, int] = (0, 1),
    targets: npt.NDArray[Any] | None = None,
    rows: npt.NDArray[np.int64] | None = None,
) -> tuple[Loader, EcgPreprocess | ImagePreprocess]:
    """What brings batches of the training split, and what makes floats of them on the device.

    Args:
        share: this rank and how many ranks read.
        targets: one row for each record of the store, for a supervised objective.
        rows: to train on; by default all of the training split. Without those that
            ``train.leave_out`` is about.
    """
    rows = store.rows("train") if rows is None else rows
    rows = keep(store, rows, config.train.leave_out).rows
    loader = Loader(store, rows, config, share, targets)
    if isinstance(config.input, EcgInput):
        return loader, EcgPreprocess(config.input)
    return loader, ImagePreprocess(config.input)


def fitted(config: Config, store: Store) -> Config:
    """The configuration with the store's statistics, after checking that the two fit.

    Raises:
        LatentcastError: recordings for an image recipe or the other way round, another kind of
            signal, sampling rate, scale or number of channels, a lead the store lacks, an empty
            split.
    """
    if not len(store.rows("train")):
        raise LatentcastError(
            f"{store.path / MANIFEST}: the training split is empty; check the folds"
        )
    if store.modality == "image":
        return _fitted_to_images(config, store)
    recipe = config.input
    if not isinstance(recipe, EcgInput):
        raise LatentcastError(
            f"{config.recipe}: is an image recipe and {store.path} holds recordings; "
            "choose a recipe with -ecg- in its name"
        )
    _check_signal(recipe, store)
    if recipe.normalisation is not None:
        return config
    return config.updated({"input.normalisation": _statistics(store, recipe).model_dump()})


def _check_signal(recipe: EcgInput, store: Store) -> None:
    manifest = store.path / MANIFEST
    if store.signal != recipe.signal:
        raise LatentcastError(
            f"{manifest}: signal is {store.signal}, the recipe has {recipe.signal}; train with "
            f"--set input.signal={store.signal} input.leads=[{','.join(store.leads)}]"
        )
    if store.sampling_rate != recipe.sampling_rate:
        raise LatentcastError(
            f"{manifest}: sampling_rate is {store.sampling_rate:g}, the recipe needs "
            f"{recipe.sampling_rate:g}; choose a new store folder (ingest --out) and re-ingest "
            f"with --fs {recipe.sampling_rate:g}"
        )
    if store.leads != recipe.leads:
        # Of an array --leads are the names of what it holds: others would rename its channels.
        arrays = store.manifest.provenance.get("kind") in (ArraySource.kind, MEMORY)
        again = (
            "choose a new store folder (ingest --out) and re-ingest with --leads "
            f"{','.join(recipe.leads)}, or "
        ) * (not arrays)
        raise LatentcastError(
            f"{manifest}: leads are {' '.join(store.leads)}, the recipe needs "
            f"{' '.join(recipe.leads)}; {again}train with --set "
            f"input.leads=[{','.join(store.leads)}]"
        )
    if store.scale != recipe.scale:
        raise LatentcastError(
            f"{manifest}: scale is {store.scale}, the recipe has {recipe.scale}; "
            f"train with --set input.scale={store.scale}"
        )


def _fitted_to_images(config: Config, store: Store) -> Config:
    if not isinstance(config.input, ImageInput):
        raise LatentcastError(
            f"{config.recipe}: is a recipe for recordings and {store.path} holds images; "
            "choose a recipe with -image- in its name"
        )
    if store.channels != config.input.channels:
        height, width = store.height, store.width
        images = canvas = ""
        if (height, width) != config.input.store_size:  # said at once, not after the next start
            images = f" and its images have {height} × {width} pixels"
            canvas = f" input.canvas=[{height},{width}]"
        raise LatentcastError(
            f"{store.path / MANIFEST}: channels is {store.channels}{images}, the recipe needs "
            f"{config.input.channels}; train with --set input.channels={store.channels} "
            f"input.normalisation=null{canvas}"
        )
    _check_size(config, config.input, store)
    if (bits := store.manifest.bits) is not None:
        config = config.updated({"input.bits": bits})
    assert isinstance(config.input, ImageInput)
    if config.input.normalisation is not None:
        return config
    statistics = store.manifest.statistics
    # A channel that never varies is left at its mean.
    normalisation = Normalisation(
        mean=tuple(mean or 0.0 for mean in statistics.mean),
        std=tuple(std or 1.0 for std in statistics.std),
    )
    return config.updated({"input.normalisation": normalisation.model_dump()})


def _check_size(config: Config, recipe: ImageInput, store: Store) -> None:
    """Nothing is squashed or enlarged unasked: the images have the recipe's size, or its canvas."""
    height, width = store.height, store.width
    if (height, width) == recipe.store_size:
        return
    ways = [f"re-ingest with --size {recipe.height}"] if recipe.height == recipe.width else []
    with suppress(LatentcastError):  # not where patches do not divide them
        config.updated({"input.height": height, "input.width": width, "input.canvas": None})
        ways.append(f"train at their size with --set input.height={height} input.width={width}")
    smaller = min(height / recipe.height, width / recipe.width) < 1
    ways.append(
        f"train with --set input.canvas=[{height},{width}], which "
        f"{'enlarges' if smaller else 'resizes'} the middle of each (and takes random crops, "
        "where the recipe has them, from the whole)"
    )
    expected = "the recipe sees" if recipe.canvas is None else "input.canvas is"
    size = recipe.store_size
    raise LatentcastError(
        f"{store.path / MANIFEST}: its images have {height} × {width} pixels, {expected} {size[0]} "
        f"× {size[1]}; " + ", or ".join(ways)
    )


def _statistics(store: Store, recipe: EcgInput) -> Normalisation:
    statistics = filtered_statistics(store, recipe) if recipe.filters else store.manifest.statistics
    mean = tuple(value for value in statistics.mean if value is not None)
    std = tuple(value for value in statistics.std if value)
    if len(mean) < len(store.leads) or len(std) < len(store.leads):
        silent = [
            lead for lead, m, s in zip(store.leads, statistics.mean, statistics.std, strict=True)
            if m is None or not s
        ]  # fmt: skip
        others = ",".join(lead for lead in store.leads if lead not in silent)
        raise LatentcastError(
            f"{store.path / MANIFEST}: lead {silent[0]} holds no signal in the training split; "
            f"ingest records that have it, or a store of the leads {others} alone, and train with "
            f"--set input.leads=[{others}]"
        )
    return Normalisation(mean=mean, std=std)


def filtered_statistics(store: Store, recipe: EcgInput) -> Statistics:
    """Mean and deviation of each lead after the filters, over the middle window of the training
    records; of more than ``MOST_FILTERED``, that many, evenly spread."""
    rows = store.rows("train")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_FILTERED)).astype(np.int64)]
    count, total, squares = np.zeros((3, len(store.leads)))
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        starts = np.maximum(0, store.lengths[some] - recipe.length) // 2
        counts = torch.from_numpy(store.take(some, starts, recipe.length)).transpose(1, 2)
        valid = counts != INVALID
        millivolts = counts.to(torch.float64) * recipe.scale
        signal = filtered(millivolts, valid, recipe.filters, recipe.sampling_rate)
        signal = torch.where(valid, signal, 0.0)
        count += valid.sum((0, 2)).numpy()
        total += signal.sum((0, 2)).numpy()
        squares += signal.square().sum((0, 2)).numpy()
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
    silent = 1e-6 * recipe.scale  # a constant, but for rounding
    # A run goes on under these very numbers, on another machine too: its last digits are cut off.
    deviations = [float(f"{s:.10g}") if s > silent else None for s in std]
    means = [
        None if s is None else round(m / s, 10) * s for m, s in zip(mean, deviations, strict=True)
    ]
    samples = tuple(int(n) for n in count)
    return Statistics(mean=tuple(means), std=tuple(deviations), records=len(rows), samples=samples)
