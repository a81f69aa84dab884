"""A network of somebody else over recordings.

It takes float32 millivolts ``(B, leads, samples)``. What it reads (``sampling_rate``, ``leads``,
``length``, ``unit``) is given with it or stands on it as attributes of these names; what is given
nowhere is as the store has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.data.store import Store
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation.foreign.networks import positive, reads_of, tokens_of
from latentcast.nn.modes import evaluating
from latentcast.signals.recording import INVALID, Recording
from latentcast.signals.resample import resample

UNITS = {"V": 1e-3, "mV": 1.0, "uV": 1e3, "nV": 1e6}
"""Of one millivolt."""
READS = ("sampling_rate", "leads", "length", "unit")


@dataclass(frozen=True, eq=False)
class ForeignRecordings:
    """A :class:`~latentcast.evaluation.features.FeatureSource` of one layer.

    Attributes:
        call: the network.
        leads, sampling_rate, scale: of the store, whose windows it is given.
        length: samples of a window, at the rate of the store.
        order: of its own leads, the place in those of the store.
        own_rate: in Hz, what the network reads; ``own_length`` the samples of a window then.
        factor: of millivolts to its unit.
        missing: what it is given where nothing was measured: 0, or NaN of a graph of ours.
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
    missing: float = 0.0
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
        signal = np.where(valid, signal * np.float32(self.factor), np.float32(self.missing))
        with evaluating(self.call):
            found = self.call(torch.from_numpy(signal))
        shape = (len(samples), len(self.order), self.own_length)
        tokens = tokens_of(found, self.name, shape)
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


def of_recordings(
    name: str, call: Callable[[Tensor], Any], reads: Mapping[str, str], store: Store
) -> ForeignRecordings:
    """Raises LatentcastError: the store lacks a lead, or an option is malformed."""
    found = reads_of(name, call, READS, reads)
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
    rate = positive(name, "sampling_rate", found.get("sampling_rate", store.sampling_rate))
    lengths, times = np.unique(store.lengths, return_counts=True)
    usual = round(int(lengths[times.argmax()]) * rate / store.sampling_rate)
    length = round(positive(name, "length", found.get("length", usual)))
    return ForeignRecordings(
        name, call, tuple(store.leads), store.sampling_rate, store.scale,
        max(1, round(length * store.sampling_rate / rate)),
        tuple(store.leads.index(lead) for lead in leads), rate, length, UNITS[unit],
        getattr(call, "missing", 0.0),
    )  # fmt: skip
