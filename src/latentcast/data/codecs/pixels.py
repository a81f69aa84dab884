"""Images as uint8 pixels on one canvas, or as the bytes of their files, decoded when taken."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from latentcast.data.codecs.base import (
    Array,
    Ints,
    Payload,
    Stored,
    Target,
    Written,
    buffer,
    is_ours,
)
from latentcast.data.labels import Labels
from latentcast.data.manifest import SPLITS, StoreModel
from latentcast.data.statistics import ChannelStatistics, ChannelSums
from latentcast.errors import LatentcastError
from latentcast.images.decode import Canvas, Pixels, decode, fit
from latentcast.images.source import ImageSource
from latentcast.signals.recording import BadRecord
from latentcast.source import RecordRef

Encoding = Literal["pixels", "encoded"]

_CHEAP = 4  # images that are decoded faster than threads start


class ImageShard(StoreModel):
    """One file: ``images`` in it, and the ``bytes`` of their data."""

    file: str
    images: int
    bytes: int
    sha256: str


class ImageManifest(StoreModel):
    """``manifest.json`` of a store of images.

    Attributes:
        encoding: what the shards hold: ``pixels`` uint8 ``(images, height, width, channels)``, or
            the bytes of the image files one after the other, ``encoded``.
        height, width, channels: the canvas that every image is brought to.
        resize: whether images are resized to it; otherwise they all have that size.
        classes: names, by label.
        metadata_sha256: where images have metadata.
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
    statistics: ChannelStatistics
    provenance: dict[str, Any]
    metadata_sha256: str = ""

    @property
    def canvas(self) -> Canvas:
        return Canvas(self.height, self.width, self.channels, self.resize)

    def shapes(self) -> list[tuple[int, ...]]:
        """Of the array of each shard."""
        if self.encoding == "encoded":
            return [(shard.bytes,) for shard in self.shards]
        canvas = (self.height, self.width, self.channels)
        return [(shard.images, *canvas) for shard in self.shards]


@dataclass(frozen=True)
class PixelsOptions:
    """Arguments of ``ingest`` that are about images."""

    size: int | None = None
    encoding: Encoding = "pixels"

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise LatentcastError(f"--size {self.size}: must be positive, in pixels")

    def provenance(self) -> dict[str, Any]:
        """As the manifest records them."""
        return asdict(self)

    def target(
        self,
        source: ImageSource,
        refs: Sequence[RecordRef],
        finished: ImageManifest | None = None,
    ) -> PixelsTarget:
        """What the images are brought to: by their headers, or as in the ``finished`` store.

        Raises:
            LatentcastError: they differ in size and no size is given, or have no bytes to keep.
        """
        if self.encoding == "encoded" and not source.encoded:
            raise LatentcastError(
                f"--encoding encoded: keeps the bytes of image files, and {source.name} holds "
                "arrays; leave it out"
            )
        canvas = self._canvas(source, refs) if finished is None else finished.canvas
        return PixelsTarget(canvas, self.encoding)

    def _canvas(self, source: ImageSource, refs: Sequence[RecordRef]) -> Canvas:
        """From the headers of the images; grey only where all are."""
        first: tuple[RecordRef, int, int] | None = None
        grey = True
        for ref in refs:
            if ref.problem is not None:
                continue
            try:
                measured = source.measure(ref)
            except Exception as error:
                if is_ours(error):
                    raise
                continue  # it gets its quarantine row when its turn comes
            grey = grey and measured.grey
            if first is None:
                first = ref, measured.height, measured.width
            elif self.size is None and (measured.height, measured.width) != first[1:]:
                raise LatentcastError(
                    f"{source.name}: images differ in size ({first[0].record_id} {first[2]} × "
                    f"{first[1]}, {ref.record_id} {measured.width} × {measured.height}); "
                    "--size 224 brings all to 224 × 224"
                )
            if self.size is not None and not grey:
                break
        channels = 1 if grey and first is not None else 3
        if self.size is not None:
            return Canvas(self.size, self.size, channels, resize=True)
        # Nothing can be read: any canvas does, the run ends with the reasons.
        _, height, width = first or (None, 1, 1)
        return Canvas(height, width, channels, resize=False)


