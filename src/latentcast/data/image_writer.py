"""Shards of images, their sidecars, and the files that finish a store."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from latentcast.data.convert import Rejected
from latentcast.data.image_manifest import (
    Encoding,
    ImageManifest,
    ImageShard,
    ImageStatistics,
)
from latentcast.data.manifest import INDEX, MANIFEST, SPLITS
from latentcast.data.writer import Sidecar, read_sidecars, sidecar_path, write_quarantine
from latentcast.files import replacing, sync, write_text
from latentcast.images.decode import Canvas
from latentcast.images.source import ImageRef

_NPY_HEADER = 128


@dataclass(frozen=True)
class ConvertedImage:
    """An image ready to be appended.

    Attributes:
        payload: what goes into the shard: pixels or the bytes of the file.
        digest: hash of the bytes of the source, equal for equal images.
        histogram: int64 ``(channels, 256)`` of the pixels of a training image; None otherwise.
    """

    ref: ImageRef
    payload: bytes
    digest: str
    fold: int
    histogram: npt.NDArray[np.int64] | None


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """A ``.npy`` 1.0 header of exactly 128 bytes, so that it can be written after the data."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    padded = text.ljust(_NPY_HEADER - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")


@dataclass
class ImageShardWriter:
    """Appends images to one shard after another; where one ends depends on the images alone."""

    folder: Path
    canvas: Canvas
    encoding: Encoding
    shard_bytes: int
    number: int = 0
    _file: BinaryIO | None = None
    _bytes: int = 0
    _records: list[dict[str, Any]] = field(default_factory=list)
    _rejected: list[dict[str, str]] = field(default_factory=list)
    _histogram: npt.NDArray[np.int64] | None = None
    _counted: int = 0

    def add(self, image: ConvertedImage, position: int) -> None:
        """Append the image at ``position`` of the listing."""
        size = len(image.payload)
        if self._records and self._bytes + size > self.shard_bytes:
            self.close(next_ref=position)
        if self._file is None:
            self._file = self._partial.open("wb")
            self._file.write(bytes(_NPY_HEADER))
        self._file.write(image.payload)
        self._records.append(
            {
                "record_id": image.ref.record_id,
                "fold": image.fold,
                "label": image.ref.label,
                "offset": len(self._records) if self.encoding == "pixels" else self._bytes,
                "length": size,
                "digest": image.digest,
            }
        )
        self._bytes += size
        if image.histogram is not None:
            self._counted += 1
            if self._histogram is None:
                self._histogram = image.histogram.copy()
            else:
                self._histogram += image.histogram

    def reject(self, rejected: Rejected) -> None:
        self._rejected.append(asdict(rejected))

    @property
    def _partial(self) -> Path:
        return self.folder / f"shard-{self.number:05d}.npy.partial"

    def close(self, next_ref: int) -> None:
        """Finish the open shard: data, then header, then checksum, then the sidecar."""
        file, digest = "", ""
        if self._file is not None:
            self._file.seek(0)
            canvas = (self.canvas.height, self.canvas.width, self.canvas.channels)
            pixels = self.encoding == "pixels"
            self._file.write(
                _npy_header((len(self._records), *canvas) if pixels else (self._bytes,))
            )
            self._file.close()
            sync(self._partial)
            with self._partial.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            file = f"shard-{self.number:05d}.npy"
            self._partial.replace(self.folder / file)
        elif not self._rejected:
            return
        sums = {
            "images": self._counted,
            "histogram": None if self._histogram is None else self._histogram.tolist(),
        }
        sidecar = Sidecar(file, self._bytes, digest, next_ref, self._records, self._rejected, sums)
        text = json.dumps(asdict(sidecar), ensure_ascii=False)
        write_text(sidecar_path(self.folder, self.number), text)
        self.number += 1
        self._file, self._bytes, self._histogram, self._counted = None, 0, None, 0
        self._records, self._rejected = [], []

    def abandon(self) -> None:
        """Drop the open shard, when ingest stops on an error."""
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def finish_images(
    folder: Path,
    canvas: Canvas,
    encoding: Encoding,
    classes: tuple[str, ...],
    provenance: dict[str, Any],
) -> ImageManifest:
    """Write index, quarantine and, last, the manifest, from the sidecars."""
    names = ("offset", "length", "fold", "label")
    columns: dict[str, list[int]] = {name: [] for name in (*names, "shard")}
    ids: list[bytes] = []
    rejected: list[dict[str, str]] = []
    shards: list[ImageShard] = []
    histogram, counted = np.zeros((canvas.channels, 256), np.int64), 0
    for sidecar in read_sidecars(folder):
        rejected += sidecar.rejected
        if not sidecar.records:
            continue
        for record in sidecar.records:
            ids.append(record["record_id"].encode())
            columns["shard"].append(len(shards))
            for name in names:
                columns[name].append(record[name])
        shards.append(
            ImageShard(
                file=sidecar.file,
                images=len(sidecar.records),
                bytes=sidecar.samples,
                sha256=sidecar.sha256,
            )
        )
        counted += sidecar.sums["images"]
        if sidecar.sums["histogram"] is not None:
            histogram += np.array(sidecar.sums["histogram"])
    write_quarantine(folder, rejected)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        record_id=np.array(ids),
        shard=np.array(columns["shard"], dtype=np.int32),
        offset=np.array(columns["offset"], dtype=np.int64),
        length=np.array(columns["length"], dtype=np.int64),
        fold=np.array(columns["fold"], dtype=np.int16),
        label=np.array(columns["label"], dtype=np.int64),
    )
    with replacing(folder / INDEX) as draft:
        draft.write_bytes(buffer.getbuffer())
    manifest = ImageManifest(
        format_version=1,
        modality="image",
        encoding=encoding,
        height=canvas.height,
        width=canvas.width,
        channels=canvas.channels,
        resize=canvas.resize,
        records=len(ids),
        classes=classes,
        shards=tuple(shards),
        index_sha256=hashlib.sha256(buffer.getbuffer()).hexdigest(),
        splits=SPLITS,
        statistics=image_statistics(histogram.tolist(), counted),
        provenance=provenance,
    )
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def image_statistics(histogram: Sequence[Sequence[int]], images: int) -> ImageStatistics:
    """Mean and (population) standard deviation per channel of value / 255.

    In whole numbers up to the last step: neither the order of the images nor how many there are
    changes a digit.
    """
    means: list[float | None] = []
    stds: list[float | None] = []
    for counts in histogram:
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        spread = n * squares - total * total
        means.append(total / (255 * n) if spread else None)
        stds.append(math.sqrt(spread) / (255 * n) if spread else None)
    return ImageStatistics(mean=tuple(means), std=tuple(stds), images=images)
