"""``manifest.json``: what every store records of itself, checked when it is opened."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from latentcast.archives import archive_of
from latentcast.errors import LatentcastError
from latentcast.files import check_digest, digested, inside, read_object
from latentcast.files import sha256 as file_digest
from latentcast.images.decode import Canvas
from latentcast.places import kind_of
from latentcast.signals.channels import MILLIVOLTS, Signal
from latentcast.source import Modality

FORMAT_VERSION: Final = 2
"""Manifests of version 1 have no digest of themselves, and are read as well."""
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
Encoding = Literal["pixels", "encoded"]
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=0, le=2**15)]
_READERS = 8
"""Shards that are read at the same time: one core hashes about 1 GB/s, which disks exceed."""


class StoreModel(BaseModel):
    """Base of what a manifest holds: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Shard(StoreModel):
    """One file: the time steps of recordings, or how many images and the bytes of their data."""

    file: str
    samples: Count = 0
    images: Count = 0
    bytes: Count = 0
    sha256: str


class Statistics(StoreModel):
    """Mean and standard deviation over the train split, per lead or colour channel.

    Of recordings in mV over every valid sample, of which ``samples`` are counted per lead; of
    images in [0, 1] over every pixel of the canvas. ``None`` marks a channel without a value, or
    with one value only: there is no number that could stand for it.
    """

    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    records: int = 0
    samples: tuple[int, ...] = ()
    images: int = 0


class Manifest(StoreModel):
    """A function of the source and the options alone, so the same ingest gives the same bytes.

    Attributes:
        encoding: what the shards of images hold: ``pixels`` uint8 ``(images, height, width,
            channels)``, or the bytes of the image files one after the other, ``encoded``.
        height, width, channels: the canvas that every image is brought to.
        resize: whether images are resized to it; otherwise they all have that size.
        bits: how many of the 16 bits of deep image files are used, where it was given.
        scale: millivolts of one count of recordings, or another ``unit``.
        classes: of images, names by label.
        metadata_sha256: of recordings, and of images that have metadata.
        signal: ``other`` where the channels of recordings are no ECG leads.
        digest: sha256 of all the rest of the manifest.
    """

    format_version: Literal[1, 2]
    modality: Modality
    encoding: Encoding = "pixels"
    height: Side = 0
    width: Side = 0
    channels: Side = 0
    resize: bool = False
    bits: int | None = None
    sampling_rate: float = 0.0
    leads: tuple[str, ...] = ()
    scale: float = 0.0
    records: Count
    classes: tuple[str, ...] = ()
    shards: tuple[Shard, ...]
    index_sha256: str
    metadata_sha256: str = ""
    splits: dict[str, tuple[Annotated[int, Field(ge=1, le=10)], ...]]
    statistics: Statistics
    provenance: dict[str, Any]
    signal: Signal = "ecg"
    unit: str = MILLIVOLTS
    digest: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {
            "ecg": ("sampling_rate", "leads", "scale", "metadata_sha256"),
            "image": ("encoding", "height", "width", "channels", "resize", "classes"),
        }
        for name in needed[self.modality]:
            if name not in self.model_fields_set:
                raise ValueError(f"{name} is missing")
        if self.modality == "ecg" and not (self.scale > 0 and self.sampling_rate > 0):
            raise ValueError("scale and sampling_rate must be positive")
        return self

    @property
    def canvas(self) -> Canvas:
        return Canvas(self.height, self.width, self.channels, self.resize, self.bits)

    def array(self, shard: Shard) -> tuple[str, tuple[int, ...]]:
        """Type and shape of the array of a shard."""
        if self.modality == "ecg":
            return "int16", (shard.samples, len(self.leads))
        if self.encoding == "encoded":
            return "uint8", (shard.bytes,)
        return "uint8", (shard.images, self.height, self.width, self.channels)

    def to_json(self) -> str:
        """What is true of every store of its modality, what was set beyond that, and the digest."""
        content = json.loads(self.model_dump_json(exclude_unset=True))
        complete = self.model_copy(update={"digest": digested(content)["digest"]})
        return complete.model_dump_json(indent=1, exclude_unset=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store.

    Raises:
        LatentcastError: it is missing or damaged, the ingest is unfinished, or another version
            wrote it.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        if (folder / PLAN).is_file():
            raise LatentcastError(
                f"{folder}: the ingest was interrupted; run the same ingest again, it goes on"
            )
        if not folder.exists() and archive_of(folder) is None:
            raise LatentcastError(
                f"{folder}: does not exist; make a store with latentcast ingest SOURCE --out "
                f"{shlex.quote(str(folder))}"
            )
        if (kind := kind_of(folder)) and kind != "is an archive":
            raise LatentcastError(f"{folder}: {kind} and no store; name the folder of a store")
        raise LatentcastError(
            f"{folder}: is no store ({MANIFEST} is missing); if it holds recordings or images, "
            f"make one with latentcast ingest {shlex.quote(str(folder))} --out STORE"
        )
    try:
        record = read_object(inside(folder, MANIFEST))
        if record.get("format_version") == FORMAT_VERSION:
            check_digest(record)
        return Manifest.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise LatentcastError(
            f"{path}: {where}: {first['msg']}; this version reads format {FORMAT_VERSION}, remove "
            f"{folder} and ingest again"
        ) from error
    except (OSError, ValueError) as error:
        raise LatentcastError(
            f"{path}: cannot be used ({error}); restore it from a copy, or remove {folder} and "
            "ingest again"
        ) from error


def library_version() -> str:
    """Of the installed package, for the provenance of a store."""
    try:
        return version("latentcast")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "checkout"


def verify_files(folder: Path, sha256: Mapping[str, str]) -> None:
    """Compare files with their sha256; reads all of them, several at a time.

    Raises:
        LatentcastError: names the damaged file, or one that is not in the folder.
    """
    paths = [inside(folder, file) for file in sha256]
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            digests = [*pool.map(file_digest, paths)]
        except OSError as error:
            raise LatentcastError(
                f"{folder}: cannot be read ({error}); restore the file from a copy, or remove "
                f"{folder} and ingest again"
            ) from error
    for path, found, expected in zip(paths, digests, sha256.values(), strict=True):
        if found != expected:
            raise LatentcastError(
                f"{path}: is damaged (sha256 {found[:12]}…, the manifest has "
                f"{expected[:12]}…); restore it from a copy, or remove {folder} and ingest again"
            )
