"""The claims, a file for each thing they are about; each measures and none believes."""

from __future__ import annotations

from importlib import import_module

from latentcast.verification.claim import Claim

NAMES = (
    "nepa", "transformer", "attention", "positions", "sincos", "drop_path", "initial", "table",
    "jepa", "targets", "predictor", "masks", "hierarchy", "regularizers",
    "ema", "loop", "resume", "order", "ranks", "data", "evaluation", "artifacts",
)  # fmt: skip


def all_claims() -> tuple[Claim, ...]:
    """In the order in which they are reported."""
    found: list[Claim] = []
    for name in NAMES:
        try:
            found += getattr(import_module(f"{__name__}.{name}"), "CLAIMS", ())
        except (ImportError, SyntaxError):
            continue
    return tuple(found)
