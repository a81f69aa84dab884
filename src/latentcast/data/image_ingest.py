"""Images to store: resumable after a kill, and the same bytes however many threads decode."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.convert import Rejected, is_ours, stable_fold
from latentcast.data.folder import claim, clear, is_finished, lock, writing
from latentcast.data.image_manifest import Encoding
from latentcast.data.image_store import ImageStore, usable_processors
from latentcast.data.image_writer import ConvertedImage, ImageShardWriter, finish_images
from latentcast.data.manifest import SPLITS, library_version
from latentcast.data.progress import Progress
from latentcast.data.writer import read_sidecars, refuse_all_bad
from latentcast.errors import LatentcastError
from latentcast.images.decode import Canvas, decode, fit
from latentcast.images.open import open_images
from latentcast.images.source import ImageRef, ImageSource, Pixels
from latentcast.signals.recording import BadRecord

_BATCH = 32  # images decoded by one thread, one after the other


@dataclass(frozen=True)
class ImageIngestResult:
    """What an ingest did: the open store, the images in it, those in quarantine, the seconds."""

    store: ImageStore
    records: int
    quarantined: int
    seconds: float


def ingest_images(
    source: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    encoding: Encoding = "pixels",
    workers: int | None = None,
    shard_bytes: int = 2**30,
    quiet: bool = False,
) -> ImageIngestResult:
    """Read every image of ``source`` into a new store at ``out``.

    Killed at any moment, the same call goes on where the last whole shard ended and gives the same
    bytes. On a finished store of the same source and options it does nothing.

    Splits are those of the source. What it has not, validation or test, is a tenth of its training
    images each, by a hash of their ids; a source without splits is divided 8 : 1 : 1 in this way.

    Args:
        source: a folder of images, of class folders, or of split folders of these; an ``.npz`` or
            ``.npy`` file of uint8 arrays; a Hugging Face dataset on disk, or parquet.
        out: the folder of the store.
        size: pixels a side: the short side of every image is brought to it and the middle is
            taken. Without it all images must have one size, which is kept.
        encoding: ``pixels`` stores what training reads; ``encoded`` keeps the bytes of the files,
            and decodes and resizes each time an image is taken.
        workers: threads that decode; the usable processors by default.
        shard_bytes: a shard is closed before it outgrows this.
        quiet: no progress.

    Raises:
        LatentcastError: no images, all of them bad, several sizes without ``size``, an optional
            package is missing, or ``out`` cannot be used, for the reasons of ``ingest``.
    """
    if size is not None and size < 1:
        raise LatentcastError(f"--size {size}: must be positive, in pixels")
    started = time.monotonic()
    opened = open_images(source)
    refs = opened.refs()
    if not refs:
        raise LatentcastError(f"{source}: holds no images; is this the right folder?")
    if encoding == "encoded" and not opened.encoded:
        raise LatentcastError(
            f"--encoding encoded: keeps the bytes of image files, and {source} holds arrays; leave "
            "it out"
        )
    provenance: dict[str, Any] = {
        "source": opened.name,
        "kind": opened.kind,
        "fingerprint": opened.fingerprint(),
        "listed": len(refs),
        "options": {"size": size, "encoding": encoding, "shard_bytes": shard_bytes},
        "latentcast": library_version(),
    }
    plan: dict[str, Any] = {"target": {}, "provenance": provenance}
    folder = Path(out)
    with writing(folder, "choose another --out"):
        finished = is_finished(folder, plan)
    if not finished:
        again = "free space or repair the folder and run the same ingest again, it goes on"
        with lock(folder), writing(folder, again):
            # Another process may have finished it since.
            if not is_finished(folder, plan):
                canvas = _canvas(opened, refs, size)
                plan["target"] = asdict(canvas)
                claim(folder, plan)
                writer = ImageShardWriter(folder, canvas, encoding, shard_bytes)
                _write(writer, opened, refs, workers or usable_processors(), quiet)
                finish_images(folder, canvas, encoding, opened.classes, provenance)
                clear(folder)
    store = ImageStore.open(folder)
    return ImageIngestResult(store, len(store), len(refs) - len(store), time.monotonic() - started)


def _canvas(source: ImageSource, refs: Sequence[ImageRef], size: int | None) -> Canvas:
    """The canvas of the store, from the headers of the images; grey only where all are.

    Raises:
        LatentcastError: they differ in size and no size is asked for.
    """
    first: tuple[ImageRef, int, int] | None = None
    grey = True
    for ref in refs:
        if ref.problem is not None:
            continue
        try:
            found = source.measure(ref)
        except Exception as error:
            if is_ours(error):
                raise
            continue  # it gets its quarantine row when its turn comes
        grey = grey and found.grey
        if first is None:
            first = ref, found.height, found.width
        elif size is None and (found.height, found.width) != first[1:]:
            raise LatentcastError(
                f"{source.name}: images differ in size ({first[0].record_id} {first[2]} × "
                f"{first[1]}, {ref.record_id} {found.width} × {found.height}); --size 224 brings "
                "all to 224 × 224"
            )
        if size is not None and not grey:
            break
    channels = 1 if grey and first is not None else 3
    if size is not None:
        return Canvas(size, size, channels, resize=True)
    # Nothing can be read: any canvas does, the run ends with the reasons.
    _, height, width = first or (None, 1, 1)
    return Canvas(height, width, channels, resize=False)


def _write(
    writer: ImageShardWriter,
    source: ImageSource,
    refs: Sequence[ImageRef],
    workers: int,
    quiet: bool,
) -> None:
    """All shards that are not there yet."""
    seen: dict[str, str] = {}
    begin = 0
    for sidecar in read_sidecars(writer.folder):
        begin, writer.number = sidecar.next_ref, writer.number + 1
        seen |= {record["digest"]: record["record_id"] for record in sidecar.records}
    with Progress("ingest", len(refs), begin, quiet=quiet) as progress:
        try:
            results = _convert_in_order(source, refs, begin, writer, workers)
            for position, result in enumerate(results, start=begin):
                if isinstance(result, ConvertedImage):
                    same = seen.setdefault(result.digest, result.ref.record_id)
                    if same != result.ref.record_id:
                        reason = f"duplicate record: same bytes as {same}"
                        result = Rejected(result.ref.record_id, result.ref.file, reason)
                if isinstance(result, ConvertedImage):
                    writer.add(result, position)
                else:
                    writer.reject(result)
                progress.advance(bad=isinstance(result, Rejected))
            writer.close(next_ref=len(refs))
        finally:
            writer.abandon()
    if not seen:
        refuse_all_bad(writer.folder, source.name)


def _convert_in_order(
    source: ImageSource,
    refs: Sequence[ImageRef],
    begin: int,
    writer: ImageShardWriter,
    workers: int,
) -> Iterator[ConvertedImage | Rejected]:
    """Results in the order of ``refs``; at most a few batches are in memory."""
    folds = Folds(refs)

    def convert(start: int) -> list[ConvertedImage | Rejected]:
        batch = refs[start : start + _BATCH]
        return [_convert(source, ref, folds.of(ref), writer) for ref in batch]

    starts = range(begin, len(refs), _BATCH)
    if workers == 1:
        for start in starts:
            yield from convert(start)
        return
    # Threads and no processes: Pillow decodes outside the interpreter lock.
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[list[ConvertedImage | Rejected]]] = deque()
        try:
            for start in starts:
                pending.append(pool.submit(convert, start))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _convert(
    source: ImageSource, ref: ImageRef, fold: int, writer: ImageShardWriter
) -> ConvertedImage | Rejected:
    """One image, or why not; nothing it does stops the others."""
    try:
        if ref.problem is not None:
            raise BadRecord(ref.problem)
        read = source.read(ref)
        raw = read if isinstance(read, bytes) else read.tobytes()
        # Encoded images are decoded as well: what cannot be trained on must not get in.
        pixels = (
            decode(read, writer.canvas) if isinstance(read, bytes) else fit(read, writer.canvas)
        )
        return ConvertedImage(
            ref=ref,
            payload=raw if writer.encoding == "encoded" else pixels.tobytes(),
            digest=hashlib.blake2b(raw, digest_size=16).hexdigest(),
            fold=fold,
            histogram=_histogram(pixels) if fold in SPLITS["train"] else None,
        )
    except Exception as error:
        if is_ours(error):
            raise
        # Foreign files fail in foreign ways; the type of the error is part of the reason.
        reason = str(error) if isinstance(error, BadRecord) else f"{type(error).__name__}: {error}"
        return Rejected(ref.record_id, ref.file, reason)


def _histogram(pixels: Pixels) -> npt.NDArray[np.int64]:
    channels = pixels.shape[2]
    return np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(channels)])


class Folds:
    """Fold of each image: of the split its source names, else by a hash of its id.

    A held-out split that the source has not is a tenth of its training images.
    """

    def __init__(self, refs: Sequence[ImageRef]) -> None:
        named = {ref.split for ref in refs}
        self._own = {
            fold for split in ("validation", "test") if split in named for fold in SPLITS[split]
        }

    def of(self, ref: ImageRef) -> int:
        if ref.split in ("validation", "test"):
            return SPLITS[ref.split][0]
        fold = stable_fold(ref.record_id)
        # What a hash would hold out goes back to training where the source holds out its own.
        return fold % 8 + 1 if fold in self._own else fold
