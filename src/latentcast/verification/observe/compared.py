"""Two results of many numbers, compared number by number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from latentcast.errors import LatentcastError

BOUND = 1e-9
"""Relative, above 1, else absolute: sums in float64 in another order."""


def differences(found: Any, expected: Any, bound: float = BOUND, at: str = "") -> list[str]:
    """Each place where two results differ, as ``labels.0.auroc.low: 0.5 and not 0.6``.

    Dataclasses and mappings are compared by name, sequences and arrays by place, numbers within
    the bound; NaN is like NaN, and None like NaN.
    """
    arrays = [_numbers(one) for one in (found, expected)]
    if arrays[0] is not None and arrays[1] is not None:
        return _apart(arrays[0], arrays[1], bound, at)
    found, expected = _plain(found), _plain(expected)
    if isinstance(found, dict) and isinstance(expected, dict):
        if found.keys() != expected.keys():
            return [f"{at or 'names'}: {', '.join(map(str, found))} and not "
                    f"{', '.join(map(str, expected))}"]  # fmt: skip
        return [
            one
            for name in expected
            for one in differences(found[name], expected[name], bound, _below(at, name))
        ]
    if isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{at}: {len(found)} and not {len(expected)}"]
        return [one for place, (a, b) in enumerate(zip(found, expected, strict=True))
                for one in differences(a, b, bound, _below(at, place))]  # fmt: skip
    return [] if _alike(found, expected, bound) else [f"{at}: {found} and not {expected}"]


def _numbers(value: Any) -> npt.NDArray[np.float64] | None:
    """An array of numbers or flags in float64; None of anything else."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or not value.ndim:
        return None
    return value.astype(np.float64)


def _apart(
    found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], bound: float, at: str
) -> list[str]:
    if found.shape != expected.shape:
        return [f"{at}: {found.shape} and not {expected.shape}"]
    with np.errstate(invalid="ignore"):
        near = np.abs(found - expected) <= bound * np.maximum(1.0, np.abs(expected))
    finite = np.isfinite(found) & np.isfinite(expected)
    alike = (near & finite) | (found == expected) | (np.isnan(found) & np.isnan(expected))
    return [
        f"{_below(at, '.'.join(map(str, place)))}: {found[tuple(place)]} and not "
        f"{expected[tuple(place)]}" for place in np.argwhere(~alike).tolist()
    ]  # fmt: skip


def numbers_of(result: Any) -> int:
    """How many numbers, words and flags a result has."""
    result = _plain(result)
    if isinstance(result, dict | list):
        return sum(map(numbers_of, result.values() if isinstance(result, dict) else result))
    return 1


def refusal(call: Any) -> str:
    """The sentence by which a call is refused, or what it gave, or the foreign error it died of."""
    try:
        result = call()
    except LatentcastError as problem:
        return str(problem)
    except Exception as problem:  # no sentence of ours
        return f"{type(problem).__name__}"
    return f"a result: {result!r}"[:80]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _alike(found: Any, expected: Any, bound: float) -> bool:
    found, expected = (math.nan if one is None else one for one in (found, expected))
    if isinstance(found, str) or isinstance(expected, str):
        return bool(found == expected)
    a, b = float(found), float(expected)
    if not (math.isfinite(a) and math.isfinite(b)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return abs(a - b) <= bound * max(1.0, abs(b))


def _below(at: str, name: Any) -> str:
    return f"{at}.{name}" if at else str(name)
