"""What in a recording is no signal, and whether its limb leads can be what they are named.

Einthoven (III = II - I) and Goldberger (aVR = -(I+II)/2, aVL = I - II/2, aVF = II - I/2) tie six
limb leads to two. A source that swaps two channels or mis-scales one breaks these identities, and
the repair that restores them names the fault. Reversed electrodes keep them (all six leads change
together), so they are out of reach here; :mod:`latentcast.signals.suspicions` looks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
import numpy.typing as npt

from latentcast.signals.leads import DERIVED_FROM_I_AND_II, LIMB_LEADS
from latentcast.signals.recording import Recording

FLAT_SECONDS = 1.0
"""A constant value for this long is no ECG: even a pause carries noise of the amplifier."""
SATURATED_SECONDS = 0.02
SATURATED_SAMPLES = 4
SATURATED_MILLIVOLTS = 1.0
"""A lead that rests on its own extreme for this long, this far from its median, is clipped ..."""
SATURATED_STEP = 0.05
HELD_SECONDS = 0.06
"""... if it came there with a step of this many mV, as no wave reaches its top, or stays longer."""
IDENTITY_TOLERANCE = 0.002
"""Share of the limb leads' energy that may contradict the identities (filters, rounding)."""
IDENTITY_MICROVOLTS = 10.0
"""RMS contradiction below which no lead is accused, however small the ECG."""


PADDED_SECONDS = 0.05
"""All leads at exactly 0 for this long at an end of the record: padding, however short."""
FEWEST_SAMPLES = 50
"""Of fewer, mean and standard deviation are no sign of anything."""


@dataclass(frozen=True)
class Finding:
    """One named observation, for example ``("swapped", ("aVL", "aVF"), "aVL and aVF look ...")``.

    ``kind`` is swapped, inverted, scaled, limb-leads, flat, saturated, padded or missing; or one
    of :data:`~latentcast.signals.suspicions.Suspicion`.
    """

    kind: str
    leads: tuple[str, ...]
    message: str


def clip_samples(rate: float) -> int:
    """Samples in a row from which a lead rests on its extreme, at a rate in Hz."""
    return max(SATURATED_SAMPLES, round(SATURATED_SECONDS * rate))


