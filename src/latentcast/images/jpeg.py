"""JPEG files as most programs write them, decoded without what opening any image file costs.

Pillow tries its parsers and reads every segment in Python before it decodes, which takes longer
than decoding a small image. A file of the segments below needs none of that. Of any other nothing
is claimed here: Pillow opens it, and finds the words for what is wrong with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

HEAD = 4096
"""Bytes that hold the segments before the pixels of nearly every file that is read here."""
MOST_PIXELS = 2**26
"""Of one image: all of it is in memory at once, up to twice and with four bytes a pixel."""
_START = b"\xff\xd8\xff"
_JFIF, _COMMENT, _RESTART, _HUFFMAN, _TABLES, _SCAN = 0xE0, 0xFE, 0xDD, 0xC4, 0xDB, 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_TABLE = 65
_MODES = {1: "L", 3: "RGB"}


class Frame(NamedTuple):
    """What the frame header has; the mode is that of Pillow."""

    height: int
    width: int
    mode: str

    @property
    def fits(self) -> bool:
        """Whether it is of no more pixels than are read at once."""
        return self.height * self.width <= MOST_PIXELS


def frame_of(head: bytes) -> Frame | None:
    """The frame of a JPEG file, from its first bytes: up to the scan at least.

    None: it is no JPEG, or has what changes how it is looked at or what its colours mean (EXIF,
    XMP, profiles, several pictures, Adobe's segment), or anything that one of two parsers may
    refuse. A file with a frame here is one whose segments Pillow accepts.
    """
    if not head.startswith(_START):
        return None
    place, end, frame = 2, len(head), None
    while place + 4 <= end:
        marker, length = head[place + 1], head[place + 2] << 8 | head[place + 3]
        start, after = place + 4, place + 2 + length
        if head[place] != 0xFF or length < 2 or after > end:
            return None
        if marker == _SCAN:
            return frame
        if marker == _TABLES:
            # Of 8 bits each, numbered 0 to 3.
            if length == 2 or (length - 2) % _TABLE or max(head[start:after:_TABLE]) > 3:
                return None
        elif marker in _FRAMES:
            if frame is not None or length < 8 or head[start] != 8:
                return None
            mode = _MODES.get(head[start + 5])
            if mode is None or length != 8 + 3 * head[start + 5]:
                return None
            height = head[start + 1] << 8 | head[start + 2]
            width = head[start + 3] << 8 | head[start + 4]
            if not height or not width:
                return None
            frame = Frame(height, width, mode)
        elif marker == _JFIF:
            if length < 16 or not head.startswith(b"JFIF\0", start):
                return None
        elif marker not in (_HUFFMAN, _RESTART, _COMMENT):
            return None
        place = after
    return None


def decoded(data: bytes, frame: Frame) -> Image.Image | None:
    """The image of a file with this frame; None where its pixels are damaged or cut off."""
    from PIL import Image

    try:
        size = frame.width, frame.height
        return Image.frombytes(frame.mode, size, data, "jpeg", frame.mode, "")
    except (ValueError, OSError):
        return None
