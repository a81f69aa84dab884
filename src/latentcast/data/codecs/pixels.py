"""Images as uint8 pixels on one canvas, or as the bytes of their files, decoded when taken."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from latentcast.data.codecs.base import Array, Ints, Payload, buffer, one_by_one, readable
from latentcast.data.labels import Labels
from latentcast.data.manifest import Encoding, Manifest, Shard
from latentcast.data.patients import recorded
from latentcast.data.statistics import ChannelSums
from latentcast.errors import LatentcastError
from latentcast.images.decode import DEEP, Canvas, OnCanvas, Pixels, decode, fit
from latentcast.images.source import ImageSource
from latentcast.source import BadRecord, Modality, RecordRef

SMALL = 2**16
"""Values of an image that goes to another process faster than it is decoded."""
_CHEAP = 4  # images that are decoded faster than threads start


@dataclass(frozen=True)
class PixelsTarget:
    """What every image of a new store is brought to."""

    canvas: Canvas
    encoding: Encoding

    modality: ClassVar[Modality] = "image"
    compared: ClassVar[str] = "bytes"
    """What two images have in common that count as duplicates."""
    arguments: ClassVar[dict[str, Any]] = {
        "size": None, "encoding": "pixels", "bits": None, "splits": None,
        "label_column": None, "patients": None,
    }  # fmt: skip
    """Of ``ingest``, those about images, and their defaults."""

    @classmethod
    def check(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the manifest records them.

        Raises:
            LatentcastError: one cannot be used.
        """
        size = arguments["size"]
        if size is not None and size < 1:
            raise LatentcastError(f"--size {size}: must be positive, in pixels")
        if (bits := arguments["bits"]) is not None and bits not in DEEP:
            raise LatentcastError(
                f"--bits {bits}: is about 16-bit files; give {DEEP[0]} to {DEEP[-1]}, such as 12"
            )
        patients = arguments["patients"]
        # The keys of stores that were made when these arguments had other names.
        arguments = {
            **{n: v for n, v in arguments.items() if n not in ("patients", "label_column")},
            "label": arguments["label_column"],
            "groups": None if patients is None else recorded(patients),
        }
        # What was added later is recorded where it is used alone: older stores stay the same.
        return {
            name: value
            for name, value in arguments.items()
            if value is not None or name in ("size", "encoding")
        }

    @classmethod
    def of(
        cls,
        source: ImageSource,
        refs: Sequence[RecordRef],
        arguments: Mapping[str, Any],
        finished: Manifest | None = None,
    ) -> PixelsTarget:
        """From the headers of the images, or as in the ``finished`` store.

        Raises:
            LatentcastError: they differ in size and no size is given, or have no bytes to keep.
        """
        if arguments["encoding"] == "encoded" and not source.encoded:
            raise LatentcastError(
                f"--encoding encoded: keeps the bytes of image files, and {source.name} holds "
                "arrays; leave it out"
            )
        if finished is not None:
            return cls(finished.canvas, arguments["encoding"])
        canvas = _canvas(source, refs, arguments["size"])
        return cls(replace(canvas, bits=arguments["bits"]), arguments["encoding"])

    def plan(self) -> dict[str, Any]:
        """As JSON, for the plan of an unfinished ingest."""
        return {"canvas": self.canvas.as_json(), "encoding": self.encoding}

    @property
    def pool(self) -> Literal["processes", "threads"]:
        """What reads image files at the same time. Pillow decodes outside the interpreter lock, and
        what it makes of a large image would cost more to send than to make; of a small one nearly
        all that it costs is work of the interpreter."""
        return "processes" if self._values <= SMALL else "threads"

    @property
    def _values(self) -> int:
        return self.canvas.height * self.canvas.width * self.canvas.channels

    def convert_together(
        self, samples: Sequence[bytes | Pixels], training: Sequence[bool]
    ) -> list[Payload | Exception]:
        """What each is in a shard, or why it cannot be used: a BadRecord."""
        # Encoded images are decoded as well: what cannot be trained on must not get in.
        placed = [one_by_one(self._placed, sample) for sample in samples]
        trained_on = [
            one.pixels
            for one, trains in zip(placed, training, strict=True)
            if trains and isinstance(one, OnCanvas)
        ]
        sums = iter(ChannelSums.of_images(trained_on))
        # Bytes are fast to send, and slow to make of what stays in this process.
        sent = self.pool == "processes"
        return [
            one
            if isinstance(one, Exception)
            else self._payload(sample, one, next(sums) if trains else None, sent)
            for sample, one, trains in zip(samples, placed, training, strict=True)
        ]

    def _placed(self, sample: bytes | Pixels) -> OnCanvas:
        if isinstance(sample, bytes):
            return decode(sample, self.canvas)
        return fit(sample, self.canvas)

    def _payload(
        self, sample: bytes | Pixels, placed: OnCanvas, sums: ChannelSums | None, sent: bool
    ) -> Payload:
        raw = sample if isinstance(sample, bytes) else np.ascontiguousarray(sample).reshape(-1)
        encoded = self.encoding == "encoded"
        flat = raw if encoded else placed.pixels.reshape(-1)
        data = flat.tobytes() if sent and isinstance(flat, np.ndarray) else flat
        return Payload(
            data=data,
            extent=len(data) if encoded else 1,
            length=len(data),
            digest=hashlib.blake2b(raw, digest_size=16).hexdigest(),
            sums=sums,
            runs=[],
            metadata={},
            enlarged=placed.enlarged,
        )

    def array(self, extent: int) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a shard's array, as a ``.npy`` header has them."""
        if self.encoding == "encoded":
            return "|u1", (extent,)
        return "|u1", (extent, self.canvas.height, self.canvas.width, self.canvas.channels)

    def zero(self) -> ChannelSums:
        return ChannelSums.zero(self.canvas.channels)

    def index(self, columns: dict[str, Array]) -> dict[str, Array]:
        """The columns of ``index.npz``, in their order."""
        names = ["record_id", "shard", "offset", "length", "fold", "label"]
        several = ("label_indptr", "label_indices", "label_values")
        labels = Labels((), *(columns[name] for name in several))
        columns |= {"label": labels.ids()}
        columns |= {"record_id": np.char.encode(columns["record_id"], "utf-8")}
        # What most sources of images have none of.
        if (columns["patient_id"] != "").any():
            names.append("patient_id")
        if (np.diff(labels.indptr) > 1).any() or (labels.values != 1).any():
            names += several
        if columns["metadata_offset"].size:
            names.append("metadata_offset")
        return {name: columns[name] for name in names}

    def manifest(self, sums: ChannelSums) -> dict[str, Any]:
        """What the manifest holds of images alone."""
        return {
            "encoding": self.encoding,
            **self.canvas.as_json(),
            "statistics": sums.of_pixels(),
        }

    def shard(self, file: str, sha256: str, extent: int, lengths: list[int]) -> Shard:
        return Shard(file=file, images=len(lengths), bytes=sum(lengths), sha256=sha256)


