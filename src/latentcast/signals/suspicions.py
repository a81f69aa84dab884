"""What looks wrong in a recording although its samples are valid: noise, electrodes, the rate.

Ingest keeps what :func:`~latentcast.signals.quality.assess` finds and masks, and nothing of this:
these are suspicions of a whole record, found anew wherever they are read. Everything is measured
at about 100 Hz, whatever the recording has, so that a limit means the same at every rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from latentcast.signals.quality import Finding
from latentcast.signals.recording import Recording

Floats = npt.NDArray[np.float64]
Suspicion = Literal["noise", "lead-off", "reversed", "heart-rate"]
Flag = Literal[
    "missing", "flat", "saturated", "padded", "swapped", "inverted", "scaled", "limb-leads",
    Suspicion,
]  # fmt: skip
"""Kinds of all findings: the first are those of ingest."""
SUSPICIONS: Final[tuple[str, ...]] = get_args(Suspicion)

HERTZ = 100
NOISE_MILLIVOLTS = 0.03
"""RMS above about 15 Hz in all but the quietest quarter of the fifths of a second of a lead."""
OFF_MILLIVOLTS = 0.05
"""A lead that spans less shows no beats: of 2,980 records of PTB-XL none has one."""
REVERSED_CORRELATION = -0.5
"""Of I, or II, with V6, which look from the same side of nearly every heart."""
SLOWEST, FASTEST = 25.0, 220.0
"""Beats per minute; the second is what is left of 220 less the age at birth."""
_REFRACTORY, _THRESHOLD = 0.15, 0.5
"""Seconds between beats, short so that a rate which cannot be is seen; share of a beat's slope."""
_LEAST_SECONDS = 5.0
"""Of a shorter record no rate is doubted."""


@dataclass(frozen=True)
class Suspected:
    """The heart rate in beats per minute, None where fewer than two beats were found, and the
    findings: of kind noise, lead-off, reversed or heart-rate."""

    heart_rate: float | None
    findings: tuple[Finding, ...]


def suspect(recording: Recording) -> Suspected:
    """What looks wrong in an assessed recording of ECG leads."""
    signal, valid, rate = _at_100_hertz(recording)
    names, used = recording.leads, valid.mean(axis=1) >= 0.5
    if not used.any() or signal.shape[1] < HERTZ:
        return Suspected(None, ())
    level = signal - _mean_over(signal, round(rate))
    findings = [*_noise(signal, names, used, rate), *_off(level, names, used)]
    findings += _reversals(level, valid, names, used)
    beats = _beats(signal[used], rate)
    heart_rate = 60 * rate / float(np.median(np.diff(beats))) if len(beats) > 1 else None
    if recording.seconds >= _LEAST_SECONDS:
        findings += _rate(heart_rate)
    return Suspected(heart_rate, tuple(findings))


