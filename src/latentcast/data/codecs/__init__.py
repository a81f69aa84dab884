"""A codec for each modality: its manifest, its options, and how its records are stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentcast.data.codecs.counts import CountsOptions, EcgManifest, StoredCounts
from latentcast.data.codecs.pixels import ImageManifest, PixelsOptions, StoredPixels
from latentcast.data.manifest import modality_of, read_as
from latentcast.source import Modality

Manifest = EcgManifest | ImageManifest


@dataclass(frozen=True)
class Codec:
    """Attributes:
    records: what one calls the records, in messages.
    options: the arguments of ``ingest`` that are about this modality; they make the target.
    stored: takes records from the shards of a finished store.
    """

    records: str
    options: Any
    stored: Any


CODECS: dict[Modality, Codec] = {
    "ecg": Codec("recordings", CountsOptions, StoredCounts),
    "image": Codec("images", PixelsOptions, StoredPixels),
}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store.

    Raises:
        LatentcastError: there is none, the ingest is unfinished, or another version wrote it.
    """
    if modality_of(folder) == "image":
        return read_as(ImageManifest, folder)
    return read_as(EcgManifest, folder)
