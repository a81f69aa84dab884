"""Numbers in the text of headers and tables: plain ASCII decimals, or an error.

``float`` and ``int`` take more than any file format writes: ``1_0``, digits of other scripts,
``nan``, and ``1e-320``, which divides to infinity.
"""

from __future__ import annotations

import re
import sys

from latentcast.errors import quoted

_DECIMAL = re.compile(r"[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)


def number(text: str) -> float:
    """A finite number; spaces around it are passed over.

    Raises:
        ValueError: the text is no decimal number, or is out of the range of normal floats.
    """
    stripped = text.strip(" \t")
    if not _DECIMAL.fullmatch(stripped):
        raise ValueError(f"{quoted(text, 40)} is no decimal number")
    value = float(stripped)
    if not abs(value) <= sys.float_info.max or 0 < abs(value) < sys.float_info.min:
        raise ValueError(f"{quoted(text, 40)} is out of range")
    return value


def integer(text: str) -> int:
    """A whole number of at most 18 digits.

    Raises:
        ValueError: the text is none.
    """
    stripped = text.strip(" \t")
    if not _WHOLE.fullmatch(stripped):
        raise ValueError(f"{quoted(text, 40)} is no whole number")
    return int(stripped)


def integral(text: str) -> int:
    """A whole number that a table may have written as ``7.0``, as columns with gaps are.

    Raises:
        ValueError: the text is none; ``1.9`` is not rounded.
    """
    value = number(text)
    if value != int(value) or abs(value) >= 2**53:
        raise ValueError(f"{quoted(text, 40)} is no whole number")
    return int(value)
