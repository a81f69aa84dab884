"""A codec for each modality: how its records are converted, written and taken."""

from __future__ import annotations

from dataclasses import dataclass

from latentcast.data.codecs.counts import CountsTarget, StoredCounts
from latentcast.data.codecs.pixels import PixelsTarget, StoredPixels
from latentcast.source import Modality

Target = CountsTarget | PixelsTarget


@dataclass(frozen=True)
class Codec:
    """What converts and writes records, what takes them, and what they are called in messages."""

    target: type[CountsTarget] | type[PixelsTarget]
    stored: type[StoredCounts] | type[StoredPixels]
    records: str


CODECS: dict[Modality, Codec] = {
    "ecg": Codec(CountsTarget, StoredCounts, "recordings"),
    "image": Codec(PixelsTarget, StoredPixels, "images"),
}