def _at_100_hertz(recording: Recording) -> tuple[Floats, npt.NDArray[np.bool_], float]:
    """Means of as many samples as make about 10 ms, less the median of each lead; 0 where one of
    them is not valid."""
    block = max(1, round(recording.sampling_rate / HERTZ))
    length = recording.samples // block * block
    shape = (len(recording.leads), length // block, block)
    valid: npt.NDArray[np.bool_] = np.asarray(recording.valid[:, :length].reshape(shape).all(2))
    means: Floats = recording.signal[:, :length].reshape(shape).mean(axis=2, dtype=np.float64)
    means[~valid] = np.nan
    for lead in np.flatnonzero(valid.any(axis=1)):
        means[lead] -= np.nanmedian(means[lead])
    means[~valid] = 0.0
    return means, valid, recording.sampling_rate / block


def _mean_over(signal: Floats, samples: int) -> Floats:
    """The mean over a window about each sample; at the ends the last sample goes on."""
    half = max(1, samples // 2)
    padded = np.pad(signal, [(0, 0)] * (signal.ndim - 1) + [(half + 1, half)], mode="edge")
    sums = np.cumsum(padded, axis=-1)
    means: Floats = (sums[..., 2 * half + 1 :] - sums[..., : -2 * half - 1]) / (2 * half + 1)
    return means


def _noise(
    signal: Floats, names: tuple[str, ...], used: npt.NDArray[np.bool_], rate: float
) -> list[Finding]:
    width = round(0.2 * rate)
    count = signal.shape[1] // width
    fast = (signal - _mean_over(signal, 3))[:, : count * width].reshape(-1, count, width)
    level = np.quantile(np.sqrt((fast**2).mean(axis=2)), 0.25, axis=1)
    noisy = [name for name, x, ok in zip(names, level, used, strict=True)
             if ok and x > NOISE_MILLIVOLTS]  # fmt: skip
    if not noisy:
        return []
    most = 1000 * level[used].max()
    return [Finding("noise", tuple(noisy), f"{', '.join(noisy)}: noise of {most:.0f} µV RMS")]


def _off(level: Floats, names: tuple[str, ...], used: npt.NDArray[np.bool_]) -> list[Finding]:
    low, high = np.quantile(level, (0.005, 0.995), axis=1)
    off = [name for name, span, ok in zip(names, high - low, used, strict=True)
           if ok and span < OFF_MILLIVOLTS]  # fmt: skip
    if not off:
        return []
    message = f"{', '.join(off)}: spans less than {1000 * OFF_MILLIVOLTS:.0f} µV, electrode off?"
    return [Finding("lead-off", tuple(off), message)]


def _reversals(
    level: Floats, valid: npt.NDArray[np.bool_], names: tuple[str, ...], used: npt.NDArray[np.bool_]
) -> list[Finding]:
    """Of the electrodes on both arms I is the wrong way round; of right arm and left leg, II."""
    rows = [names.index(name) if name in names else -1 for name in ("I", "II", "V6")]
    if min(rows) < 0 or not used[rows].all():
        return []
    together = valid[rows].all(axis=0)
    if together.sum() < HERTZ:
        return []
    one, two, chest = level[rows][:, together]
    if min(_correlation(one, chest), _correlation(two, chest)) >= REVERSED_CORRELATION:
        return []
    # What is really aVR, the opposite of V6 in every heart, stands under another name.
    if _correlation(one - two / 2, chest) < _correlation(two - one / 2, chest):
        message = "I is turned against V6: electrodes of the arms reversed, or dextrocardia?"
        return [Finding("reversed", ("I",), message)]
    message = "II is turned against V6: electrodes of right arm and left leg reversed?"
    return [Finding("reversed", ("II",), message)]


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b) / max(float(np.sqrt((a @ a) * (b @ b))), 1e-12)


def _beats(signal: Floats, rate: float) -> npt.NDArray[np.int64]:
    """Samples of the steepest moments, all leads together."""
    steep = np.abs(np.diff(_mean_over(signal, 3), axis=1, prepend=signal[:, :1]))
    energy = _mean_over(steep.sum(axis=0), round(0.1 * rate))
    second = round(rate)
    peaks = energy[: len(energy) // second * second].reshape(-1, second).max(axis=1)
    top = (energy[1:-1] > energy[:-2]) & (energy[1:-1] >= energy[2:])
    candidates = 1 + np.flatnonzero(top & (energy[1:-1] > _THRESHOLD * np.median(peaks)))
    beats: list[int] = []
    for place in candidates[np.argsort(-energy[candidates], kind="stable")].tolist():
        if all(abs(place - beat) > _REFRACTORY * rate for beat in beats):
            beats.append(place)
    return np.sort(np.array(beats, dtype=np.int64))


def _rate(heart_rate: float | None) -> list[Finding]:
    if heart_rate is None:
        return [Finding("heart-rate", (), "no two beats were found")]
    if SLOWEST <= heart_rate <= FASTEST:
        return []
    message = f"{heart_rate:.0f} beats a minute; is the sampling rate right?"
    return [Finding("heart-rate", (), message)]
