"""The claims, a file for each thing they are about; each measures and none believes.

A claim is a function with the decorator ``@claim`` in any file of this folder. ``NEEDS`` in a file
is the condition of all of its claims, as ``has_transformer``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from latentcast.verification.claim import Claim, any_recipe
from latentcast.verification.observe.twin import Twin

AREAS = (
    "nepa", "patches", "encoder", "block", "mlp", "norm", "layer-scale", "attention", "qk-norm",
    "rope", "sincos", "drop-path", "batch-norm", "s4d", "initial", "table", "jepa", "targets",
    "predictor", "masks", "masked", "hierarchy", "leads", "cpc", "views", "regularizer", "vicreg",
    "sigreg", "collapse", "ema", "loop", "resume", "order", "crop", "ranks", "data", "image",
    "probe", "evaluate", "finetune", "artifact",
)  # fmt: skip
"""The order in which areas are reported; those that are not named here come last."""


@cache
def all_claims() -> tuple[Claim, ...]:
    """In the order in which they are reported: by area, then as they stand in their files."""
    found = [
        claim
        for file in iter_modules(__path__)
        for claim in _claims_of(import_module(f"{__name__}.{file.name}"))
    ]
    place = {area: number for number, area in enumerate(AREAS)}
    return tuple(sorted(found, key=lambda claim: (place.get(claim.area, len(AREAS)), claim.area)))


def _claims_of(file: ModuleType) -> list[Claim]:
    """The claims of a file, under its condition and their own."""
    needs: Callable[[Twin], bool] = getattr(file, "NEEDS", any_recipe)
    return [
        replace(item, about=_both(needs, item.about))
        for item in vars(file).values()
        if isinstance(item, Claim)
    ]


def _both(first: Callable[[Twin], bool], second: Callable[[Twin], bool]) -> Callable[[Twin], bool]:
    return lambda twin: first(twin) and second(twin)
