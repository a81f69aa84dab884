"""The network of an encoder of somebody else: a callable, from a module or an ONNX file."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, as_tensor

from latentcast.artifacts.graph.session import output_of, record_of, session_of
from latentcast.errors import LatentcastError, nearest


def tokens_of(found: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """What a network returned for samples of a shape, as float32 tokens ``(B, N, D)``.

    Raises:
        LatentcastError: it is something else.
    """
    tokens = as_tensor(found) if isinstance(found, Tensor | np.ndarray) else None
    problem = ""
    if tokens is None:
        problem = f"a {type(found).__name__}"
    elif tokens.ndim not in (2, 3) or len(tokens) != shape[0] or 0 in tokens.shape:
        problem = f"the shape {tuple(tokens.shape)}"
    elif not tokens.is_floating_point():
        problem = str(tokens.dtype)
    elif not tokens.isfinite().all():
        problem = "numbers that are not finite"
    if tokens is None or problem:
        raise LatentcastError(
            f"{name}: of samples {shape} it returns {problem}; return finite floats (B, N, D) or "
            "(B, D)"
        )
    tokens = tokens.detach().cpu()
    return (tokens[:, None] if tokens.ndim == 2 else tokens).float()


def reads_of(
    name: str, call: Callable[[Tensor], Any], keys: Sequence[str], options: Mapping[str, str]
) -> dict[str, Any]:
    """What a network reads, by its attributes and by the options, which come first.

    Raises:
        LatentcastError: there is no such option.
    """
    for key in options:
        if key not in keys:
            raise LatentcastError(f"--encoder {name}: {key} is no option; {nearest(key, keys)}")
    return {key: getattr(call, key) for key in keys if hasattr(call, key)} | dict(options)


def positive(name: str, key: str, value: Any) -> float:
    """The value of a key as a number above 0, or LatentcastError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise LatentcastError(
            f"--encoder {name}: {key} {value} is no number above 0; write {key}=500"
        )
    return number


def imported(name: str, what: str) -> Callable[[Tensor], Any]:
    """``module:function``. Raises LatentcastError: there is no such thing."""
    module, _, attribute = what.partition(":")
    if not attribute:
        raise LatentcastError(
            f"--encoder {name}: {what} does not exist; name a run, an exported file, an .onnx "
            "file, or module:function"
        )
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as python -m has it
    try:
        call: Any = getattr(importlib.import_module(module), attribute)
        call = call() if isinstance(call, type) else call
    except (ImportError, AttributeError, ValueError, TypeError) as problem:
        raise LatentcastError(
            f"--encoder {name}: {what} cannot be imported ({problem}); write module:function of a "
            "module in this folder or on PYTHONPATH"
        ) from None
    finally:
        sys.path.pop(0)
    if not callable(call):
        raise LatentcastError(
            f"--encoder {name}: {what} is a {type(call).__name__}; name a function or a network"
        )
    network: Callable[[Tensor], Any] = call
    return network


class OnnxFile:
    """The first output of an ONNX file for its only input; a graph of ours carries what it reads.

    Raises:
        LatentcastError: it cannot be read, or has several inputs.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._session = file, session_of(file)
        inputs = len(self._session.get_inputs())
        if inputs != 1:
            raise LatentcastError(f"{file}: has {inputs} inputs; export a network of one")
        record = record_of(self._session)
        if record is not None and record.modality == "ecg":
            self.leads, self.sampling_rate = record.leads, record.sampling_rate
            self.missing = math.nan

    def __call__(self, samples: Tensor) -> Any:
        try:
            return output_of(self._session, samples.numpy())
        except Exception as problem:
            raise LatentcastError(
                f"{self.file}: does not read samples {tuple(samples.shape)} ({problem}); name what "
                "it reads (as leads=I+II,length=1000,sampling_rate=100, or of images size=224)"
            ) from None
