"""XML of recorders that is recognised and not read, so that an error names it."""

from __future__ import annotations

import re
from collections.abc import Callable

from latentcast.signals.readers.file_format import FileFormat, not_read
from latentcast.signals.readers.xml import has_root, root_of

_MAKERS = (
    "Mindray", "Mortara", "Schiller", "Nihon Kohden", "Fukuda", "Edan", "Burdick", "Spacelabs",
    "Welch Allyn", "ZOLL", "Physio-Control", "Biocare", "Comen",
)  # fmt: skip
_ECG = re.compile(r"ecg|ekg|waveform", re.IGNORECASE)


def _of(maker: str) -> Callable[[bytes], bool]:
    name = re.compile(rf"\b{maker}\b", re.IGNORECASE)

    def recognises(head: bytes) -> bool:
        if not root_of(head):
            return False
        text = head.replace(b"\0", b"").decode("latin-1")  # what is ASCII in UTF-16 as well
        return name.search(text) is not None and _ECG.search(text) is not None

    return recognises


FORMATS: tuple[FileFormat, ...] = (
    not_read("a GE CardioSoft XML", has_root("CardiologyXML")),
    not_read("a Schiller XML", has_root("examdescript")),
    *(not_read(f"a {maker} XML", _of(maker)) for maker in _MAKERS),
)
"""Behind the formats that are read: an aECG of any maker is an aECG."""
