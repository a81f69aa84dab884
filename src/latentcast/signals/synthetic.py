"""Synthetic 12-lead ECGs: one of Gaussians, and one of which all that can be measured is exact.

:func:`synthetic_ecg` has waves that begin and end: P onset, QRS onset and end and T end are times
and no matter of taste, and a :class:`Truth` comes with it. :func:`synthetic_recording` is simpler;
it has a rate and the places of waves without ends.

The waves live in the two independent limb leads and the six chest leads; III, aVR, aVL and aVF
follow by Einthoven and Goldberger, so a recording passes the checks that a real one must pass. The
shape is that of a textbook, after McSharry et al., IEEE Trans. Biomed. Eng. 50 (2003) 289; it is a
test signal, no model of disease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, nearest
from latentcast.signals.leads import CANONICAL_LEADS, DERIVED_FROM_I_AND_II
from latentcast.signals.recording import Recording, from_signal

Floats = npt.NDArray[np.float64]
Rhythm = Literal["sinus", "atrial fibrillation"]
Noise = Literal["white", "wander", "mains", "muscle", "electrode"]
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
    return from_signal(
        _twelve(independent),
        CANONICAL_LEADS,
        float(sampling_rate),
        record_id or f"synthetic-{seed}",
        patient_id,
        {"heart_rate": float(heart_rate)},
    )


def _twelve(independent: Floats) -> npt.NDArray[np.float32]:
    """Eight leads to twelve, by Einthoven and Goldberger."""
    rows = dict(zip(_INDEPENDENT, independent, strict=True))
    for name, (a, b) in DERIVED_FROM_I_AND_II.items():
        rows[name] = a * rows["I"] + b * rows["II"]
    return np.stack([rows[name] for name in CANONICAL_LEADS]).astype(np.float32)


@dataclass(frozen=True)
class Truth:
    """What is true of a synthetic ECG, to the rounding of float32.

    Attributes:
        heart_rate: beats a minute, over all beats of the strip.
        rhythm: ``sinus`` or ``atrial fibrillation``.
        pr: seconds from the onset of P to that of QRS; None without P waves.
        qrs: seconds from onset to end, of beats that are no PVC, as are ``pr`` and ``qt``.
        qt: seconds from the onset of QRS to the end of T.
        axis: of QRS in the frontal plane, in degrees: 0 is lead I, 90 aVF.
        beats: seconds at which the QRS complexes have their middle, their R peak.
        pvcs: which of them are premature ventricular complexes.
        noise: RMS in mV of each kind that was added, in each of the leads I, II and V1 to V6.
    """

    heart_rate: float
    rhythm: Rhythm
    pr: float | None
    qrs: float
    qt: float
    axis: float
    beats: tuple[float, ...]
    pvcs: tuple[bool, ...]
    noise: dict[str, float]


_P_SECONDS, _T_SECONDS, _PVC_SECONDS = 0.1, 0.18, 0.16
_P_AXIS, _T_AXIS, _PVC_AXIS = 55.0, 45.0, -70.0
_PREMATURE = 0.62
"""Share of an interval after which a premature beat comes."""
_CHEST: dict[str, tuple[float, ...]] = {
    "P": (0.4, 0.5, 0.5, 0.5, 0.5, 0.5), "QRS": (-0.6, -0.5, 0.3, 0.9, 1.0, 0.8),
    "T": (-0.2, 0.9, 1.2, 1.1, 0.9, 0.7), "PVC": (1.2, 1.0, 0.4, -0.5, -0.8, -0.8),
}  # fmt: skip
"""V1 to V6, each wave over its size in the frontal plane."""
_SIZE: dict[str, float] = {"P": 0.15, "QRS": 1.1, "T": 0.3, "PVC": 1.6}


def synthetic_ecg(
    heart_rate: float = 70.0,
    sampling_rate: float = 500.0,
    seconds: float = 10.0,
    seed: int = 0,
    *,
    rhythm: Rhythm = "sinus",
    pr: float = 0.16,
    qrs: float = 0.09,
    qt: float = 0.38,
    axis: float = 50.0,
    pvc_every: int = 0,
    noise: Mapping[Noise, float] | None = None,
    mains: float = 50.0,
    record_id: str | None = None,
    patient_id: str | None = None,
) -> tuple[Recording, Truth]:
    """Twelve leads, and what is true of them, which is in the metadata as well.

    Without noise the line between two beats is exactly 0, which ingest masks as padding where it
    is at an end of the recording.

    Args:
        heart_rate: beats a minute; in atrial fibrillation of the expected interval.
        sampling_rate: in Hz.
        seconds: length.
        seed: of the noise and of the intervals in atrial fibrillation.
        rhythm: atrial fibrillation has no P waves, fibrillatory waves and irregular intervals.
        pr: seconds from P onset to QRS onset.
        qrs: seconds, its duration.
        qt: seconds from QRS onset to T end; it does not follow the rate.
        axis: of QRS, in degrees.
        pvc_every: one beat of so many comes early, wide, from below and without P, and a pause
            makes up for it; 0 for none.
        noise: RMS in mV by kind: ``white``; ``wander`` below 0.5 Hz; ``mains``, a sine of that many
            Hz; ``muscle``, bursts above 20 Hz; ``electrode``, jumps that die away within a second.
        mains: Hz.
        record_id: ``"synthetic-<seed>"`` by default.
        patient_id: None by default.

    Raises:
        LatentcastError: the intervals leave no room for each other at this rate, or a rhythm or a
            kind of noise is unknown.
    """
    _refuse_unknown("rhythm", rhythm, get_args(Rhythm))
    for kind in noise or ():
        _refuse_unknown("noise", kind, get_args(Noise))
    period, generator = 60.0 / heart_rate, np.random.default_rng(seed)
    if qt < qrs + _T_SECONDS or pr < _P_SECONDS or qt + pr > period:
        raise LatentcastError(
            f"pr {pr:g}, qrs {qrs:g}, qt {qt:g}: leave no room for P (at least {_P_SECONDS:g}), T "
            f"(qt - qrs at least {_T_SECONDS:g}) and both in {period:.2f} s between two beats; "
            "choose a lower heart_rate or other intervals"
        )
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    # A beat before the strip and one after it reach into it.
    steps = np.full(int(seconds / period) + 3, period)
    if rhythm == "atrial fibrillation":
        least = qt + 0.05
        steps = least + (period - least) * generator.gamma(4.0, 0.25, 2 * len(steps))
    beats = 0.4 - period + np.concatenate([[0.0], np.cumsum(steps)])
    pvcs = np.zeros(len(beats), bool)
    if pvc_every:
        pvcs[pvc_every::pvc_every] = True
        beats[pvcs] -= (1 - _PREMATURE) * steps[np.flatnonzero(pvcs) - 1]
    independent = np.zeros((len(_INDEPENDENT), len(time)))
    for beat, early in zip(beats, pvcs, strict=True):
        width = _PVC_SECONDS if early else qrs
        onset = beat - width / 2
        end = onset + (width + 1.5 * _T_SECONDS if early else qt)
        t_wave = _hump(time, end - _T_SECONDS, _T_SECONDS)
        if early:
            independent += _wave("PVC", _PVC_AXIS, _complex(time, onset, width))
            independent += _wave("T", 180.0 + _PVC_AXIS, t_wave)
            continue
        independent += _wave("QRS", axis, _complex(time, onset, width))
        independent += _wave("T", _T_AXIS, t_wave)
        if rhythm == "sinus":
            independent += _wave("P", _P_AXIS, _hump(time, onset - pr, _P_SECONDS))
    if rhythm == "atrial fibrillation":
        for hertz in (5.3, 6.7):
            turn = generator.uniform(0, 2 * np.pi)
            independent += _wave("P", 90.0, 0.3 * np.sin(2 * np.pi * hertz * time + turn))
    for kind, rms in (noise or {}).items():
        added = _noise(kind, time, mains, generator)
        independent += rms * added / np.sqrt((added**2).mean(axis=1, keepdims=True))
    inside = (beats >= 0) & (beats <= time[-1])
    places, kept = beats[inside].tolist(), pvcs[inside].tolist()
    rate = 60 * (len(places) - 1) / (places[-1] - places[0]) if len(places) > 1 else heart_rate
    truth = Truth(
        float(rate), rhythm, pr if rhythm == "sinus" else None, qrs, qt, axis, tuple(places),
        tuple(kept), {str(kind): rms for kind, rms in (noise or {}).items()},
    )  # fmt: skip
    about = asdict(truth) | {"beats": places, "pvcs": sum(kept)}
    if truth.pr is None:
        del about["pr"]
    name = record_id or f"synthetic-{seed}"
    leads, rate = CANONICAL_LEADS, float(sampling_rate)
    return from_signal(_twelve(independent), leads, rate, name, patient_id, about), truth


def _refuse_unknown(name: str, value: str, kinds: tuple[str, ...]) -> None:
    if value not in kinds:
        raise LatentcastError(f"{name} '{value}': is unknown; {nearest(value, kinds)}")


def _wave(name: str, axis: float, shape: Floats) -> Floats:
    """A wave in the eight independent leads: I, at 0°, and II, at 60°, see it along its axis."""
    limb = np.cos(np.deg2rad(axis - np.array([0.0, 60.0])))
    leads: Floats = _SIZE[name] * np.array([*limb, *_CHEST[name]])[:, None] * shape
    return leads


def _hump(time: Floats, onset: float, width: float) -> Floats:
    """0 up to the onset and from ``width`` later on, 1 in the middle."""
    place = (time - onset) / width
    hump: Floats = np.where((place > 0) & (place < 1), np.sin(np.pi * place) ** 2, 0.0)
    return hump


def _complex(time: Floats, onset: float, width: float) -> Floats:
    """q, R and s that fill ``width`` seconds, R in the middle."""
    q, s = (_hump(time, onset + share * width, 0.3 * width) for share in (0.0, 0.7))
    return _hump(time, onset + 0.2 * width, 0.6 * width) - 0.1 * q - 0.15 * s


def _noise(kind: Noise, time: Floats, mains: float, generator: np.random.Generator) -> Floats:
    """Of any size, ``(8, samples)``."""
    shape, spacing = (len(_INDEPENDENT), len(time)), time[1] - time[0]
    turn = generator.uniform(0, 2 * np.pi, (shape[0], 1))
    white: Floats = generator.standard_normal(shape)
    hertz, spectrum = np.fft.rfftfreq(len(time), spacing), np.fft.rfft(white)
    match kind:
        case "white":
            added = white
        case "mains":
            added = np.sin(2 * np.pi * mains * time + turn)
        case "wander":
            added = np.fft.irfft(spectrum * ((hertz > 0) & (hertz < 0.5)), len(time))
        case "muscle":
            fast = np.fft.irfft(spectrum * (hertz > 20), len(time))
            added = fast * (1 + np.sin(2 * np.pi * 0.3 * time + turn))
        case "electrode":  # a jump every two seconds
            jumps = np.where(generator.random(shape) < spacing / 2, 5 * white, 0.0)
            jumps[:, len(time) // 2] += 5.0
            decay = np.exp(-np.arange(0, 1, spacing) / 0.2)
            added = np.stack([np.convolve(row, decay)[: len(time)] for row in jumps])
    return added
