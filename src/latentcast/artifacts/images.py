"""Images, wherever they lie, as the uint8 arrays that an encoder reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.config import ImageInput
from latentcast.data.formats import open_source
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.images.decode import Canvas, Pixels, convert, decode, fit
from latentcast.images.folder import is_image
from latentcast.source import BadRecord, Source

ACCEPTED = (
    "a uint8 array (height, width, channels) or (images, height, width, channels), a PIL image, "
    "the path of an image, of a folder or of a data set, a store, or a list of these"
)


class ImageReader:
    """Brings images to uint8 ``(1, height, width, channels)``.

    Files and PIL images are decoded onto a canvas of the encoder's size, as ``ingest --size`` does
    it. Arrays are taken as a store's images and keep their size; the preprocessing resizes them.

    Args:
        config: what the encoder was trained on.
    """

    def __init__(self, config: ImageInput) -> None:
        square = config.height == config.width
        self.canvas = Canvas(config.height, config.width, config.channels, resize=square)

    def read(self, source: Any, rows: npt.ArrayLike | None = None) -> Iterator[tuple[str, Pixels]]:
        """The name and the pixels of every image, in the order of the source.

        Raises:
            LatentcastError: it is nothing that can be read, or an image cannot be used.
        """
        if isinstance(source, Store):
            for row in np.arange(len(source)) if rows is None else np.asarray(rows, np.int64):
                yield f"row {row}", source.take([int(row)])
            return
        if rows is not None:
            raise LatentcastError("rows: are of a store; leave them out, or choose from the list")
        yield from self._images(source)

    def _images(self, source: Any) -> Iterator[tuple[str, Pixels]]:
        match source:
            case str() | Path():
                yield from self._of_path(Path(source))
            case np.ndarray():
                yield from _of_array(source)
            case _ if hasattr(source, "refs") and hasattr(source, "read"):
                yield from self._of_source(source)
            case _ if hasattr(source, "getexif"):  # a PIL image; Pillow is optional
                yield "image", convert(source, self.canvas)[np.newaxis]
            case Iterable():
                for item in source:
                    yield from self._images(item)
            case _:
                raise LatentcastError(
                    f"{type(source).__name__}: is nothing that can be embedded; give {ACCEPTED}"
                )

    def _of_path(self, path: Path) -> Iterator[tuple[str, Pixels]]:
        if not (path.is_file() and is_image(path)):
            yield from self._of_source(open_source(path, "image"))
            return
        try:
            pixels = decode(path.read_bytes(), self.canvas)
        except (OSError, BadRecord) as error:
            raise BadRecord(f"{path}: {error}") from error
        yield str(path), pixels[np.newaxis]

    def _of_source(self, source: Source[Any]) -> Iterator[tuple[str, Pixels]]:
        for ref in source.refs():
            try:
                if ref.problem is not None:
                    raise BadRecord(ref.problem)
                content, _ = source.read(ref)
                if isinstance(content, bytes):
                    pixels = decode(content, self.canvas)
                else:
                    pixels = fit(content, self.canvas)
            except BadRecord as error:
                raise BadRecord(f"{ref.record_id} of {source.name}: {error}") from error
            yield ref.record_id, pixels[np.newaxis]


def _of_array(array: npt.NDArray[Any]) -> Iterator[tuple[str, Pixels]]:
    images = array[np.newaxis] if array.ndim == 3 else array
    if images.ndim != 4 or images.dtype != np.uint8:
        raise LatentcastError(
            f"array of {array.dtype} {array.shape}: is no uint8 (height, width, channels) or "
            "(images, height, width, channels); for values in [0, 1]: "
            "(x * 255).round().astype('uint8')"
        )
    for number in range(len(images)):
        yield f"image {number} of the array", images[number : number + 1]
