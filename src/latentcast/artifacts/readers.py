"""From what a user gives an encoder to the windows it reads: recordings or images, never both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt

from latentcast.artifacts.images import ImageReader
from latentcast.artifacts.recordings import ArrayAxes, MissingLeads, RecordingReader
from latentcast.artifacts.rejections import Rejections
from latentcast.artifacts.stores import store_at
from latentcast.artifacts.windows import with_tokens
from latentcast.config import EcgInput, ImageInput
from latentcast.errors import LatentcastError
from latentcast.nn.base import Readable


def read_windows(
    x: Any,
    rows: npt.ArrayLike | None,
    axes: ArrayAxes,
    resample: bool,
    length: int | None,
    rejections: Rejections,
    network: Readable,
    config: EcgInput | ImageInput,
    recipe: str,
    missing_leads: MissingLeads = "refuse",
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The name of each recording or image, and its windows as integers, int16 ``(windows, samples,
    leads)`` or uint8 ``(1, height, width, channels)``.

    Args:
        length: samples of a window; None, that of the training.
        network: what reads them.
        config: what the network was trained on.
        recipe: for messages.

    Raises:
        LatentcastError: a store of the other kind; axes of recordings for images.
    """
    x = store_at(x, config.kind)
    if isinstance(config, EcgInput):
        reader = RecordingReader(config, axes, resample, length, rejections, missing_leads)
        return with_tokens(network, reader.read(x, rows), rejections)
    if resample or missing_leads != "refuse" or axes != ArrayAxes(layout=axes.layout):
        raise LatentcastError(
            f"{recipe}: was trained on images; leave out sampling_rate, leads, unit, rename, "
            "resample and missing_leads"
        )
    return ImageReader(config, rejections).read(x, rows)
