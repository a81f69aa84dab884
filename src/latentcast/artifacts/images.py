"""Images, wherever they lie, as the uint8 arrays that an encoder reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from latentcast.artifacts.rejections import Rejections
from latentcast.artifacts.stores import readable_store
from latentcast.config import EcgInput, ImageInput
from latentcast.data.convert import reason_of
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.images.arrays import one_or_many
from latentcast.images.decode import Canvas, OnCanvas, Pixels, convert, decode, fit
from latentcast.images.folder import ImageFolder, is_image
from latentcast.images.stored import StoredImage
from latentcast.nn.positions import interpolated
from latentcast.places import is_store
from latentcast.source import BadRecord, RecordRef, Source

_MOST_NAMED = 20
Load = Callable[[], OnCanvas]
ACCEPTED = (
    "a uint8 array (height, width, channels) or (images, height, width, channels), a PIL image, "
    "the path of an image, of a folder or of a data set, a store, or a list of these"
)


@contextmanager
def at_resolution(
    config: EcgInput | ImageInput, network: nn.Module, size: int | None
) -> Iterator[tuple[EcgInput | ImageInput, Callable[[Tensor], Tensor]]]:
    """An encoder's input, and what prepares integers for it; with ``size`` that of squares of so
    many pixels, normalised as in training, while the network's positions are interpolated.

    Raises:
        LatentcastError: the size is not positive, or is given for recordings.
    """
    if size is None:
        yield config, lambda samples: samples  # the encoder prepares them
        return
    if isinstance(config, EcgInput) or size < 1:
        advice = "leave it out" if isinstance(config, EcgInput) else "give a positive one"
        raise LatentcastError(f"size {size}: is of images, in pixels; {advice}")
    warnings.warn(
        f"images are read at {size} × {size} pixels, the encoder was trained at {config.height} × "
        f"{config.width}: positions are interpolated",
        stacklevel=5,
    )
    squares = config.model_copy(update={"height": size, "width": size, "canvas": None})
    preprocess = ImagePreprocess(squares)
    with interpolated(network, (config.height / size, config.width / size)):
        yield squares, lambda samples: preprocess(samples).values


class ImageReader:
    """Brings images to uint8 ``(1, height, width, channels)``, as ingest does it.

    Whatever they come from, they are brought to the size of the store that the encoder was trained
    on; the preprocessing goes on from there as it does in training.

    Args:
        config: what the encoder was trained on.
        rejections: of the images that cannot be read.
    """

    def __init__(self, config: ImageInput, rejections: Rejections | None = None) -> None:
        self.rejections = rejections or Rejections()
        self._remarks: list[str] = []
        self.canvas = Canvas(*config.store_size, config.channels, resize=True, bits=config.bits)

    def read(self, source: Any, rows: npt.ArrayLike | None = None) -> Iterator[tuple[str, Pixels]]:
        """The name and the pixels of every image, in the order of the source.

        Warns where images were smaller than the encoder reads them, and where files of a folder
        are no images.

        Raises:
            LatentcastError: it is nothing that can be read, or an image cannot be used.
        """
        if rows is not None and not isinstance(source, Store):
            raise LatentcastError("rows: are of a store; leave them out, or choose from the list")
        images = enlarged = 0
        for name, load in self._images(source, rows):
            try:
                image = load()
            except Exception as error:
                self.rejections.add(name, error)
                continue
            images, enlarged = images + 1, enlarged + image.enlarged
            yield name, image.pixels[np.newaxis]
        if enlarged:
            self._remarks.append(
                f"{enlarged} of {images} images are smaller than {self.canvas.height} × "
                f"{self.canvas.width} pixels and were enlarged: they show less detail than those "
                "the encoder was trained on"
            )
        for remark in self._remarks:
            # The line that called embed or predict: read, in_batches, embed, its checks, it.
            warnings.warn(remark, stacklevel=5)

    def _images(self, source: Any, rows: Any = None) -> Iterator[tuple[str, Load]]:
        """The name of every image, and what reads it."""
        match source:
            case Store():
                readable_store(source, "image")
                for row in range(len(source)) if rows is None else np.asarray(rows).tolist():
                    (pixels,) = source.take([row])
                    yield (
                        str(source.record_ids[row]),
                        partial(self._named, f"{source.path}", pixels),
                    )
            case StoredImage():
                yield source.record_id, partial(self._named, source.record_id, source.pixels)
            case str() | Path():
                yield from self._of_path(Path(source))
            case np.ndarray() | Tensor():
                array = np.asarray(source.cpu() if isinstance(source, Tensor) else source)
                for number, pixels in enumerate(one_or_many(array, self.canvas.channels)):
                    yield (
                        f"image {number} of the array",
                        partial(self._named, f"array of {array.dtype} {array.shape}", pixels),
                    )
            case _ if hasattr(source, "refs") and hasattr(source, "read"):
                yield from self._of_source(source)
            case _ if hasattr(source, "getexif"):  # a PIL image; Pillow is optional
                yield f"image of mode {source.mode}", partial(convert, source, self.canvas)
            case bytes() | bytearray():
                raise LatentcastError(f"bytes: are nothing that can be embedded; give {ACCEPTED}")
            case Iterable():
                for item in source:
                    yield from self._images(item)
            case _:
                raise LatentcastError(
                    f"{type(source).__name__}: is nothing that can be embedded; give {ACCEPTED}"
                )

    def _named(self, name: str, pixels: Pixels) -> OnCanvas:
        if pixels.shape[2] not in (1, self.canvas.channels):
            raise LatentcastError(
                f"{name}: its images have {pixels.shape[2]} channels, the encoder reads "
                f"{self.canvas.channels}; give images of {self.canvas.channels}"
            )
        return fit(pixels, self.canvas)

    def _of_path(self, path: Path) -> Iterator[tuple[str, Load]]:
        if is_store(path):
            yield from self._images(Store.open(path))
        elif not (path.is_file() and is_image(path)):
            from latentcast.data.formats import open_source  # the readers of all formats

            # Labels and splits mean nothing here: what is unclear about them refuses no image.
            yield from self._of_source(open_source(path, "image", annotated=False))
        else:
            yield str(path), lambda: decode(path.read_bytes(), self.canvas)

    def _of_source(self, source: Source[Any]) -> Iterator[tuple[str, Load]]:
        """Where none is left out, all images or none: a missing vector would shift others."""
        bad, refs = [], source.refs()
        if isinstance(source, ImageFolder):
            refs = self._of_folder(source, refs)
        for ref in refs:
            if self.rejections.skipping:
                yield ref.record_id, partial(self._of_ref, source, ref)
                continue
            try:
                image = self._of_ref(source, ref)
            except Exception as error:
                bad.append(f"{ref.record_id}: {reason_of(error)}")
                continue
            if not bad:
                yield ref.record_id, partial(_same, image)
        if bad:
            more = f"; and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
            raise BadRecord(
                f"{source.name}: {len(bad)} of {len(refs)} cannot be read ("
                + "; ".join(bad[:_MOST_NAMED])
                + f'{more}); errors="skip" leaves them out and lists them'
            )

    def _of_folder(self, source: ImageFolder, refs: Sequence[RecordRef]) -> list[RecordRef]:
        """Without the files that are no images by their names, as ingest leaves them out."""
        images = [ref for ref in refs if ref.problem is None]
        others = [ref for ref in refs if ref.problem is not None]
        for ref in others if self.rejections.skipping else ():
            self.rejections.add(ref.record_id, BadRecord(str(ref.problem)))
        if others and not self.rejections.skipping:
            self._remarks.append(
                f"{source.root}: {len(others)} of its files, such as {others[0].file}, are no "
                "images by their names and are left out"
            )
        return images

    def _of_ref(self, source: Source[Any], ref: RecordRef) -> OnCanvas:
        if ref.problem is not None:
            raise BadRecord(ref.problem)
        content, _ = source.read(ref)
        return (decode if isinstance(content, bytes) else fit)(content, self.canvas)


def _same(image: OnCanvas) -> OnCanvas:
    return image