def _canvas(source: ImageSource, refs: Sequence[RecordRef], size: int | None) -> Canvas:
    """From the headers of the images; grey only where all are."""
    first: tuple[RecordRef, int, int] | None = None
    grey = True
    for ref, measured in readable(refs, source.measure):
        grey = grey and measured.grey
        if first is None:
            first = ref, measured.height, measured.width
        elif size is None and (measured.height, measured.width) != first[1:]:
            raise LatentcastError(
                f"{source.name}: images differ in size ({first[0].record_id} {first[2]} × "
                f"{first[1]}, {ref.record_id} {measured.width} × {measured.height}); "
                "--size 224 brings all to 224 × 224"
            )
        if size is not None and not grey:
            break
    channels = 1 if grey and first is not None else 3
    if size is not None:
        return Canvas(size, size, channels, resize=True)
    # Nothing can be read: any canvas does, the run ends with the reasons.
    _, height, width = first or (None, 1, 1)
    return Canvas(height, width, channels, resize=False)


class Undecodable(Exception):
    """An image that could be decoded when it was ingested: its row, and what is wrong with it."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


class StoredPixels:
    """The images of a store."""

    columns: ClassVar[tuple[str, ...]] = ("shard", "offset", "length")
    """Of the index, what taking needs."""

    def __init__(
        self, manifest: Manifest, columns: dict[str, Array], shards: Sequence[Array]
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
        images = buffer(out, shape, np.uint8)
        if self.manifest.encoding == "pixels":
            places = zip(self._shard[rows].tolist(), self._offset[rows].tolist(), strict=True)
            for i, (shard, offset) in enumerate(places):
                images[i] = self._shards[shard][offset]
            return images

        def decode_into(i: int) -> None:
            row = int(rows[i])
            try:
                images[i] = decode(self.encoded(row), canvas, stored=True).pixels
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
