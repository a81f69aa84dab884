"""The one exception a user is meant to read: it names the thing and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LatentcastError(Exception):
    """A problem the user can put right; the command line prints it without a traceback.

    The message has the form ``thing: what is wrong; what to do``. What it quotes of files is text
    and cannot steer a terminal: characters that do not print stand in it as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """With ``\\x1b`` and the like in the place of each character that does not print.

    Line ends stay. So do no lone surrogates, which names of files that are not UTF-8 hold.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def missing_extra(package: str, extra: str, purpose: str) -> LatentcastError:
    """The error for an optional dependency that is not installed."""
    return LatentcastError(
        f"{package}: is not installed, {purpose} needs it; pip install 'latentcast[{extra}]'"
    )


def nearest(name: str, candidates: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest candidate, else the list of them."""
    names = sorted(candidates)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
