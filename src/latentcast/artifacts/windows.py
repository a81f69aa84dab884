"""Windows of many recordings in batches of one shape, and their vectors averaged again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.artifacts.recordings import Counts
from latentcast.artifacts.rejections import Rejections
from latentcast.config import EcgInput, ImageInput
from latentcast.errors import LatentcastError
from latentcast.nn.base import Readable
from latentcast.signals.recording import INVALID
from latentcast.source import BadRecord


def samples_of(seconds: float, rate: float, patch_seconds: float, network: Readable) -> int:
    """Samples of a window of so many seconds, which patches fill.

    Raises:
        LatentcastError: no patch fits, or a part of one is left.
    """
    length = round(seconds * rate)
    if length < 1:
        raise LatentcastError(
            f"window_seconds {seconds:g}: is shorter than a patch of {patch_seconds:g} s; give a "
            "multiple of it"
        )
    try:
        network.grid((length,))
    except LatentcastError as problem:
        raise LatentcastError(f"window_seconds {seconds:g}: {problem}") from None
    return length


def in_batches(
    samples: Iterator[tuple[str, npt.NDArray[Any]]], names: list[str], size: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """Windows of one shape, at most ``size`` at a time, and the number of the name each is of.

    Args:
        samples: the name and the windows of each recording or image.
        names: filled with the names, in their order.
        size: of a batch.
    """
    windows: list[npt.NDArray[Any]] = []
    owners: list[int] = []
    for name, several in samples:
        names.append(name)
        for window in several:
            if windows and (len(windows) == size or window.shape != windows[0].shape):
                yield np.array(owners), np.stack(windows)
                windows, owners = [], []
            windows.append(window)
            owners.append(len(names) - 1)
    if windows:
        yield np.array(owners), np.stack(windows)


def averaged(
    names: list[str],
    owners: npt.NDArray[np.int64],
    vectors: npt.NDArray[np.float32],
    measured: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """The mean over the windows of each recording that have a valid token, ``(names, features)``.

    Args:
        names: of the recordings, each with such a window.
        owners: of each window, the recording that it is of.
        vectors: ``(windows, features)``.
        measured: of each window, whether a token of it is valid.
    """
    windows = np.bincount(owners[measured], minlength=len(names))
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, owners[measured], vectors[measured])
    return (sums / windows[:, None]).astype(np.float32)


def with_tokens(
    network: Readable, recordings: Iterator[tuple[str, Counts]], rejections: Rejections
) -> Iterator[tuple[str, Counts]]:
    """Those with a valid patch: of any other the network would make something of nothing."""
    for name, windows in recordings:
        measured = windows != INVALID
        # Asking the network costs as much as a tenth of a small one's forward pass.
        if measured.all() or network.valid(torch.from_numpy(measured).transpose(1, 2)).any():
            yield name, windows
        else:
            problem = "has no valid patch; it is shorter than one, flat or missing, leave it out"
            rejections.add(name, BadRecord(problem))


def blank(config: EcgInput | ImageInput) -> Tensor:
    """One sample of zeros, as a store would give it."""
    dtype = torch.int16 if isinstance(config, EcgInput) else torch.uint8
    return torch.zeros(1, *config.size, config.channels, dtype=dtype)
