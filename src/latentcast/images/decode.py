"""From the bytes of an image file to uint8 pixels on a canvas; Pillow does the decoding."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, missing_extra
from latentcast.images.jpeg import MOST_PIXELS, decoded, frame_of
from latentcast.source import BadRecord

if TYPE_CHECKING:
    from PIL import Image

_GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # of TIFF
DEEP = range(9, 17)
"""Bits that a pixel of a 16-bit file can have."""
_PNG = b"\x89PNG\r\n\x1a\n"

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

    ``resize``: the largest middle of the canvas's shape (of a square canvas: the middle square) is
    resized to it; without it an image of another size is refused. ``bits``: how many of the 16
    bits of deep image files are used; None where each file shows it.
    """

    height: int
    width: int
    channels: int
    resize: bool
    bits: int | None = None

    def as_json(self) -> dict[str, Any]:
        """What is set of it, for a manifest."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def middle(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what is kept of an image."""
        if width * self.height > height * self.width:
            tall, wide = float(height), height * self.width / self.height
        else:
            tall, wide = width * self.height / self.width, float(width)
        left, top = (width - wide) / 2, (height - tall) / 2
        return left, top, left + wide, top + tall


class OnCanvas(NamedTuple):
    """An image as the store holds it, uint8 ``(height, width, channels)``, and whether it was
    smaller than the canvas: what resizing adds is no detail."""

    pixels: Pixels
    enlarged: bool


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


def decode(data: bytes, canvas: Canvas, *, stored: bool = False) -> OnCanvas:
    """The image of a file on the canvas.

    The orientation of its EXIF header is applied, transparency is dropped, a palette is looked up,
    16 bits become 8.

    Args:
        stored: the file is one that a store was made of: what is refused today may be in it, and
            comes out as it did then.

    Raises:
        BadRecord: no image, a truncated one, one of 32 bits, of 16 bits whose range is open, of
            several pages, or of another size.
        LatentcastError: Pillow is not installed.
    """
    if (frame := frame_of(data)) is not None and frame.fits:
        _pillow()
        if (plain := decoded(data, frame)) is not None:
            return _fit(_as_channels(plain, canvas.channels, canvas.bits), canvas)
    if not stored:
        _check_png(data)
    with _damage(), _open(BytesIO(data)) as image:
        if not stored and (pages := _pages(image)) > 1:
            raise BadRecord(f"holds {pages} pages; save each as a file of its own")
        return convert(image, canvas, stored=stored)


def convert(image: Image.Image, canvas: Canvas, *, stored: bool = False) -> OnCanvas:
    """:func:`decode` of an image that Pillow has opened or made."""
    from PIL import ImageOps

    grey = image.mode.startswith("I;16")
    deep_colours = not grey and any(";16" in str(tile[3]) for tile in _tiles(image))
    bits = canvas.bits or _bits_of(image) or (16 if stored else None)
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, AssertionError) as error:
        if isinstance(error, AssertionError) or "closed" in str(error):
            raise BadRecord(
                "is closed; call its load() before its file is closed, or give the path"
            ) from error
        raise BadRecord(f"is truncated or damaged ({error})") from error
    if deep_colours and bits != 16:
        _check_colours(image, bits)
    upright = ImageOps.exif_transpose(image)
    return _fit(_as_channels(upright, canvas.channels, bits), canvas)


def fit(pixels: Pixels, canvas: Canvas) -> OnCanvas:
    """Pixels ``(height, width, channels)`` on the canvas; Pillow is needed only to resize."""
    if pixels.shape == (canvas.height, canvas.width, canvas.channels):
        return OnCanvas(pixels, enlarged=False)
    if pixels.shape[2] != canvas.channels:
        if pixels.shape[2] != 1:
            raise BadRecord(f"has {pixels.shape[2]} channels, the store has {canvas.channels}")
        pixels = np.repeat(pixels, canvas.channels, axis=2)
    grey = pixels.shape[2] == 1
    image = _pillow().fromarray(np.ascontiguousarray(pixels[:, :, 0] if grey else pixels))
    return _fit(image, canvas)


