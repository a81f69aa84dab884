"""A recording as whole counts: the one way from millivolts to what a store and an encoder hold.

Ingest and the encoder both come through here, so an encoder sees of a recording exactly what
training saw of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from latentcast.signals.channels import MILLIVOLTS, Signal
from latentcast.signals.quality import Finding, assess, normalisation_of
from latentcast.signals.recording import INVALID, Recording, check_rate, select_leads
from latentcast.signals.resample import polyphase
from latentcast.source import BadRecord

LARGEST = 32767
NO_ECG = 100.0
"""Millivolts beyond which it is no matter of the scale."""
FEWEST_COUNTS = 8
"""A record whose largest lead spans fewer counts is all rounding: its unit or gain is wrong."""


def to_counts(
    recording: Recording,
    leads: tuple[str, ...],
    scale: float,
    *,
    mask_missing: bool = False,
    sampling_rate: float | None = None,
    signal: Signal = "ecg",
) -> npt.NDArray[np.int16]:
    """What :meth:`Store.take` gives of this recording after ingest, bit for bit.

    Args:
        recording: in millivolts, with any leads in any order.
        leads: canonical names, the order of the result; III, aVR, aVL and aVF are computed from I
            and II where the recording lacks them.
        scale: millivolts per count.
        mask_missing: a lead that cannot be had is ``INVALID`` throughout, instead of an error.
        sampling_rate: of the counts, in Hz; the recording's own by default.
        signal: ``other`` leaves out what holds of ECGs alone, as it does in ingest.

    Returns:
        int16 ``(samples, leads)``; ``INVALID`` where nothing was measured (NaN) and where what was
        measured is no signal (flat and saturated stretches).

    Raises:
        BadRecord: a lead is missing, nothing is valid, or the amplitude does not fit ``scale``;
            the message begins with the record's id.
    """
    try:
        # Assessed before it is resampled, while a clipped top can still be seen.
        chosen, _ = choose_valid(recording, leads, mask_missing=mask_missing, signal=signal)
        if sampling_rate is not None:
            chosen = polyphase(chosen, sampling_rate)
        counts = quantise(chosen, scale, signal=signal)
    except BadRecord as error:
        raise BadRecord(f"{recording.record_id}: {error.in_python}") from error
    counts[~chosen.valid] = INVALID
    return np.ascontiguousarray(counts.T)


def choose_valid(
    recording: Recording, leads: tuple[str, ...], *, mask_missing: bool, signal: Signal = "ecg"
) -> tuple[Recording, tuple[Finding, ...]]:
    """The recording with exactly ``leads``, what is no signal out of ``valid``, and the findings.

    Raises:
        BadRecord: a lead is missing, nothing is valid, or an ECG is in no unit any more.
    """
    if recording.samples == 0:
        raise BadRecord("holds no samples")
    if not recording.valid.any():
        raise BadRecord("no sample is valid (all NaN)")
    ecg = signal == "ecg"
    if ecg:
        check_rate(recording.sampling_rate)
    if ecg and (how := normalisation_of(recording)):
        raise BadRecord(
            f"was normalised before ({how}), expected is the ECG in V, mV, uV or nV; give it as it "
            "was measured, training and embedding normalise it"
        )
    chosen = select_leads(recording, leads, mask_missing=mask_missing, derive=ecg)
    assessed, findings = assess(chosen, ecg=ecg)
    if not assessed.valid.any():
        raise BadRecord("no lead is valid: " + "; ".join(f.message for f in findings))
    return assessed, findings


def quantise(
    recording: Recording, scale: float, unit: str = MILLIVOLTS, signal: Signal = "ecg"
) -> npt.NDArray[np.int16]:
    """Whole counts of ``scale`` mV (or another unit), int16 ``(leads, samples)``.

    ``INVALID`` stands for NaN alone; measured values stay, valid or not.

    Raises:
        BadRecord: the amplitude does not fit: beyond int16, or hardly one count.
    """
    scaled = rounded(recording.signal, scale)
    highs, lows = np.fmax.reduce(scaled, axis=1), np.fmin.reduce(scaled, axis=1)
    peaks = np.fmax(np.abs(highs), np.abs(lows))
    if np.fmax.reduce(peaks) > LARGEST:
        lead = int(np.nanargmax(peaks))
        if lows[lead] == INVALID and np.fmax.reduce(peaks) == -INVALID:
            raise BadRecord(
                f"holds {INVALID} counts of {scale:g} {unit} in lead {recording.leads[lead]}, by "
                "which files of int16 mark a sample that was not measured; write NaN there"
            )
        amplitude = float(peaks[lead]) * scale
        words = f"amplitude {amplitude:.4g} {unit} in lead {recording.leads[lead]}"
        if signal == "ecg" and amplitude > NO_ECG:
            wrong = f"{words} is more than any ECG has (±{NO_ECG:g} mV): its unit or gain is wrong"
            raise BadRecord(
                f"{wrong}; give an array with the unit it is in, such as --unit uV, or correct the "
                "gain in the header",
                f"{wrong}; give the unit it is in, such as unit='uV'",
            )
        large = f"{words} is beyond ±{LARGEST * scale:.5g} {unit}; check gain and unit"
        raise BadRecord(f"{large} (or ingest all with a coarser --scale, here {scale:g})", large)
    span = np.fmax.reduce(highs - lows)
    if span < FEWEST_COUNTS:
        small = f"no lead spans more than {float(span) * scale:.2g} {unit}; check gain and unit"
        raise BadRecord(f"{small} (or ingest all with a finer --scale, here {scale:g})", small)
    if (missing := np.isnan(scaled)).any():
        scaled[missing] = INVALID
    return stored_counts(scaled)


def rounded(signal: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.float32]:
    """Counts of ``scale``, rounded to the nearest, of one recording or of several."""
    scaled = signal * np.float32(1 / scale)
    np.rint(scaled, out=scaled)
    return scaled


def stored_counts(scaled: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Rounded counts as they are stored."""
    return scaled.astype(np.int16)
