"""What a modality brings to a store: how its records are converted, written and taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from latentcast.data.statistics import Sums
from latentcast.errors import LatentcastError
from latentcast.signals.recording import BadRecord
from latentcast.source import Sample

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Runs = list[tuple[int, int, int]]


AnySums = TypeVar("AnySums", bound=Sums)


@dataclass(frozen=True)
class Payload(Generic[AnySums]):
    """A record as it goes into a shard.

    Attributes:
        data: the bytes.
        extent: how far they reach along the first axis of the shard's array.
        length: of the index: samples of a recording, bytes of an image.
        digest: hash of what makes two records the same.
        sums: for the statistics; None for a record that is not trained on.
        runs: ``(lead, start, stop)`` of measured stretches that are not valid.
        metadata: of the sample itself.
    """

    data: bytes
    extent: int
    length: int
    digest: str
    sums: AnySums | None
    runs: Runs = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


class WrittenShard(NamedTuple):
    """A shard as its sidecar describes it; ``bytes`` are those of its records."""

    file: str
    extent: int
    records: int
    bytes: int
    sha256: str


@dataclass
class Written(Generic[AnySums]):
    """All records of a store, one entry a record; ``runs`` begin with the row."""

    sums: AnySums
    classes: tuple[str, ...]
    shards: list[WrittenShard] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    fold: list[int] = field(default_factory=list)
    record_id: list[str] = field(default_factory=list)
    patient_id: list[str] = field(default_factory=list)
    labels: list[dict[str, float]] = field(default_factory=list)
    runs: list[tuple[int, int, int, int]] = field(default_factory=list)
    metadata_offset: list[int] = field(default_factory=lambda: [0])
    metadata_sha256: str = ""
    has_metadata: bool = False

    def __len__(self) -> int:
        return len(self.record_id)

    def places(self) -> dict[str, Array]:
        """Where each record lies, as columns of the index."""
        return {
            "shard": np.array(self.shard, dtype=np.int32),
            "offset": np.array(self.offset, dtype=np.int64),
            "length": np.array(self.length, dtype=np.int64),
        }


class Target(ABC, Generic[Sample, AnySums]):
    """What every record of a new store is brought to; sent to the processes that convert."""

    pool: ClassVar[Literal["processes", "threads"]]
    """What converts: processes where Python itself has much to do, threads where it has not."""
    compared: ClassVar[str]
    """What two records have in common that count as duplicates."""

    @abstractmethod
    def plan(self) -> dict[str, Any]:
        """As JSON, for the plan of an unfinished ingest."""

    @abstractmethod
    def convert(self, sample: Sample, *, training: bool) -> Payload[AnySums]:
        """Raises BadRecord with the reason when the sample cannot be used."""

    @abstractmethod
    def array(self, extent: int) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a shard's array, as a ``.npy`` header has them."""

    @abstractmethod
    def sums(self, stored: dict[str, Any] | None = None) -> AnySums:
        """Zero, or what :meth:`Sums.to_json` gave."""

    @abstractmethod
    def index(self, written: Written[AnySums]) -> dict[str, Array]:
        """The columns of ``index.npz``, in their order."""

    @abstractmethod
    def manifest(
        self, written: Written[AnySums], index_sha256: str, provenance: dict[str, Any]
    ) -> Any:
        """The manifest of the finished store."""


class Stored(ABC):
    """The records of a finished store, taken from its memory maps."""

    columns: ClassVar[tuple[str, ...]]
    """Of the index, what taking needs."""
    dtype: ClassVar[np.dtype[Any]]
    """Of what is taken."""

    @abstractmethod
    def __init__(self, manifest: Any, columns: dict[str, Array], shards: Sequence[Array]) -> None:
        """``columns`` are those named by :attr:`columns`."""


def buffer(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """``out`` where it is given, else a new array; raises ValueError where it does not fit."""
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out is {out.dtype} {out.shape}, needed is {dtype} {shape}")
    return out


def is_ours(error: Exception) -> bool:
    """Whether the machine or its set-up is at fault, and not the record that was being read."""
    return isinstance(error, LatentcastError | MemoryError) and not isinstance(error, BadRecord)
