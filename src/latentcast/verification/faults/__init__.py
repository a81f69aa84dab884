"""The catalogue of faults, a file for each thing they break."""

from __future__ import annotations

from importlib import import_module

from latentcast.verification.fault import Fault

NAMES = (
    "nepa", "transformer", "attention", "positions", "drop_path", "initial", "table",
    "jepa", "targets", "predictor", "masks", "hierarchy", "regularizers",
    "ema", "loop", "resume", "order", "ranks", "data", "evaluation", "artifacts",
)  # fmt: skip


def all_faults() -> tuple[Fault, ...]:
    """In the order of what they break."""
    found: list[Fault] = []
    for name in NAMES:
        try:
            found += getattr(import_module(f"{__name__}.{name}"), "FAULTS", ())
        except (ImportError, SyntaxError):
            continue
    return tuple(found)
