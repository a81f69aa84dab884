"""A recording in physical units: what every reader returns and every store gives back."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, quoted
from latentcast.notebook import table_html
from latentcast.signals.leads import DERIVED_FROM_I_AND_II, nearest_lead
from latentcast.signatures import check
from latentcast.source import BadRecord

INVALID = -32768
"""The int16 count that marks a sample as not measured, or as outside the record, in any array of
counts. No measured sample is ever stored as this."""

LOWEST_RATE = 20
"""Hz at which an ECG still shows its complexes."""
HIGHEST_RATE = 100_000
"""Hz; high-resolution and magnetocardiographic recorders stay far below."""

MILLIVOLTS_PER_UNIT: dict[str, float] = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "nv": 1e-6}


@lru_cache(256)
def millivolts_per(unit: str) -> float:
    """Millivolts in one ``unit``: V, mV, uV (also µV) or nV, in any case.

    Raises:
        LatentcastError: the unit is no voltage.
    """
    if spelled(unit) not in MILLIVOLTS_PER_UNIT:
        raise LatentcastError(f"unit '{unit}': is no voltage; use V, mV, uV or nV")
    return MILLIVOLTS_PER_UNIT[spelled(unit)]


def hertz(rate: float, name: str) -> float:
    """A sampling rate that is one.

    Raises:
        LatentcastError: begins with ``name``; it is no positive number.
    """
    if not isinstance(rate, int | float | np.number) or not 0 < rate < float("inf"):
        raise LatentcastError(f"{name} {rate}: is no sampling rate; give a number of Hz")
    return float(rate)


def check_rate(rate: float) -> None:
    """Raises BadRecord: no ECG was sampled at this rate, so that nothing is to be made from it."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise BadRecord(
            f"has a sampling rate of {rate:g} Hz, which no ECG has ({LOWEST_RATE} to "
            f"{HIGHEST_RATE:,} Hz); check the rate in its header"
        )


def spelled(unit: str) -> str:
    """A unit as :data:`MILLIVOLTS_PER_UNIT` spells it."""
    # Both code points of the micro sign occur in real headers.
    return unit.strip().lower().replace("\u00b5", "u").replace("\u03bc", "u")


@dataclass(frozen=True)
class Recording:
    """One ECG, or other channels over time.

    Attributes:
        signal: float32 ``(leads, samples)`` in millivolts (of channels that are no ECG, in the unit
            that they were ingested in); NaN where nothing was measured.
        leads: canonical lead names, one per row of ``signal``; other channels have their own names.
        sampling_rate: samples per second.
        valid: bool ``(leads, samples)``; False for NaN and for samples that are no signal
            (flat or saturated stretches). A NaN is never valid.
        record_id: unique in its source.
        patient_id: the source's patient, or None where it names none.
        metadata: whatever else the source has (age, sex, device, report, ...).
    """

    signal: npt.NDArray[np.float32]
    leads: tuple[str, ...]
    sampling_rate: float
    valid: npt.NDArray[np.bool_]
    record_id: str
    patient_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if tuple(map(type, vars(self).values())) not in _PLAIN or {*map(type, self.leads)} != {str}:
            check(Recording, vars(self), _hints())
        if self.signal.ndim != 2 or self.signal.shape[0] != len(self.leads):
            raise BadRecord(
                f"{self.record_id}: signal has shape {self.signal.shape} for {len(self.leads)} "
                "leads; it must be (leads, samples)"
            )
        if self.valid.shape != self.signal.shape or self.valid.dtype != np.bool_:
            raise BadRecord(f"{self.record_id}: valid must be bool {self.signal.shape}")
        if self.signal.dtype != np.float32:
            raise BadRecord(f"{self.record_id}: signal is {self.signal.dtype}, not float32")
        if not np.isfinite(self.sampling_rate) or self.sampling_rate <= 0:
            raise BadRecord(f"{self.record_id}: sampling rate is {self.sampling_rate}")

    def __repr__(self) -> str:
        return f"Recording({self.record_id!r}: {', '.join(self._summary.values())})"

    def _repr_html_(self) -> str:
        rows = [*self._summary.items(), ("lead names", " ".join(self.leads))]
        rows += [(name, str(value)[:80]) for name, value in self.metadata.items()]
        return table_html(f"Recording {self.record_id}", rows)

    @property
    def _summary(self) -> dict[str, str]:
        share = self.valid.mean() if self.valid.size else 0.0
        return {
            "leads": f"{len(self.leads)} leads",
            "length": f"{self.seconds:g} s at {self.sampling_rate:g} Hz",
            "valid": f"{share:.1%} valid",
            **({} if self.patient_id is None else {"patient": f"patient {self.patient_id!r}"}),
        }

    @property
    def samples(self) -> int:
        return int(self.signal.shape[1])

    @property
    def seconds(self) -> float:
        return self.samples / self.sampling_rate


