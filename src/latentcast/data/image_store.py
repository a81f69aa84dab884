"""The memory-mapped store of images: uint8 pixels, or the bytes of image files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.data.image_manifest import ImageManifest, read_image_manifest
from latentcast.data.manifest import INDEX, verify_files
from latentcast.errors import LatentcastError, nearest
from latentcast.images.decode import Canvas, decode
from latentcast.images.source import Pixels
from latentcast.signals.recording import BadRecord

Ints = npt.NDArray[np.int64]

_CHEAP = 4  # images that are decoded faster than threads start


class ImageStore:
    """A finished store of images, open for reading; pixels stay on disk until taken.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
        height, width, channels: the canvas of every image that is taken.
        labels: int64 ``(N,)``, index into ``classes``; -1 where the source has none.
        classes: names by label; empty for a store without labels.
        folds: int16 ``(N,)``, 1 to 10; ``manifest.splits`` says which split they are.
    """

    def __init__(self, path: Path, manifest: ImageManifest) -> None:
        self.path = path
        self.manifest = manifest
        self.height, self.width, self.channels = manifest.height, manifest.width, manifest.channels
        self.classes = manifest.classes
        self._canvas = Canvas(self.height, self.width, self.channels, manifest.resize)
        reading, self._shards = path / INDEX, list[Pixels]()
        try:
            with np.load(reading, allow_pickle=False) as index:
                self.labels: Ints = index["label"]
                self.folds: npt.NDArray[np.int16] = index["fold"]
                self._shard: Ints = index["shard"].astype(np.int64)
                self._offset: Ints = index["offset"]
                self._length: Ints = index["length"]
            for shard in manifest.shards:
                reading = path / shard.file
                mapped = np.load(reading, mmap_mode="r", allow_pickle=False)
                # Without the subclass: a view of it costs microseconds more, for every image.
                self._shards.append(mapped.view(np.ndarray))
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise LatentcastError(
                f"{reading}: cannot be read ({error}); restore it from a copy or re-ingest"
            ) from error
        for shard, array in zip(manifest.shards, self._shards, strict=True):
            expected: tuple[int, ...] = (shard.bytes,)
            if manifest.encoding == "pixels":
                expected = (shard.images, self.height, self.width, self.channels)
            if array.shape != expected or array.dtype != np.uint8:
                raise LatentcastError(
                    f"{path / shard.file}: holds {array.dtype} {array.shape}, the manifest says "
                    f"uint8 {expected}; restore it or re-ingest"
                )

    @classmethod
    def open(cls, path: str | Path) -> ImageStore:
        """Open a store of images.

        Raises:
            LatentcastError: it is missing, unfinished, of another version, of recordings, or a
                file of it is gone.
        """
        folder = Path(path)
        return cls(folder, read_image_manifest(folder))

    def __reduce__(self) -> tuple[object, ...]:
        # A worker maps the files itself: no pixel travels between processes.
        return (ImageStore.open, (self.path,))

    def __len__(self) -> int:
        return self.manifest.records

    @cached_property
    def record_ids(self) -> npt.NDArray[np.str_]:
        """Text ``(N,)``, such as ``train/bird/0338.jpg`` or ``test-000017``."""
        # Not read when the store is opened: a million names are 150 MB.
        with np.load(self.path / INDEX, allow_pickle=False) as index:
            return np.char.decode(index["record_id"], "utf-8")

    def rows(self, split: str) -> Ints:
        """Rows of a split, ascending.

        Raises:
            LatentcastError: the split is unknown.
        """
        if split not in self.manifest.splits:
            raise LatentcastError(
                f"split '{split}': is unknown; {nearest(split, self.manifest.splits)}"
            )
        rows: Ints = np.flatnonzero(np.isin(self.folds, self.manifest.splits[split]))
        return rows

    def take(self, rows: Sequence[int] | Ints, out: Pixels | None = None) -> Pixels:
        """Images uint8 ``(B, height, width, channels)``, in ``out`` where it is given.

        Raises:
            LatentcastError: an encoded image cannot be decoded any more.
            ValueError: ``out`` has another shape or type.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"rows must be in [0, {len(self)})")
        shape = (len(wanted), self.height, self.width, self.channels)
        images = np.empty(shape, dtype=np.uint8) if out is None else out
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError(f"out is {images.dtype} {images.shape}, needed is uint8 {shape}")
        if self.manifest.encoding == "pixels":
            places = zip(self._shard[wanted].tolist(), self._offset[wanted].tolist(), strict=True)
            for i, (shard, offset) in enumerate(places):
                images[i] = self._shards[shard][offset]
            return images

        def into(i: int) -> None:
            images[i] = self._decode(int(wanted[i]))

        threads = min(8, len(wanted), usable_processors())
        if threads == 1 or len(wanted) <= _CHEAP:
            for i in range(len(wanted)):
                into(i)
        else:
            with ThreadPoolExecutor(threads) as pool:  # Pillow decodes outside the interpreter lock
                list(pool.map(into, range(len(wanted))))
        return images

    def encoded(self, row: int) -> bytes:
        """The bytes of an image's file, as the source held it (encoding ``encoded`` only)."""
        if self.manifest.encoding != "encoded":
            raise LatentcastError(
                f"{self.path}: holds pixels, no files; ingest with encoding=encoded"
            )
        offset = int(self._offset[row])
        return self._shards[int(self._shard[row])][
            offset : offset + int(self._length[row])
        ].tobytes()

    def _decode(self, row: int) -> Pixels:
        try:
            return decode(self.encoded(row), self._canvas)
        except BadRecord as error:
            raise LatentcastError(
                f"{self.path}: image {self.record_ids[row]} {error}, and could be decoded when it "
                "was ingested; run latentcast inspect to see which file is damaged"
            ) from error

    @property
    def checksums(self) -> dict[str, str]:
        """sha256 by shard: what tells the images of two stores apart."""
        return {shard.file: shard.sha256 for shard in self.manifest.shards}

    def verify(self) -> None:
        """Compare every file with its checksum in the manifest; reads the whole store.

        Raises:
            LatentcastError: names the damaged file.
        """
        verify_files(self.path, self.checksums | {INDEX: self.manifest.index_sha256})


def usable_processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