@dataclass(frozen=True)
class PixelsTarget(Target[bytes | Pixels, ChannelSums]):
    """What every image of the store is brought to."""

    canvas: Canvas
    encoding: Encoding

    # Pillow decodes outside the interpreter lock.
    pool: ClassVar[Literal["processes", "threads"]] = "threads"
    compared: ClassVar[str] = "bytes"

    def plan(self) -> dict[str, Any]:
        return asdict(self)

    def convert(self, sample: bytes | Pixels, *, training: bool) -> Payload[ChannelSums]:
        # Encoded images are decoded as well: what cannot be trained on must not get in.
        if isinstance(sample, bytes):
            raw, pixels = sample, decode(sample, self.canvas)
        else:
            raw, pixels = sample.tobytes(), fit(sample, self.canvas)
        encoded = self.encoding == "encoded"
        data = raw if encoded else pixels.tobytes()
        return Payload(
            data=data,
            extent=len(data) if encoded else 1,
            length=len(data),
            digest=hashlib.blake2b(raw, digest_size=16).hexdigest(),
            sums=ChannelSums.of(pixels) if training else None,
        )

    def array(self, extent: int) -> tuple[str, tuple[int, ...]]:
        if self.encoding == "encoded":
            return "|u1", (extent,)
        return "|u1", (extent, self.canvas.height, self.canvas.width, self.canvas.channels)

    def sums(self, stored: dict[str, Any] | None = None) -> ChannelSums:
        if stored is None:
            return ChannelSums(0, np.zeros((self.canvas.channels, 256), np.int64))
        return ChannelSums(stored["images"], np.array(stored["histogram"], np.int64))

    def index(self, written: Written[ChannelSums]) -> dict[str, Array]:
        labels = Labels.of_records(written.labels, written.classes)
        ids = labels.ids()
        columns = {
            "record_id": np.array([record_id.encode() for record_id in written.record_id]),
            **written.places(),
            "fold": np.array(written.fold, dtype=np.int16),
            "label": ids,
        }
        # What most sources of images have none of.
        if any(written.patient_id):
            columns["patient_id"] = np.array(written.patient_id, dtype=np.str_)
        if int((ids >= 0).sum()) < len(labels.indices) or (labels.values != 1.0).any():
            columns["label_indptr"] = labels.indptr
            columns["label_indices"] = labels.indices
            columns["label_values"] = labels.values
        if written.has_metadata:
            columns["metadata_offset"] = np.array(written.metadata_offset, dtype=np.int64)
        return columns

    def manifest(
        self, written: Written[ChannelSums], index_sha256: str, provenance: dict[str, Any]
    ) -> ImageManifest:
        return ImageManifest(
            format_version=1,
            modality="image",
            encoding=self.encoding,
            height=self.canvas.height,
            width=self.canvas.width,
            channels=self.canvas.channels,
            resize=self.canvas.resize,
            records=len(written),
            classes=Labels.of_records(written.labels, written.classes).codes,
            shards=tuple(
                ImageShard(
                    file=shard.file, images=shard.records, bytes=shard.bytes, sha256=shard.sha256
                )
                for shard in written.shards
            ),
            index_sha256=index_sha256,
            splits=SPLITS,
            statistics=written.sums.statistics(),
            provenance=provenance,
            metadata_sha256=written.metadata_sha256 if written.has_metadata else "",
        )


class Undecodable(Exception):
    """An image that could be decoded when it was ingested: its row, and what is wrong with it."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


class StoredPixels(Stored):
    """The images of a store."""

    columns: ClassVar[tuple[str, ...]] = ("shard", "offset", "length")
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    def __init__(
        self, manifest: ImageManifest, columns: dict[str, Array], shards: Sequence[Array]
    ) -> None:
        self.manifest, self._shards, self._canvas = manifest, shards, manifest.canvas
        self._shard: Ints = columns["shard"].astype(np.int64)
        self._offset: Ints = columns["offset"]
        self._length: Ints = columns["length"]

    def take(self, rows: Ints, out: Array | None) -> Array:
        """Images uint8 ``(len(rows), height, width, channels)``.

        Raises:
            Undecodable: an encoded image cannot be decoded any more.
        """
        canvas = self._canvas
        shape = (len(rows), canvas.height, canvas.width, canvas.channels)
        images = buffer(out, shape, self.dtype)
        if self.manifest.encoding == "pixels":
            places = zip(self._shard[rows].tolist(), self._offset[rows].tolist(), strict=True)
            for i, (shard, offset) in enumerate(places):
                images[i] = self._shards[shard][offset]
            return images

        def decode_into(i: int) -> None:
            row = int(rows[i])
            try:
                images[i] = decode(self.encoded(row), canvas)
            except BadRecord as error:
                raise Undecodable(row, str(error)) from error

        threads = min(8, len(rows), usable_processors())
        if threads == 1 or len(rows) <= _CHEAP:
            for i in range(len(rows)):
                decode_into(i)
        else:
            with ThreadPoolExecutor(threads) as pool:  # Pillow decodes outside the interpreter lock
                list(pool.map(decode_into, range(len(rows))))
        return images

    def encoded(self, row: int) -> bytes:
        """The bytes of an image's file."""
        offset, shard = int(self._offset[row]), self._shards[int(self._shard[row])]
        return shard[offset : offset + int(self._length[row])].tobytes()


def usable_processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
