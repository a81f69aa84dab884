"""Another sampling rate, for signal and validity alike."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from latentcast.errors import missing_extra
from latentcast.signals.leads import CANONICAL_LEADS, OTHER_LEADS
from latentcast.signals.quality import assess
from latentcast.signals.recording import Recording, stretches
from latentcast.source import BadRecord

MOST_UP, MOST_DOWN = 100, 1000
"""Times that a rate may be multiplied or divided: a wrong one must not fill the memory."""


def resample(recording: Recording, sampling_rate: float) -> Recording:
    """:func:`polyphase`, after what is no signal was taken out of ``valid`` as ingest does it: a
    clipped top is a ripple afterwards, which nothing recognises.

    Raises:
        LatentcastError: scipy is not installed.
        BadRecord: no valid sample remains, or the two rates are so far apart that one is wrong.
    """
    if recording.sampling_rate == sampling_rate:
        return recording
    ecg = set(recording.leads) <= {*CANONICAL_LEADS, *OTHER_LEADS}
    return polyphase(assess(recording, ecg=ecg)[0], sampling_rate)


def polyphase(recording: Recording, sampling_rate: float) -> Recording:
    """Anti-aliased polyphase resampling (``scipy.signal.resample_poly``, its Kaiser-5 FIR).

    The line through the first and last sample is taken off before filtering and put back after,
    so an offset does not ring at the ends. Samples that are not valid are bridged by a line before
    filtering; what lies within one filter lobe of them is not valid afterwards, and NaN where the
    source had NaN.

    Raises:
        LatentcastError: scipy is not installed.
        BadRecord: no valid sample remains, or the two rates are so far apart that one is wrong.
    """
    if recording.sampling_rate == sampling_rate:
        return recording
    if not 1 / MOST_UP <= recording.sampling_rate / sampling_rate <= MOST_DOWN:
        raise BadRecord(
            f"has a sampling rate of {recording.sampling_rate:g} Hz, too far from "
            f"{sampling_rate:g} Hz to be resampled; check the rate in its header"
        )
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise missing_extra("scipy", "ecg", "resampling") from error
    ratio = Fraction(sampling_rate / recording.sampling_rate).limit_denominator(10_000)
    signal = recording.signal.astype(np.float64)
    bridged = signal if recording.valid.all() else _bridge(signal, recording.valid)
    resampled = resample_poly(
        bridged, ratio.numerator, ratio.denominator, axis=-1, padtype="line"
    ).astype(np.float32)
    valid = _resample_mask(recording.valid, ratio, resampled.shape[1])
    if not valid.any():
        raise BadRecord("is too short to resample: no valid sample remains")
    measured = _resample_mask(~np.isnan(signal), ratio, resampled.shape[1])
    resampled[~measured] = np.nan
    return replace(recording, signal=resampled, valid=valid, sampling_rate=sampling_rate)


def _bridge(
    signal: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    bridged = np.zeros_like(signal)
    time = np.arange(signal.shape[1])
    for lead in np.flatnonzero(valid.any(axis=1)):
        keep = valid[lead]
        bridged[lead] = np.interp(time, time[keep], signal[lead, keep])
    return bridged


def _resample_mask(
    mask: npt.NDArray[np.bool_], ratio: Fraction, length: int
) -> npt.NDArray[np.bool_]:
    """True where every input sample within one filter lobe of the output sample is True."""
    resampled = np.ones((mask.shape[0], length), dtype=np.bool_)
    lobe = max(Fraction(1), 1 / ratio)
    for lead in np.flatnonzero(~mask.all(axis=1)):
        for start, stop in stretches(~mask[lead]):
            first = max(0, floor((start - lobe) * ratio) + 1)
            last = min(length, ceil((stop - 1 + lobe) * ratio))
            # What lies outside the record is as unknown as the bad stretch that touches its end.
            first = 0 if start == 0 else first
            last = length if stop == mask.shape[1] else last
            resampled[lead, first:last] = False
    return resampled