def _constant_runs(
    signal: npt.NDArray[np.float32], shortest: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lead, start and stop of every run of one value that lasts ``shortest`` samples or more."""
    samples = signal.shape[1]
    # One pass over all leads: a column that is never "same" ends the runs of each lead.
    same = np.zeros((signal.shape[0], samples + 1), dtype=np.int8)
    # NaN equals nothing, so it is in no run.
    np.equal(signal[:, 1:], signal[:, :-1], out=same[:, 1:samples], casting="unsafe")
    edges = np.flatnonzero(same.ravel()[1:] != same.ravel()[:-1])
    starts, stops = edges[0::2], edges[1::2] + 1
    long = stops - starts >= shortest
    lead, start = np.divmod(starts[long], samples + 1)
    return lead, start, start + (stops - starts)[long]


def normalisation_of(recording: Recording) -> str | None:
    """How an ECG was normalised, where its numbers show it; None for one in a physical unit.

    z-scores have mean 0 and standard deviation 1 to the last digits, in every lead or over all of
    them; min-max scaling puts the extremes of every lead on exactly 0 or -1, and 1.
    """
    if recording.samples < FEWEST_SAMPLES:
        return None
    if _every_lead(recording, _is_z_score):
        return "mean 0 and standard deviation 1 in every lead"
    for low in (0, -1):
        if _every_lead(recording, partial(_reaches, low)):
            return f"every lead reaches from {low} to 1"
    signal, valid = recording.signal, recording.valid
    if _is_z_score(signal.ravel() if valid.all() else signal[valid]):
        return "mean 0 and standard deviation 1 over all leads"
    return None


def _every_lead(recording: Recording, holds: Callable[[npt.NDArray[np.float32]], bool]) -> bool:
    """Whether it holds of the valid samples of each lead that is not flat, and there is one."""
    found = False
    for lead, valid in zip(recording.signal, recording.valid, strict=True):
        samples = lead if valid.all() else lead[valid]
        if len(samples) and samples.min() < samples.max():
            if not holds(samples):
                return False
            found = True
    return found


def _reaches(low: int, values: npt.NDArray[np.float32]) -> bool:
    return (float(values.min()), float(values.max())) == (low, 1)


def _is_z_score(values: npt.NDArray[np.float32]) -> bool:
    if abs(float(values @ values) / len(values) - 1) > 0.1:  # fast, and so of nearly every ECG
        return False
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    # One part in a thousand for half precision and counts, 1/n for the two kinds of deviation.
    return abs(mean) < 1e-4 and abs(deviation - 1) < 1e-3 + 1 / len(values)


def assess(recording: Recording, *, ecg: bool = True) -> tuple[Recording, tuple[Finding, ...]]:
    """The recording with flat and saturated stretches taken out of ``valid``, and the findings.

    The signal itself is not touched. Works at the recording's own rate and must come before
    resampling, which turns a clipped top into ripple. Of channels that are no ECG only flat
    stretches are looked for: what saturates is a matter of millivolts, and limb leads have laws.
    """
    signal, rate = recording.signal, recording.sampling_rate
    valid, complete = recording.valid.copy(), bool(recording.valid.all())
    flat_length = max(2, round(FLAT_SECONDS * rate))
    clip_length = clip_samples(rate)
    leads, starts, stops = _constant_runs(signal, min(flat_length, clip_length))
    masked: dict[str, list[str]] = {"flat": [], "saturated": []}
    # A lead shorter than FLAT_SECONDS that never moves is flat too.
    flats = stops - starts >= min(flat_length, recording.samples)
    resting = ~flats & (stops - starts >= clip_length) & ecg
    if resting.any():
        extremes = np.fmin.reduce(signal, axis=1)[leads], np.fmax.reduce(signal, axis=1)[leads]
        values = signal[leads, starts]
        resting &= (values == extremes[0]) | (values == extremes[1])
    for lead in sorted(set(leads[flats | resting].tolist())):
        row = signal[lead]
        own = leads == lead
        start, stop, flat, clipped = starts[own], stops[own], flats[own], resting[own]
        if clipped.any():
            clipped &= _clips(row, start, stop, rate)
        for kind, chosen in (("flat", flat), ("saturated", clipped)):
            for first, last in zip(start[chosen].tolist(), stop[chosen].tolist(), strict=True):
                valid[lead, first:last] = False
            if chosen.any():
                masked[kind].append(recording.leads[lead])
    findings = []
    before, after = _padding(recording) if ecg else (0, 0)
    if before or after:
        valid[:, :before] = False
        valid[:, recording.samples - after :] = False
        message = f"{before} samples of zeros before and {after} after the signal, masked"
        findings.append(Finding("padded", recording.leads, message))
    unmeasured = [] if complete else np.flatnonzero(~recording.valid.any(axis=1)).tolist()
    absent = tuple(recording.leads[lead] for lead in unmeasured)
    if absent:
        findings.append(Finding("missing", absent, f"{', '.join(absent)}: no measured sample"))
    for kind, names in masked.items():
        if names:
            message = f"{', '.join(names)}: {kind} stretch, masked"
            findings.append(Finding(kind, tuple(names), message))
    assessed = replace(recording, valid=valid) if findings else recording
    return assessed, (*findings, *(limb_lead_findings(assessed) if ecg else ()))


def _clips(
    row: npt.NDArray[np.float32],
    start: npt.NDArray[np.int64],
    stop: npt.NDArray[np.int64],
    rate: float,
) -> npt.NDArray[np.bool_]:
    """Which runs on the extreme of a lead are no tops of waves."""
    value = row[start]
    far = np.abs(value - np.nanmedian(row)) >= SATURATED_MILLIVOLTS
    before = row[np.maximum(start - 1, 0)]
    after = row[np.minimum(stop, len(row) - 1)]
    step = np.fmax(np.abs(value - before), np.abs(value - after))
    clips: npt.NDArray[np.bool_] = far & (
        (step >= SATURATED_STEP) | (stop - start >= HELD_SECONDS * rate)
    )
    return clips


def rests_on_extremes(row: npt.NDArray[np.float32], rate: float) -> bool:
    """Whether a lead, float32 ``(samples,)`` with all of them measured, is clipped anywhere.

    Args:
        row: in mV.
        rate: in Hz.
    """
    _, start, stop = _constant_runs(row[None], clip_samples(rate))
    ends = (row[start] == row.min()) | (row[start] == row.max())
    return bool(_clips(row, start[ends], stop[ends], rate).any())


def _padding(recording: Recording) -> tuple[int, int]:
    """Samples of zeros in all leads before the signal and after it; 0 for fewer than are a sign."""
    signal = recording.signal
    if (signal[:, :1] != 0).any() and (signal[:, -1:] != 0).any():  # of nearly every recording
        return 0, 0
    signal = signal[(signal != 0).any(axis=1)]
    ends = signal[:, :1], signal[:, -1:]
    if not len(signal) or not any((end == 0).all() for end in ends):
        return 0, 0
    measured = np.flatnonzero((signal != 0).any(axis=0))
    least = max(2, round(PADDED_SECONDS * recording.sampling_rate))
    before, after = int(measured[0]), recording.samples - 1 - int(measured[-1])
    return (before if before >= least else 0), (after if after >= least else 0)


# Rows of IDENTITIES times the six limb leads are zero for a recording that keeps the laws.
IDENTITIES = np.zeros((4, 6))
for _row, (_name, (_a, _b)) in enumerate(DERIVED_FROM_I_AND_II.items()):
    IDENTITIES[_row, LIMB_LEADS.index(_name)] = 1.0
    IDENTITIES[_row, 0] -= _a
    IDENTITIES[_row, 1] -= _b


def limb_lead_findings(recording: Recording) -> tuple[Finding, ...]:
    """Swapped, inverted or mis-scaled limb leads, by the identities; empty when they hold.

    Needs all six limb leads and a second in which they are valid together; else there is none.
    Source of the identities: Einthoven 1912; Goldberger 1942.
    """
    if not set(LIMB_LEADS) <= set(recording.leads):
        return ()
    rows = [recording.leads.index(name) for name in LIMB_LEADS]
    together = recording.valid[rows].all(axis=0)
    if together.sum() < recording.sampling_rate:
        return ()
    limb = recording.signal[rows].astype(np.float64)
    limb = limb if together.all() else limb[:, together]
    # Offsets differ by lead in some sources and are no sign of a wrong name.
    limb -= limb.mean(axis=1, keepdims=True)
    # Every hypothesis below is a 6x6 matrix T acting on the leads; its contradiction is
    # tr(A T C T' A'), so the samples are read once, for C.
    covariance = limb @ limb.T / limb.shape[1]
    energy = float(np.trace(covariance))
    if energy == 0.0:
        return ()
    limit = max(IDENTITY_TOLERANCE * energy, 4 * (IDENTITY_MICROVOLTS * 1e-3) ** 2)

    def contradiction_of(residual: npt.NDArray[np.float64]) -> float:
        return float(np.einsum("ij,jk,ik->", residual, covariance, residual))

    before = contradiction_of(IDENTITIES)
    if before <= limit:
        return ()

    def contradiction(transform: npt.NDArray[np.float64]) -> float:
        return contradiction_of(IDENTITIES @ transform)

    identity = np.eye(6)
    candidates: list[tuple[float, Finding]] = []
    for i, j in combinations(range(6), 2):
        swap = identity.copy()
        swap[[i, j]] = swap[[j, i]]
        pair = (LIMB_LEADS[i], LIMB_LEADS[j])
        message = f"{pair[0]} and {pair[1]} look swapped"
        candidates.append((contradiction(swap), Finding("swapped", pair, message)))
    for i, name in enumerate(LIMB_LEADS):
        factor = _best_factor(i, covariance)
        if factor is None:
            continue
        scaled = identity.copy()
        scaled[i, i] = factor
        if abs(factor + 1.0) < 0.1:
            finding = Finding("inverted", (name,), f"{name} looks inverted")
        else:
            message = f"{name} looks mis-scaled (by {1 / factor:.3g})"
            finding = Finding("scaled", (name,), message)
        candidates.append((contradiction(scaled), finding))
    candidates.sort(key=lambda candidate: candidate[0])
    # A repair must restore the laws, and no rival may do it nearly as well.
    (best, finding), (rival, _) = candidates[0], candidates[1]
    if best <= limit and rival > 4 * max(best, 1e-9 * energy):
        return (finding,)
    rms = 1e3 * float(np.sqrt(before / 4))
    message = f"limb leads contradict Einthoven's law by {rms:.0f} microvolt RMS"
    return (Finding("limb-leads", LIMB_LEADS, message),)


def _best_factor(lead: int, covariance: npt.NDArray[np.float64]) -> float | None:
    """The factor on one lead that least contradicts the identities; None where none is sane."""
    own = IDENTITIES[:, lead]
    rest = IDENTITIES.copy()
    rest[:, lead] = 0.0
    denominator = float(own @ own * covariance[lead, lead])
    if denominator <= 0.0:
        return None
    factor = -float(own @ rest @ covariance[:, lead]) / denominator
    return factor if 1e-4 < abs(factor) < 1e4 else None
