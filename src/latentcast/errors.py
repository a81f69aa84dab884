"""The one exception a user is meant to read: it names the thing and the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and new line
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the order in which text is read
    "\ud800-\udfff\ufffe\uffff]"  # no characters: bytes of a file name that is not UTF-8
)


class LatentcastError(Exception):
    """A problem the user can put right; the command line prints it without a traceback.

    The message has the form ``thing: what is wrong; what to do``. What it quotes of files is text
    and cannot steer a terminal: characters that do not print stand in it as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    """``text`` with every character that a terminal, XML or UTF-8 cannot hold as its escape.

    ``"\\x1b[31m"``, which turns a terminal red, becomes its seven visible characters.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def readable(text: str) -> bool:
    """Whether it is text, and not bytes of something else that were decoded."""
    return text.replace("\t", " ").isprintable() and "\ufffd" not in text


def quoted(text: str, most: int) -> str:
    """Text of a file in quotation marks, cut; ``<binary>`` where the file is no text at all."""
    return f"'{text[:most]}'" if readable(text) else "<binary>"


def missing_extra(package: str, extra: str, purpose: str) -> LatentcastError:
    """The error for an optional dependency that is not installed."""
    return LatentcastError(
        f"{package}: is not installed, {purpose} needs it; pip install 'latentcast[{extra}]'"
    )


def nearest(name: str, candidates: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest candidate, else the list of them."""
    # The dashes of flags make any two of them alike.
    names = {candidate.lstrip("-"): candidate for candidate in sorted(candidates)}
    close = difflib.get_close_matches(name.lstrip("-"), names, n=1, cutoff=0.5)
    return f"did you mean '{names[close[0]]}'?" if close else f"known: {', '.join(names.values())}"
