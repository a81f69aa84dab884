"""WFDB headers of one recorder: what they have in common is parsed once, the rest by a pattern."""

from __future__ import annotations

import re
from typing import NamedTuple

from latentcast.signals.readers.wfdb_header import Header, beginning

_REST = r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*"
"""Of a line, as ``str.splitlines`` ends lines."""
_COUNT = r"([+-]?[0-9]{1,18})"
_RECORD = re.compile(rf"(\S+)((?:[ \t]+\S+){{3}})(?=[ \t\n]){_REST}")
_SIGNAL = re.compile(rf"(\S+)((?:[ \t]+\S+){{4}}[ \t]+){_COUNT}([ \t]+){_COUNT}([ \t]{_REST})")
_COMMENTS = rf"(?:\n((?:\#{_REST}\n)*(?:\#{_REST})?))?"


class Lines(NamedTuple):
    """What a header has of its own: the first value and the sum of each signal, in turn; the
    comments; and when the record begins."""

    counts: list[int]
    comments: tuple[str, ...]
    begins: str | None

    @classmethod
    def of(cls, header: Header) -> Lines:
        """Of one whose signals have all of them."""
        counts = [n for s in header.signals for n in (s.initial or 0, s.checksum or 0)]
        return cls(counts, header.comments, header.begins)


class Pattern(NamedTuple):
    """Headers that are ``header`` but for their names, first values, sums, times and comments.

    Attributes:
        header: one of them.
        suffix: of the one file that has the signals, behind the name of a record.
        text: groups are the name, the times, a first value and a sum for each signal, and the
            comments.
    """

    header: Header
    suffix: str
    text: re.Pattern[str]

    @classmethod
    def of(cls, text: str, header: Header) -> Pattern | None:
        """None where the text is laid out in some other way."""
        name, count = header.name, len(header.signals)
        file = header.signals[0].file
        first, *rest = text.split("\n")
        record = _RECORD.match(f"{first}\n")
        if record is None or record[0] != first or record[1] != name or not file.startswith(name):
            return None
        suffix = file.removeprefix(name)
        parts = [rf"(\S+){re.escape(record[2])}(?=[ \t\n])({_REST})"]
        for line, signal in zip(rest[:count], header.signals, strict=False):
            words = _SIGNAL.fullmatch(line)
            if words is None or (words[1], int(words[3]), int(words[5])) != (
                file, signal.initial, signal.checksum
            ):  # fmt: skip
                return None
            fixed = [re.escape(words[n]) for n in (2, 4, 6)]
            parts.append(rf"\1{re.escape(suffix)}{fixed[0]}{_COUNT}{fixed[1]}{_COUNT}{fixed[2]}")
        pattern = cls(header, suffix, re.compile("\n".join(parts) + _COMMENTS))
        return pattern if pattern.lines(text, name) == Lines.of(header) else None

    def lines(self, text: str, name: str) -> Lines | None:
        """Of the header of another record; None where it is not like this one."""
        found = self.text.fullmatch(text)
        if found is None or found[1] != name:
            return None
        _, words, *counts, comments = found.groups()
        own = (comments or "").splitlines()
        texts = tuple(line[1:].strip() for line in own)
        return Lines([*map(int, counts)], texts, beginning(words.split()))
