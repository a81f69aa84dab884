"""``manifest.json`` of a store of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from latentcast.data.manifest import StoreModel, read_as

Encoding = Literal["pixels", "encoded"]


class ImageShard(StoreModel):
    """One file: ``images`` in it, and the ``bytes`` of their data."""

    file: str
    images: int
    bytes: int
    sha256: str


class ImageStatistics(StoreModel):
    """Mean and standard deviation per channel of the train split, of values in [0, 1].

    Over every pixel of the canvas of every image. ``None`` marks a channel of one value only (or a
    train split without images): nothing could be divided by.
    """

    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    images: int


class ImageManifest(StoreModel):
    """A function of the source and the options alone, so the same ingest gives the same bytes.

    Attributes:
        encoding: what the shards hold: ``pixels`` uint8 ``(images, height, width, channels)``, or
            the bytes of the image files one after the other, ``encoded``.
        height, width, channels: the canvas that every image is brought to.
        resize: whether images are resized to it; otherwise they all have that size.
        classes: names, by label.
    """

    format_version: Literal[1]
    modality: Literal["image"]
    encoding: Encoding
    height: int
    width: int
    channels: int
    resize: bool
    records: int
    classes: tuple[str, ...]
    shards: tuple[ImageShard, ...]
    index_sha256: str
    splits: dict[str, tuple[int, ...]]
    statistics: ImageStatistics
    provenance: dict[str, Any]


def read_image_manifest(folder: Path) -> ImageManifest:
    """The manifest of a finished store of images.

    Raises:
        LatentcastError: there is none, the ingest is unfinished, another version wrote it, or the
            store holds recordings.
    """
    return read_as(ImageManifest, folder, "image")
