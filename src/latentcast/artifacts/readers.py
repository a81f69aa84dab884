"""From what a user gives an encoder to the windows it reads: recordings or images, never both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from latentcast.artifacts.images import ImageReader
from latentcast.artifacts.recordings import ArrayAxes, RecordingReader
from latentcast.config import EcgInput, ImageInput
from latentcast.data.manifest import MANIFEST
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.places import kind_of


def read(
    x: Any,
    rows: npt.ArrayLike | None,
    axes: ArrayAxes,
    resample: bool,
    length: int | None,
    config: EcgInput | ImageInput,
    recipe: str,
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The name of each recording or image, and its windows as integers, int16 ``(windows, samples,
    leads)`` or uint8 ``(1, height, width, channels)``.

    Args:
        length: samples of a window; None, that of the training.
        config: what the encoder reads.
        recipe: of the encoder, for messages.

    Raises:
        LatentcastError: an archive, a store of the other kind, axes of recordings for images.
    """
    if isinstance(x, str | Path) and (Path(x) / MANIFEST).is_file():
        x = Store.open(x)
    elif isinstance(x, str | Path) and (kind := kind_of(Path(x))) == "is an archive":
        raise LatentcastError(f"{x}: {kind}; ingest it and give the store")
    if isinstance(x, Store) and x.modality != config.kind:
        content = "recordings" if x.modality == "ecg" else "images"
        raise LatentcastError(
            f"{x.path}: holds {content}, the encoder was trained on {config.kind} data; give "
            "it a store of its own kind"
        )
    if isinstance(x, Store):
        x.verify_once()
    if isinstance(config, EcgInput):
        return RecordingReader(config, axes, resample, length).read(x, rows)
    if resample or (axes.sampling_rate, axes.leads, axes.unit) != (None, None, None):
        raise LatentcastError(
            f"{recipe}: was trained on images; leave out sampling_rate, leads, unit and resample"
        )
    return ImageReader(config).read(x, rows)
