"""``manifest.json``: what a store says about itself, checked when it is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

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


class StoreModel(BaseModel):
    """Base of what a manifest holds: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_AnyManifest = TypeVar("_AnyManifest", bound=StoreModel)


class Shard(StoreModel):
    """One file of samples; ``samples`` counts time steps over all its records."""

    file: str
    samples: int
    sha256: str


class Statistics(StoreModel):
    """Mean and standard deviation per lead in mV, over every valid sample of the train split.

    ``None`` marks a lead of which the train split holds no valid sample (or one value only): there
    is no number that could stand for it. ``samples`` counts the valid samples per lead.
    """

    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    records: int
    samples: tuple[int, ...]


class Manifest(StoreModel):
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
    """The manifest of a finished store of recordings.

    Raises:
        LatentcastError: there is none, the ingest is unfinished, another version wrote it, or the
            store holds images.
    """
    return read_as(Manifest, folder, "ecg")


def read_as(model: type[_AnyManifest], folder: Path, modality: str) -> _AnyManifest:
    """The manifest of a finished store that must hold this modality: ``ecg`` or ``image``."""
    found = modality_of(folder)
    if found != modality and found in _HOLDS:
        raise LatentcastError(
            f"{folder}: is a store of {_HOLDS[found]}; name one of {_HOLDS[modality]}"
        )
    path = folder / MANIFEST
    try:
        return model.model_validate_json(_text(folder))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise LatentcastError(
            f"{path}: {where}: {first['msg']}; this version reads format {FORMAT_VERSION}, "
            "re-ingest the source"
        ) from error


def modality_of(folder: Path) -> str:
    """What a finished store says it holds: ``ecg``, ``image``, or anything else.

    Raises:
        LatentcastError: it is no store, or the ingest is unfinished.
    """
    try:
        return str(json.loads(_text(folder))["modality"])
    except (ValueError, TypeError, KeyError):
        return ""  # what is wrong with it is for the model to say


_HOLDS = {"ecg": "recordings", "image": "images"}


def _text(folder: Path) -> str:
    path = folder / MANIFEST
    try:
        return path.read_text(encoding="utf-8")
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


def library_version() -> str:
    """Of the installed package, for the provenance of a store."""
    try:
        return version("latentcast")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "checkout"


def verify_files(folder: Path, promised: Mapping[str, str]) -> None:
    """Compare files with their sha256; reads all of them.

    Raises:
        LatentcastError: names the damaged file.
    """
    for file, expected in promised.items():
        path = folder / file
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise LatentcastError(f"{path}: cannot be read ({error}); re-ingest") from error
        if found != expected:
            raise LatentcastError(
                f"{path}: is damaged (sha256 {found[:12]}…, the manifest says "
                f"{expected[:12]}…); restore it from a copy, or remove {folder} and ingest again"
            )