_PLAIN = {
    (np.ndarray, tuple, rate, np.ndarray, str, patient, dict)
    for rate in (int, float)
    for patient in (str, type(None))
}
"""Types of the fields that :func:`~latentcast.signatures.check` finds nothing wrong with: those of
every recording that a reader makes."""


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Recording)


def stretches(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """``(start, stop)`` of every stretch of True in ``(samples,)``."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def from_signal(
    signal: npt.NDArray[np.float32],
    leads: tuple[str, ...],
    sampling_rate: float,
    record_id: str,
    patient_id: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Recording:
    """A recording whose every finite sample is valid; infinities become NaN."""
    finite = np.isfinite(signal)
    if not finite.all():
        signal = np.where(finite, signal, np.float32(np.nan))
    return Recording(
        signal, leads, sampling_rate, finite, record_id, patient_id, dict(metadata or {})
    )


def _misspelled(recording: Recording, absent: list[str]) -> tuple[str, str] | None:
    """A channel that was left out, and the absent lead that its name is near to."""
    for name in recording.metadata.get("channels_left_out", ()):
        if (lead := nearest_lead(name)) is not None and lead in absent:
            return name.strip(), lead
    return None


def select_leads(
    recording: Recording, leads: tuple[str, ...], *, mask_missing: bool, derive: bool = True
) -> Recording:
    """The recording with exactly ``leads`` in that order, found by name.

    With ``derive`` III, aVR, aVL and aVF are computed from I and II where the source lacks them,
    and ``metadata["derived_leads"]`` then names them. A lead that can be had in neither way is a
    row of NaN, not valid, under ``mask_missing``.

    Raises:
        BadRecord: leads are missing and ``mask_missing`` is off, or all of them are.
    """
    if recording.leads == leads:
        return recording
    row = {name: i for i, name in enumerate(recording.leads)}
    can_derive = derive and "I" in row and "II" in row
    absent = [n for n in leads if n not in row and not (can_derive and n in DERIVED_FROM_I_AND_II)]
    if absent and (not mask_missing or len(absent) == len(leads)):
        lacks = f"lacks lead {', '.join(absent)}"
        if (pair := _misspelled(recording, absent)) is not None:
            name, lead = pair
            raise BadRecord(
                f"{lacks}; if {quoted(name, 20)} is {lead}, read it with --rename "
                f"{shlex.quote(f'{name}={lead}')}",
                f"{lacks}; if {quoted(name, 20)} is {lead}, read it with rename="
                f"{{{name!r}: {lead!r}}}",
            )
        raise BadRecord(
            f"{lacks}; ingest with --missing-leads mask to keep it",
            f'{lacks}; give it as NaN in an array, ingest the files with missing_leads="mask" '
            'and embed the store, or read it at its mean with missing_leads="mean" (latentcast '
            "predict: --missing-leads mean)",
        )
    signal = np.full((len(leads), recording.samples), np.nan, dtype=np.float32)
    valid = np.zeros(signal.shape, dtype=np.bool_)
    derived = []
    for i, name in enumerate(leads):
        if name in row:
            signal[i] = recording.signal[row[name]]
            valid[i] = recording.valid[row[name]]
        elif name not in absent:
            a, b = DERIVED_FROM_I_AND_II[name]
            signal[i] = a * recording.signal[row["I"]] + b * recording.signal[row["II"]]
            valid[i] = recording.valid[row["I"]] & recording.valid[row["II"]]
            derived.append(name)
    metadata = dict(recording.metadata)
    if derived:
        metadata["derived_leads"] = derived
    if absent:
        metadata["missing_leads"] = absent
    return replace(recording, signal=signal, valid=valid, leads=leads, metadata=metadata)
