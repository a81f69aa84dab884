"""XML of ECG recorders as a tree, from files that may be damaged or hostile.

The parser is expat with everything refused that lets a small file grow or reach out: declarations
inside of the file (entities, default values of attributes), references to entities that it does
not define, and more elements, levels or bytes than any ECG has. A DOCTYPE that only names a file,
as MUSE writes it, is passed over; nothing is fetched.

Names are those without a prefix: ``xsi:type`` is ``type``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from latentcast.errors import printable, quoted
from latentcast.signals.readers.file_format import ReadOptions, read_bytes
from latentcast.signals.readers.numbers import integer, number
from latentcast.source import BadRecord

MOST_XML = 2**26
"""Bytes of one file: half an hour of twelve leads, its samples written as text."""
MOST_ELEMENTS = 200_000
MOST_LEVELS = 100
_NUMBERS = re.compile(r"[\s0-9+\-.eE]*", re.ASCII)


class _Found(Exception):
    """Ends parsing at the first element."""


def _local(name: str) -> str:
    return name.rpartition(":")[2]


@lru_cache(maxsize=1)  # each format looks at the same bytes
def root_of(head: bytes) -> str:
    """The name of the outermost element, from the first bytes of a file; ``""`` of what is no XML
    or has none in these bytes."""
    if b"<" not in head[:8] and not head[:8].strip().startswith(b"<"):
        return ""
    found = ""

    def start(name: str, _: object) -> None:
        nonlocal found
        found = _local(name)
        raise _Found

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    with suppress(_Found, expat.ExpatError, ValueError, LookupError):
        parser.Parse(head, False)
    return found


def has_root(*names: str) -> Callable[[bytes], bool]:
    """What recognises XML whose outermost element has one of these names."""
    return lambda head: root_of(head) in names


def read_xml(path: Path) -> Element:
    """The outermost element of a file.

    Raises:
        BadRecord: it cannot be read, is no well-formed XML, or is refused; see the module.
    """
    data = read_bytes(path)
    if len(data) > MOST_XML:
        raise BadRecord(f"has {len(data):,} bytes of XML, more than the {MOST_XML:,} of any ECG")
    builder, parser = TreeBuilder(), expat.ParserCreate()
    elements = levels = 0

    def doctype(name: str, system: object, public: object, has_declarations: int) -> None:
        if has_declarations:
            raise BadRecord("declares entities or attributes of its own, which no ECG does")

    def entity(*_: object) -> int:
        raise BadRecord("refers to an entity that it does not define")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal elements, levels
        elements, levels = elements + 1, levels + 1
        if elements > MOST_ELEMENTS or levels > MOST_LEVELS:
            raise BadRecord(
                f"has more than {MOST_ELEMENTS:,} elements, or {MOST_LEVELS} in each other"
            )
        builder.start(_local(name), {_local(key): value for key, value in attributes.items()})

    def end(name: str) -> None:
        nonlocal levels
        levels -= 1
        builder.end(_local(name))

    parser.buffer_text, parser.buffer_size = True, 2**16
    parser.StartDoctypeDeclHandler = doctype
    parser.ExternalEntityRefHandler = parser.SkippedEntityHandler = entity
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise BadRecord(f"is no well-formed XML ({printable(str(error))[:80]})") from None
    return builder.close()


def text_at(element: Element | None, path: str) -> str:
    """The text at a path below an element without spaces around it; ``""`` where there is none."""
    return "" if element is None else (element.findtext(path) or "").strip()


def attribute_at(element: Element | None, path: str, name: str) -> str:
    """The attribute of what lies at a path below an element; ``""`` where there is none."""
    found = None if element is None else element.find(path)
    return "" if found is None else (found.get(name) or "").strip()


def decimal(text: str, what: str) -> float:
    """Raises BadRecord: ``what`` is missing or no number."""
    try:
        return number(text)
    except ValueError as error:
        raise BadRecord(f"{what} {f'is no number ({error})' if text else 'is missing'}") from None


def rate_stated(text: str, what: str, options: ReadOptions) -> float:
    """Hz as a file has it, else what the user gives.

    Raises:
        BadRecord: neither does, or it is no positive number.
    """
    if not text and options.sampling_rate is not None:
        return options.sampling_rate
    if not text:
        raise BadRecord(f"{what} is missing; give --sampling-rate, such as --sampling-rate 500")
    if (rate := decimal(text, what)) <= 0:
        raise BadRecord(f"{what} is {rate:g}")
    return rate


def unit_stated(text: str, what: str, options: ReadOptions) -> str:
    """The unit that a file has, else what the user gives.

    Raises:
        BadRecord: neither does.
    """
    if not text and options.unit is None:
        raise BadRecord(f"{what} is missing; give --unit, such as --unit uV")
    return text or options.unit or ""


def whole(text: str, what: str) -> int:
    """Raises BadRecord: ``what`` is missing or no whole number, or a negative one."""
    try:
        value = integer(text)
        if value < 0:
            raise ValueError(f"{quoted(text, 40)} is negative")
        return value
    except ValueError as error:
        raise BadRecord(f"{what} {f'is no count ({error})' if text else 'is missing'}") from None


def from_base64(text: str, what: str) -> bytes:
    """Raises BadRecord: ``what`` is no Base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRecord(f"{what} is no Base64 ({error})") from None


def numbers_in(text: str, what: str) -> npt.NDArray[np.float64]:
    """Numbers with spaces between them.

    Raises:
        BadRecord: ``what`` is anything else.
    """
    if not _NUMBERS.fullmatch(text):
        raise BadRecord(f"{what} are no numbers")
    spaces = np.frombuffer(text.encode("ascii"), np.uint8) <= ord(" ")
    # A number begins after a space: "1-2", which NumPy takes for two, is one word.
    count = np.count_nonzero(~spaces & np.concatenate([[True], spaces[:-1]])) if len(text) else 0
    try:
        values = np.fromstring(text, sep=" ") if count else np.empty(0)
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise BadRecord(f"{what} are no numbers")
    return values
