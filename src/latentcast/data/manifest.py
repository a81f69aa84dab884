"""``manifest.json``: what a store says about itself, checked when it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from latentcast.errors import LatentcastError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
INDEX = "index.npz"
METADATA = "metadata.jsonl"
QUARANTINE = "quarantine.csv"
PLAN = "ingest.json"
"""What an unfinished ingest is about; gone from a finished store."""
SPLITS: dict[str, tuple[int, ...]] = {
    "train": (1, 2, 3, 4, 5, 6, 7, 8),
    "validation": (9,),
    "test": (10,),
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Model):
    """One file of samples; ``samples`` counts time steps over all its records."""

    file: str
    samples: int
    sha256: str


class Statistics(_Model):
    """Mean and standard deviation per lead in mV, over every valid sample of the train split.

    ``None`` marks a lead of which the train split holds no valid sample (or one value only): there
    is no number that could stand for it. ``samples`` counts the valid samples per lead.
    """

    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    records: int
    samples: tuple[int, ...]


class Manifest(_Model):
    """A function of the source and the options alone, so the same ingest gives the same bytes."""

    format_version: Literal[1]
    modality: Literal["ecg"]
    sampling_rate: float
    leads: tuple[str, ...]
    scale: float
    records: int
    shards: tuple[Shard, ...]
    index_sha256: str
    metadata_sha256: str
    splits: dict[str, tuple[int, ...]]
    statistics: Statistics
    provenance: dict[str, Any]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store.

    Raises:
        LatentcastError: there is none, the ingest is unfinished, or another version wrote it.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if (folder / PLAN).is_file():
            raise LatentcastError(
                f"{folder}: the ingest was interrupted; run the same ingest again, it goes on"
            ) from None
        raise LatentcastError(
            f"{folder}: is no store ({MANIFEST} is missing); make one with latentcast ingest "
            f"SOURCE --out {folder}"
        ) from None
    except OSError as error:
        raise LatentcastError(f"{path}: cannot be read ({error})") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise LatentcastError(
            f"{path}: {where}: {first['msg']}; this version reads format {FORMAT_VERSION}, "
            "re-ingest the source"
        ) from error
