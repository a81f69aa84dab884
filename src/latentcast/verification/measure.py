"""Claims measured on a subject of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from latentcast.config import Config
from latentcast.verification.claim import Claim, Evidence, Finding, measure
from latentcast.verification.observe.twin import Subject


def measured(recipe: Config, claims: Sequence[Claim], seed: int = 0) -> Iterator[Finding]:
    """Measure the claims that concern a recipe, on its twin.

    A subject that cannot be built breaks all of them.
    """
    start = time.perf_counter()
    try:
        subject = Subject(recipe, seed)
    except Exception as problem:  # a broken library may break anywhere
        told = {"raised": f"{type(problem).__name__}: {problem}"[:300]}
        seconds = (time.perf_counter() - start) / max(1, len(claims))
        yield from (Finding(claim, Evidence(False, told), seconds) for claim in claims)
        return
    with contextlib.closing(subject):
        yield from (measure(claim, subject) for claim in claims if concerns(claim, subject))


def concerns(claim: Claim, subject: Subject) -> bool:
    """Whether a claim is about a subject; where even that cannot be told, it is."""
    try:
        return claim.about(subject)
    except Exception:
        return True
