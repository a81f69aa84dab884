"""From the bytes of an image file to uint8 pixels on a canvas; Pillow does the decoding."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, missing_extra
from latentcast.source import BadRecord

if TYPE_CHECKING:
    from PIL import Image

_GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)

MOST_PIXELS = 2**26
"""Of one image: all of it is in memory at once, up to twice and with four bytes a pixel."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Measured:
    """Size of an image as it is looked at (after its EXIF orientation), and whether it is grey."""

    height: int
    width: int
    grey: bool


@dataclass(frozen=True)
class Canvas:
    """What every image of a store is brought to.

    ``resize``: the short side is brought to the canvas (which is square) and the middle is taken;
    without it an image of another size is refused.
    """

    height: int
    width: int
    channels: int
    resize: bool


def measure(file: IO[bytes]) -> Measured:
    """Size of an image from its header.

    Raises:
        BadRecord: it is no image.
        LatentcastError: Pillow is not installed.
    """
    with _damage(), _open(file) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
        return Measured(height, width, image.mode in _GREY)


def decode(data: bytes, canvas: Canvas) -> Pixels:
    """The image of a file as uint8 ``(height, width, channels)`` of the canvas.

    The orientation of its EXIF header is applied, transparency is dropped, a palette is looked up,
    16 bits become 8.

    Raises:
        BadRecord: no image, a truncated one, one of 32 bits, or of another size.
        LatentcastError: Pillow is not installed.
    """
    with _damage(), _open(BytesIO(data)) as image:
        return convert(image, canvas)


def convert(image: Image.Image, canvas: Canvas) -> Pixels:
    """:func:`decode` of an image that Pillow has opened or made."""
    from PIL import ImageOps

    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise BadRecord(f"is truncated or damaged ({error})") from error
    return _fit(_as_channels(ImageOps.exif_transpose(image), canvas.channels), canvas)


def fit(pixels: Pixels, canvas: Canvas) -> Pixels:
    """Pixels ``(height, width, channels)`` on the canvas; Pillow is needed only to resize."""
    if pixels.shape == (canvas.height, canvas.width, canvas.channels):
        return pixels
    if pixels.shape[2] != canvas.channels:
        if pixels.shape[2] != 1:
            raise BadRecord(f"has {pixels.shape[2]} channels, the store has {canvas.channels}")
        pixels = np.repeat(pixels, canvas.channels, axis=2)
    grey = pixels.shape[2] == 1
    image = _pillow().fromarray(np.ascontiguousarray(pixels[:, :, 0] if grey else pixels))
    return _fit(image, canvas)


def _fit(image: Image.Image, canvas: Canvas) -> Pixels:
    width, height = image.size
    if (width, height) != (canvas.width, canvas.height):
        if not canvas.resize:
            raise BadRecord(
                f"is {width} × {height} pixels, the store has {canvas.width} × {canvas.height}"
            )
        # The middle square is resized alone, with what lies around it in reach of the filter: the
        # same pixels as resizing all and cropping, except that the middle need not be rounded.
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((canvas.width, canvas.height), _pillow().Resampling.BICUBIC, box)
    return np.asarray(image, dtype=np.uint8).reshape(canvas.height, canvas.width, canvas.channels)


def _as_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in ("I", "F"):
        raise BadRecord("has pixels of 32 bits, whose range is in no header; save it with 8 bits")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion has clipped at 255 in some releases and shifted in others.
        high = (np.asarray(image) >> 8).astype(np.uint8)
        image = _pillow().fromarray(high)
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")  # the direct way warns of the transparency it drops
    return image.convert(mode)


def _open(file: IO[bytes]) -> Image.Image:
    pillow = _pillow()
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
            image: Image.Image = pillow.open(file)
    except UnidentifiedImageError:
        raise BadRecord("is no image, or of a format that Pillow does not read") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise BadRecord(f"cannot be opened ({error})") from error
    except pillow.DecompressionBombError:
        raise BadRecord(f"has more than {MOST_PIXELS:,} pixels; cut it into tiles") from None
    if image.width * image.height > MOST_PIXELS:
        raise BadRecord(
            f"has {image.width} × {image.height} pixels, more than {MOST_PIXELS:,}; cut it into "
            "tiles"
        )
    return image


@contextmanager
def _damage() -> Iterator[None]:
    """Pillow answers damaged files by whatever its parsers run into: here it is a bad record."""
    try:
        yield
    except LatentcastError:
        raise
    except Exception as error:
        raise BadRecord(f"is damaged ({type(error).__name__}: {error})") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("pillow", "images", "decoding and resizing images") from error
    return Image