def _fit(image: Image.Image, canvas: Canvas) -> OnCanvas:
    width, height = image.size
    enlarged = False
    if (width, height) != (canvas.width, canvas.height):
        if not canvas.resize:
            raise BadRecord(
                f"is {width} × {height} pixels, the store has {canvas.width} × {canvas.height}"
            )
        # The middle is resized alone, with what lies around it in reach of the filter: the same
        # pixels as resizing all and cropping, except that the middle need not be rounded.
        box = canvas.middle(height, width)
        enlarged = box[2] - box[0] < canvas.width
        image = image.resize((canvas.width, canvas.height), _pillow().Resampling.BICUBIC, box)
    shape = canvas.height, canvas.width, canvas.channels
    return OnCanvas(np.frombuffer(image.tobytes(), np.uint8).reshape(shape), enlarged)


def _as_channels(image: Image.Image, channels: int, bits: int | None) -> Image.Image:
    if image.mode in ("I", "F"):
        raise BadRecord("has pixels of 32 bits, whose range is in no header; save it with 8 bits")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion has clipped at 255 in some releases and shifted in others.
        values = np.asarray(image)
        highest = int(values.max(initial=0))
        if bits is None and 0 < highest < 1 << 15:
            raise _depth_unknown(highest)
        bits = bits or 16
        if highest >> bits:
            raise BadRecord(
                f"has a pixel of {highest}, which is more than {bits} bits; raise --bits"
            )
        image = _pillow().fromarray((values >> (bits - 8)).astype(np.uint8))
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")  # the direct way warns of the transparency it drops
    return image.convert(mode)


def _check_colours(image: Image.Image, bits: int | None) -> None:
    """Refuse colours of 16 bits that may use fewer: Pillow has kept the high byte alone."""
    bands = zip(image.getbands(), image.getextrema(), strict=True)
    highest = max(int(extrema[1]) for band, extrema in bands if band != "A")  # type: ignore[index]
    if bits is None and 0 < highest < 1 << 7:
        raise _depth_unknown(highest << 8 | 255)
    if bits is not None:
        raise BadRecord(
            f"has colours of 16 bits, and with --bits {bits} only grey images are read; save it "
            "with 8 bits a colour"
        )


def _depth_unknown(highest: int) -> BadRecord:
    bits = max(DEEP[0], highest.bit_length())
    return BadRecord(
        f"has 16 bits a pixel, none of them above {highest}, and how many bits are in use is in no "
        f"header; save it with 8 bits, or ingest with --bits {bits} (or what the camera has; 16 "
        "where all are)"
    )


def _bits_of(image: Image.Image) -> int | None:
    """The bits in use of a deep grey image, where they are in its header."""
    if image.format == "JPEG2000":
        return 16  # Pillow brings every depth to 16 bits
    tags = getattr(image, "tag_v2", {})
    for tag in (_MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE):
        values = tags.get(tag, ())
        highest = max(values) if isinstance(values, tuple) and values else values
        if isinstance(highest, int) and highest > 0:
            bits = highest.bit_length() if tag == _MAX_SAMPLE_VALUE else highest
            if bits in DEEP[:-1]:
                return bits
    return None


def _pages(image: Image.Image) -> int:
    """Images in a file. The further ones of a camera's JPEG (MPO) are views of the first."""
    with suppress(OSError, SyntaxError, ValueError, EOFError):  # loading it names the damage
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    return 1


def _tiles(image: Image.Image) -> Any:
    """How Pillow will read the file; empty once it has, and of images that are made."""
    return getattr(image, "tile", None) or ()


def _check_png(data: bytes) -> None:
    """Compare the chunks of a PNG with their checksums; Pillow skips those from the pixels on.

    Raises:
        BadRecord: one is damaged, or the file ends before the last one.
    """
    if not data.startswith(_PNG):
        return
    place, name = len(_PNG), b""
    while name != b"IEND":
        start = place + 8
        name = data[place + 4 : start]
        end = start + int.from_bytes(data[place : place + 4], "big")
        checksum = data[end : end + 4]
        if len(checksum) < 4:
            raise BadRecord("is truncated or damaged (it ends within a PNG chunk)")
        if zlib.crc32(memoryview(data)[place + 4 : end]) != int.from_bytes(checksum, "big"):
            raise BadRecord(f"is damaged (the checksum of its PNG chunk {name!r} is another)")
        place = end + 4


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
