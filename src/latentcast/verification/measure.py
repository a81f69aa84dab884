"""Claims measured on a twin of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from latentcast.config import Config
from latentcast.verification.claim import Claim, Finding, failure, measure
from latentcast.verification.observe.twin import Twin


def measured(recipe: Config, claims: Sequence[Claim], seed: int = 0) -> Iterator[Finding]:
    """Measure the claims that concern a recipe, on its twin.

    A twin that cannot be built breaks all of them.
    """
    start = time.perf_counter()
    try:
        twin = Twin(recipe, seed)
    except Exception as problem:  # a broken library may break anywhere
        seconds = (time.perf_counter() - start) / max(1, len(claims))
        yield from (Finding(claim, failure(problem), seconds) for claim in claims)
        return
    with contextlib.closing(twin):
        yield from (measure(claim, twin) for claim in claims if claim.concerns(twin))
