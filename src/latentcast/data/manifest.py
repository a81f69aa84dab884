"""``manifest.json``: what every store records of itself, checked when it is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

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
    """Base of what a manifest holds: immutable, and an unknown key is an error.

    A manifest is a function of the source and the options alone, so the same ingest gives the same
    bytes. A field with a default is written where its value is another one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


_Model = TypeVar("_Model", bound=StoreModel)


def modality_of(folder: Path) -> str:
    """What a finished store holds by its manifest: ``ecg``, ``image``, or anything else.

    Raises:
        LatentcastError: it is no store, or the ingest is unfinished.
    """
    try:
        return str(json.loads(_text(folder))["modality"])
    except (ValueError, TypeError, KeyError):
        return ""  # what is wrong with it comes out when it is read as a model


def read_as(model: type[_Model], folder: Path) -> _Model:
    """The manifest of a finished store.

    Raises:
        LatentcastError: there is none, the ingest is unfinished, or another version wrote it.
    """
    try:
        return model.model_validate_json(_text(folder))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise LatentcastError(
            f"{folder / MANIFEST}: {where}: {first['msg']}; this version reads format "
            f"{FORMAT_VERSION}, re-ingest the source"
        ) from error


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


def verify_files(folder: Path, sha256: Mapping[str, str]) -> None:
    """Compare files with their sha256; reads all of them.

    Raises:
        LatentcastError: names the damaged file.
    """
    for file, expected in sha256.items():
        path = folder / file
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise LatentcastError(f"{path}: cannot be read ({error}); re-ingest") from error
        if found != expected:
            raise LatentcastError(
                f"{path}: is damaged (sha256 {found[:12]}…, the manifest has "
                f"{expected[:12]}…); restore it from a copy, or remove {folder} and ingest again"
            )
