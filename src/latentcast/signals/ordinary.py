"""Which of several recordings have nothing to be found in them: all of them looked at in one pass.

Nearly every recording of an archive is ordinary, and twelve leads of a thousand samples are so few
that calls cost more than samples do. What is not ordinary here is looked at on its own by
:mod:`latentcast.signals.counts`, which alone decides; so every limit here is on the safe side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from latentcast.signals import quality
from latentcast.signals.leads import LIMB_LEADS

Floats = npt.NDArray[np.float32]
_SMALLEST = 4 * (quality.IDENTITY_MICROVOLTS * 1e-3) ** 2
"""Limit, in mV², of what contradicts the laws in the faintest of recordings."""
_SAFE = 0.99
"""Of a limit: another order of the same sums differs by less than the rest."""


def ordinary(
    signals: Floats, leads: tuple[str, ...], rate: float, highs: Floats, lows: Floats
) -> npt.NDArray[np.bool_]:
    """``(N,)``: True where :func:`~latentcast.signals.quality.normalisation_of` and
    :func:`~latentcast.signals.quality.assess` find nothing.

    Args:
        signals: float32 ``(N, leads, samples)`` in millivolts, with every sample measured.
        leads: of each.
        rate: of all, in Hz.
        highs, lows: ``(N, leads)``, extremes of each lead.
    """
    if signals.shape[2] < 2 * max(quality.FEWEST_SAMPLES, round(quality.FLAT_SECONDS * rate)):
        return np.zeros(len(signals), dtype=np.bool_)
    usual = _is_physical(signals, highs, lows)
    usual &= (signals[:, :, 0] != 0).any(axis=1) & (signals[:, :, -1] != 0).any(axis=1)
    usual &= _moves(signals, rate, highs, lows)
    if set(LIMB_LEADS) <= set(leads):
        rows = [leads.index(name) for name in LIMB_LEADS]
        usual &= _keep_the_laws(signals[:, :6] if rows == [*range(6)] else signals[:, rows])
    return usual


def _is_physical(signals: Floats, highs: Floats, lows: Floats) -> npt.NDArray[np.bool_]:
    """False where numbers may have been normalised: to deviation 1, or to end at 0 or -1, and 1."""
    squares = np.einsum("nls,nls->nl", signals, signals) / signals.shape[2]
    every = np.abs(squares.mean(axis=1) - 1) > 0.12  # and so where it is 1 in each lead
    ends = (highs != 1).any(axis=1) | ((lows != 0).any(axis=1) & (lows != -1).any(axis=1))
    physical: npt.NDArray[np.bool_] = every & ends
    return physical


def _moves(signals: Floats, rate: float, highs: Floats, lows: Floats) -> npt.NDArray[np.bool_]:
    """False where a lead rests on its own extreme, or for long."""
    flat = round(quality.FLAT_SECONDS * rate)
    clip = quality.clip_samples(rate)
    rests, times = signals[:, :, 1:] == signals[:, :, :-1], 1
    while times < clip - 1:  # where so many steps in a row are none
        more = min(times, clip - 1 - times)
        rests, times = rests[:, :, more:] & rests[:, :, :-more], times + more
    # Of the flat array: with three indices each step is looked at ten times as long.
    places = np.flatnonzero(rests)
    lead, start = np.divmod(places, rests.shape[2])
    rows = signals.reshape(highs.size, -1)
    values = rows[lead, start]
    tops = (values == highs.ravel()[lead]) | (values == lows.ravel()[lead])
    # A value is no farther from the median than from the other end.
    tops &= (highs - lows).ravel()[lead] >= _SAFE * quality.SATURATED_MILLIVOLTS
    moves = np.ones(len(signals), dtype=np.bool_)
    for flat_topped in np.unique(lead[tops]).tolist():
        if quality.rests_on_extremes(rows[flat_topped], rate):
            moves[flat_topped // signals.shape[1]] = False
    # What rests for so long rests at so many places in a row.
    row = max(1, flat - clip)
    moves[lead[row:][places[row:] - places[:-row] == row] // signals.shape[1]] = False
    return moves


def _keep_the_laws(limb: Floats) -> npt.NDArray[np.bool_]:
    """Whether the six limb leads are tied as Einthoven and Goldberger have it."""
    # With their means, in float32, and with a quarter of the smallest limit: nearly all keep it.
    rest = quality.IDENTITIES.astype(np.float32) @ limb
    kept: npt.NDArray[np.bool_] = np.einsum("nls,nls->n", rest, rest) <= (
        _SMALLEST / 4 * limb.shape[2]
    )
    kept[~kept] = _keep_the_laws_exactly(limb[~kept])
    return kept


def _keep_the_laws_exactly(limb: Floats) -> npt.NDArray[np.bool_]:
    """:func:`_keep_the_laws`, as :func:`~latentcast.signals.quality.limb_lead_findings` has it."""
    signals = limb.astype(np.float64)
    signals -= signals.mean(axis=2, keepdims=True)
    covariance = signals @ signals.transpose(0, 2, 1) / signals.shape[2]
    energy = np.trace(covariance, axis1=1, axis2=2)
    laws = quality.IDENTITIES
    broken = ((laws @ covariance) * laws).sum(axis=(1, 2))
    limit = np.maximum(quality.IDENTITY_TOLERANCE * energy, _SMALLEST)
    kept: npt.NDArray[np.bool_] = broken <= _SAFE * limit
    return kept
