"""Encoders of somebody else, as rows of a probe: a Python callable, an ONNX file, an export.

A callable takes float32 millivolts ``(B, leads, samples)`` and returns tokens ``(B, N, D)`` or one
vector a window ``(B, D)``. What it reads (``sampling_rate``, ``leads``, ``length``, ``unit``) is
given with it or stands on it as attributes of these names; what is given nowhere is as the store
has it. Nothing is unpickled, and TorchScript, whose loading runs the code in it, is refused.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError, missing_extra, nearest
from latentcast.evaluation.features import FeatureSource
from latentcast.files import sha256
from latentcast.nn.modes import evaluating
from latentcast.pretrained.models import ships
from latentcast.signals.recording import INVALID, Recording
from latentcast.signals.resample import resample

UNITS = {"V": 1e-3, "mV": 1.0, "uV": 1e3, "nV": 1e6}
"""Of one millivolt."""
READS = ("sampling_rate", "leads", "length", "unit")
PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


@dataclass(frozen=True, eq=False)
class ForeignEncoder:
    """A :class:`~latentcast.evaluation.features.FeatureSource` of one layer.

    Attributes:
        call: the network.
        leads, sampling_rate, scale: of the store, whose windows it is given.
        length: samples of a window, at the rate of the store.
        order: of its own leads, the place in those of the store.
        own_rate: in Hz, what the network reads; ``own_length`` the samples of a window then.
        factor: of millivolts to its unit.
        digest: sha256 of the file of the network; None of a callable, whose weights no file tells.
    """

    name: str
    call: Callable[[Tensor], Any]
    leads: tuple[str, ...]
    sampling_rate: float
    scale: float
    length: int
    order: tuple[int, ...]
    own_rate: float
    own_length: int
    factor: float
    digest: str | None = None

    layer_names = ("output",)
    causal = False

    @property
    def fingerprint(self) -> str | None:
        """Of a file and of what it reads; see :mod:`latentcast.evaluation.cache`."""
        if self.digest is None:
            return None
        reads = (self.leads, self.sampling_rate, self.scale, self.length, self.order)
        return repr((self.digest, reads, self.own_rate, self.own_length, self.factor))

    @property
    def note(self) -> str:
        """What was done to the signal on its way, or ""."""
        if self.own_rate == self.sampling_rate:
            return ""
        rates = f"from {self.sampling_rate:g} to {self.own_rate:g} Hz"
        return f"{self.name} reads windows resampled {rates}"

    def token_layers(self, samples: npt.NDArray[np.int16]) -> tuple[list[Tensor], Tensor]:
        """Samples ``(B, length, leads)`` to its tokens and their validity: a token is valid where
        its share of the window holds a measured sample."""
        counts = samples[:, :, self.order].transpose(0, 2, 1)
        valid = counts != INVALID
        signal = np.where(valid, counts, 0).astype(np.float32) * np.float32(self.scale)
        if self.own_rate != self.sampling_rate:
            signal, valid = self._resampled(signal, valid)
        with evaluating(self.call):
            found = self.call(torch.from_numpy(signal * np.float32(self.factor)))
        tokens = self._checked(found, len(samples))
        measured, count = valid.any(axis=1), tokens.shape[1]
        edges = np.arange(count + 1) * self.own_length / count
        shares = [
            measured[:, math.floor(begin) : math.ceil(end)].any(axis=1)
            for begin, end in pairwise(edges)
        ]
        return [tokens], torch.from_numpy(np.stack(shares, axis=1))

    def _resampled(
        self, signal: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        shape = (*signal.shape[:2], self.own_length)
        values, measured = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        names = tuple(self.leads[place] for place in self.order)
        for n in np.flatnonzero(valid.any(axis=(1, 2))):
            window = Recording(signal[n], names, self.sampling_rate, valid[n], self.name)
            window = resample(window, self.own_rate)
            some = min(self.own_length, window.signal.shape[1])
            values[n, :, :some] = np.where(window.valid, window.signal, 0)[:, :some]
            measured[n, :, :some] = window.valid[:, :some]
        return values, measured

    def _checked(self, found: Any, windows: int) -> Tensor:
        tokens = torch.as_tensor(found) if isinstance(found, Tensor | np.ndarray) else None
        problem = ""
        if tokens is None:
            problem = f"a {type(found).__name__}"
        elif tokens.ndim not in (2, 3) or len(tokens) != windows or 0 in tokens.shape:
            problem = f"the shape {tuple(tokens.shape)}"
        elif not tokens.is_floating_point():
            problem = str(tokens.dtype)
        elif not tokens.isfinite().all():
            problem = "numbers that are not finite"
        if tokens is None or problem:
            raise LatentcastError(
                f"{self.name}: of windows ({windows}, {len(self.order)}, {self.own_length}) it "
                f"returns {problem}; return finite floats (B, N, D) or (B, D)"
            )
        tokens = tokens.detach().cpu()
        return (tokens[:, None] if tokens.ndim == 2 else tokens).float()


def foreign(
    name: str, target: Any, store: Store, device: str | torch.device = AUTO
) -> FeatureSource:
    """An encoder that a probe can read.

    Args:
        name: of its rows.
        target: a callable, a source of features, or a text
            ``WHAT[,sampling_rate=HZ][,leads=I+II][,length=SAMPLES][,unit=mV]``, where WHAT is
            ``module:function``, an ``.onnx`` file, or a run or exported file of latentcast.
        store: that is read.
        device: of a run or exported file of latentcast.

    Raises:
        LatentcastError: there is no such thing, it cannot be read safely, or the store lacks what
            it reads.
    """
    if not isinstance(target, str | Path):
        return (
            target if hasattr(target, "token_layers") else _of_recordings(name, target, {}, store)
        )
    what, *options = str(target).split(",")
    reads = dict(option.partition("=")[::2] for option in options)
    for key in reads:
        if key not in READS:
            raise LatentcastError(f"--encoder {name}: {key} is no option; {nearest(key, READS)}")
    path = Path(what)
    if path.suffix in PICKLED:
        raise LatentcastError(
            f"{what}: a file of this kind runs code when it is loaded; name what reads "
            "the signal (module:function), or an .onnx file"
        )
    if path.suffix == ".onnx":
        encoder = _of_recordings(name, _onnx(path), reads, store)
        # Weights in a second file, which the first one locates, would change without its digest.
        apart = not path.is_file() or b"location" in path.read_bytes()
        return encoder if apart else replace(encoder, digest=sha256(path))
    if path.exists() or ships(path):
        if reads:
            raise LatentcastError(
                f"--encoder {name}: {what} carries what it reads; leave out {', '.join(reads)}"
            )
        ours = Encoder.from_pretrained(path, device=device)
        ours.name = name
        return ours
    return _of_recordings(name, _imported(name, what), reads, store)


def _of_recordings(
    name: str, call: Callable[[Tensor], Any], reads: Mapping[str, str], store: Store
) -> ForeignEncoder:
    if store.modality != "ecg":
        raise LatentcastError(
            f"{store.path}: holds images, {name} reads recordings; name a store of recordings"
        )
    found: dict[str, Any] = {key: getattr(call, key) for key in READS if hasattr(call, key)}
    found |= reads
    leads = found.get("leads", store.leads)
    leads = tuple(leads.split("+")) if isinstance(leads, str) else tuple(leads)
    missing = [lead for lead in leads if lead not in store.leads]
    if missing:
        raise LatentcastError(
            f"{store.path}: has no lead {', '.join(missing)}, which {name} reads; name leads of "
            f"{'+'.join(store.leads)} (leads=...)"
        )
    unit = str(found.get("unit", "mV"))
    if unit not in UNITS:
        raise LatentcastError(f"--encoder {name}: unit {unit} is unknown; {nearest(unit, UNITS)}")
    rate = _number(name, "sampling_rate", found.get("sampling_rate", store.sampling_rate))
    lengths, times = np.unique(store.lengths, return_counts=True)
    usual = round(int(lengths[times.argmax()]) * rate / store.sampling_rate)
    length = round(_number(name, "length", found.get("length", usual)))
    return ForeignEncoder(
        name, call, tuple(store.leads), store.sampling_rate, store.scale,
        max(1, round(length * store.sampling_rate / rate)),
        tuple(store.leads.index(lead) for lead in leads), rate, length, UNITS[unit],
    )  # fmt: skip


def _number(name: str, key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise LatentcastError(
            f"--encoder {name}: {key} {value} is no number above 0; write {key}=500"
        )
    return number


def _imported(name: str, what: str) -> Callable[[Tensor], Any]:
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


def _onnx(file: Path) -> Callable[[Tensor], Any]:
    """Its first output, of its only input."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise missing_extra("onnxruntime", "onnx", "reading an .onnx file") from error
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as problem:  # of the runtime, which has classes of its own
        raise LatentcastError(f"{file}: cannot be read ({problem}); export it again") from None
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise LatentcastError(
            f"{file}: has {len(inputs)} inputs; export a network of one, (B, leads, samples)"
        )

    def call(signal: Tensor) -> Any:
        try:
            return session.run(None, {inputs[0].name: signal.numpy()})[0]
        except Exception as problem:
            raise LatentcastError(
                f"{file}: does not read windows {tuple(signal.shape)} ({problem}); name what it "
                "reads (leads=I+II,length=1000,sampling_rate=100)"
            ) from None

    return call
