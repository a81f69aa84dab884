"""A 12-lead ECG made of Gaussians, whose heart rate and intervals are known exactly.

The waves live in the two independent limb leads and the six chest leads; III, aVR, aVL and aVF
follow by Einthoven and Goldberger, so a recording passes the checks that a real one must pass. The
shape is that of a textbook, after McSharry et al., IEEE Trans. Biomed. Eng. 50 (2003) 289; it is a
test signal, no model of disease.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast.signals.leads import CANONICAL_LEADS, DERIVED_FROM_I_AND_II
from latentcast.signals.recording import Recording, from_signal

_INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")

# Amplitude in mV of each wave in the independent leads, in the order above.
_AMPLITUDES: dict[str, tuple[float, ...]] = {
    "P": (0.08, 0.14, 0.05, 0.06, 0.07, 0.08, 0.08, 0.07),
    "Q": (-0.05, -0.08, 0.00, 0.00, -0.02, -0.06, -0.08, -0.07),
    "R": (0.60, 1.00, 0.20, 0.45, 0.80, 1.30, 1.20, 0.90),
    "S": (-0.10, -0.15, -0.80, -1.20, -0.80, -0.40, -0.20, -0.08),
    "T": (0.18, 0.28, -0.06, 0.35, 0.40, 0.38, 0.30, 0.22),
}
# Standard deviation of each wave in seconds.
_WIDTHS: dict[str, float] = {"P": 0.022, "Q": 0.008, "R": 0.010, "S": 0.010, "T": 0.040}


@dataclass(frozen=True)
class Intervals:
    """Seconds from the R peak to the centre of each wave (negative: before it)."""

    P: float = -0.16
    Q: float = -0.028
    R: float = 0.0
    S: float = 0.028
    T: float = 0.28


def beat_times(heart_rate: float, seconds: float, first: float = 0.4) -> npt.NDArray[np.float64]:
    """Seconds at which the R peaks of :func:`synthetic_recording` lie."""
    return np.arange(first, seconds, 60.0 / heart_rate)


def synthetic_recording(
    heart_rate: float = 60.0,
    sampling_rate: float = 500.0,
    seconds: float = 10.0,
    seed: int = 0,
    *,
    intervals: Intervals | None = None,
    noise: float = 0.01,
    wander: float = 0.05,
    amplitude: float = 1.0,
    record_id: str | None = None,
    patient_id: str | None = None,
) -> Recording:
    """A regular rhythm in twelve leads in canonical order; the same seed gives the same bits.

    Args:
        heart_rate: beats per minute; R peaks lie at :func:`beat_times`.
        sampling_rate: in Hz.
        seconds: length.
        seed: of noise, wander and the small differences between one synthetic heart and the next;
            the rhythm does not depend on it.
        intervals: where the waves lie about the R peak.
        noise: standard deviation of white noise in mV, in each independent lead.
        wander: amplitude of the baseline's slow wave in mV.
        amplitude: factor on all waves.
        record_id: ``"synthetic-<seed>"`` by default.
        patient_id: None by default.
    """
    generator = np.random.default_rng(seed)
    intervals = intervals or Intervals()
    samples = round(seconds * sampling_rate)
    time = np.arange(samples) / sampling_rate
    # Beats just outside the strip still reach into it with their P and T waves.
    period = 60.0 / heart_rate
    beats = np.concatenate([[0.4 - period], beat_times(heart_rate, seconds + period)])
    independent = np.zeros((len(_INDEPENDENT), samples))
    for wave, amplitudes in _AMPLITUDES.items():
        centres = beats + getattr(intervals, wave)
        width = _WIDTHS[wave]
        shape = np.exp(-0.5 * ((time[:, None] - centres) / width) ** 2).sum(axis=1)
        heart = 1.0 + 0.1 * generator.standard_normal(len(_INDEPENDENT))
        independent += amplitude * (np.array(amplitudes) * heart)[:, None] * shape
    independent += noise * generator.standard_normal(independent.shape)
    phases = generator.uniform(0, 2 * np.pi, (len(_INDEPENDENT), 1))
    independent += wander * np.sin(2 * np.pi * 0.25 * time + phases)
    rows = dict(zip(_INDEPENDENT, independent, strict=True))
    for name, (a, b) in DERIVED_FROM_I_AND_II.items():
        rows[name] = a * rows["I"] + b * rows["II"]
    signal = np.stack([rows[name] for name in CANONICAL_LEADS]).astype(np.float32)
    return from_signal(
        signal,
        CANONICAL_LEADS,
        float(sampling_rate),
        record_id or f"synthetic-{seed}",
        patient_id,
        {"heart_rate": float(heart_rate)},
    )
