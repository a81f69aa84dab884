"""The claims, a file for each thing they are about; each measures and none believes.

A claim is a function with the decorator ``@claim`` in any file of this folder; nothing else has to
be told of it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from latentcast.verification.claim import Claim

AREAS = (
    "nepa", "patches", "encoder", "block", "mlp", "norm", "layer-scale", "attention", "qk-norm",
    "rope", "sincos", "drop-path", "initial", "table", "jepa", "targets", "predictor", "masks",
    "hierarchy", "regularizer", "vicreg", "sigreg", "collapse", "ema", "loop", "resume", "order",
    "crop", "ranks", "data", "image", "probe", "artifact",
)  # fmt: skip
"""The order in which areas are reported; those that are not named here come last."""


@cache
def all_claims() -> tuple[Claim, ...]:
    """In the order in which they are reported: by area, then as they stand in their files."""
    found = [
        item
        for file in iter_modules(__path__)
        for item in vars(import_module(f"{__name__}.{file.name}")).values()
        if isinstance(item, Claim)
    ]
    place = {area: number for number, area in enumerate(AREAS)}
    return tuple(sorted(found, key=lambda claim: (place.get(claim.area, len(AREAS)), claim.area)))
