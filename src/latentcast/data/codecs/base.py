"""What the codecs of the modalities have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from latentcast.data.statistics import ChannelSums
from latentcast.errors import LatentcastError
from latentcast.source import BadRecord, RecordRef

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Runs = list[tuple[int, int, int]]
Made = TypeVar("Made")
Read = TypeVar("Read")


class Payload(NamedTuple):
    """A record as it goes into a shard; a million of them are made and go from process to process.

    Attributes:
        data: the bytes, an array of them, or a view that lasts until the next batch is asked for.
        extent: how far they reach along the first axis of the shard's array.
        length: of the index: samples of a recording, bytes of an image.
        digest: hash of what makes two records the same.
        sums: for the statistics; None for a record that is not trained on.
        runs: ``(lead, start, stop)`` of measured stretches that are not valid.
        metadata: of the sample itself.
        enlarged: whether it is an image smaller than the canvas, or a recording at a lower rate.
    """

    data: bytes | memoryview | npt.NDArray[np.uint8]
    extent: int
    length: int
    digest: str
    sums: ChannelSums | None
    runs: Runs
    metadata: dict[str, Any]
    enlarged: bool = False


def buffer(out: Array | None, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """``out``, or a new array without it; raises ValueError where it does not fit."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise LatentcastError(f"out: is a {type(out).__name__}; give an array to be filled")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out is {out.dtype} {out.shape}, needed is {np.dtype(dtype)} {shape}")
    return out


def readable(
    refs: Iterable[RecordRef], read: Callable[[RecordRef], Read]
) -> Iterator[tuple[RecordRef, Read]]:
    """The records that can be read, and what ``read`` gives of each.

    The others get their quarantine row when their turn comes.
    """
    for ref in refs:
        if ref.problem is None:
            try:
                found = read(ref)
            except Exception as error:
                if is_ours(error):
                    raise
                continue
            yield ref, found


def is_ours(error: Exception) -> bool:
    """Whether the machine or its set-up is at fault, and not the record that was being read."""
    return isinstance(error, LatentcastError | MemoryError) and not isinstance(error, BadRecord)


def one_by_one(convert: Callable[..., Made], *arguments: Any) -> Made | Exception:
    """What converting a record gives, or raises: none stops the others."""
    try:
        return convert(*arguments)
    except Exception as error:
        return error
