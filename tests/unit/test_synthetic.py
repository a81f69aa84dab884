"""The synthetic ECG has the rate and intervals it claims, and obeys the laws of the limb leads."""

import numpy as np
import pytest

from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.quality import assess, limb_lead_findings
from latentcast.signals.recording import Recording
from latentcast.signals.synthetic import (
    Intervals,
    Noise,
    beat_times,
    synthetic_ecg,
    synthetic_recording,
)


@pytest.mark.parametrize("heart_rate", [40, 60, 95, 150])
@pytest.mark.parametrize("sampling_rate", [100, 500])
def test_r_peaks_lie_where_they_are_said_to(heart_rate: float, sampling_rate: float) -> None:
    recording = synthetic_recording(heart_rate, sampling_rate, noise=0.0, wander=0.0)
    lead = recording.signal[1]
    peaks = np.flatnonzero((lead[1:-1] > 0.5) & (lead[1:-1] >= lead[:-2]) & (lead[1:-1] > lead[2:]))
    expected = beat_times(heart_rate, 10)
    assert len(peaks) == len(expected)
    assert np.abs((peaks + 1) / sampling_rate - expected).max() <= 1.5 / sampling_rate


def test_a_longer_qt_moves_the_t_wave_and_nothing_else() -> None:
    short, long = (
        synthetic_recording(60, 500, noise=0, wander=0, intervals=Intervals(T=t)).signal[1]
        for t in (0.28, 0.36)
    )
    after = slice(int(0.4 * 500) + 75, int(0.4 * 500) + 250)
    assert long[after].argmax() - short[after].argmax() == 40
    assert np.abs(short - long)[:230].max() < 1e-3


def test_it_passes_the_checks_of_a_real_recording() -> None:
    for seed in range(10):
        recording = synthetic_recording(50 + 10 * seed, seed=seed)
        assessed, findings = assess(recording)
        assert findings == () and assessed.valid.all()
        assert recording.leads == CANONICAL_LEADS and recording.signal.shape == (12, 5000)


def test_the_seed_decides_every_bit() -> None:
    assert np.array_equal(synthetic_recording(seed=3).signal, synthetic_recording(seed=3).signal)
    assert not np.array_equal(
        synthetic_recording(seed=3).signal, synthetic_recording(seed=4).signal
    )


def pieces(recording: Recording) -> list[tuple[float, float]]:
    """Onset and end of every stretch in which V5 is not 0, in seconds."""
    on = np.abs(recording.signal[10]) > 1e-7
    edges = np.flatnonzero(np.diff(on.astype(int), prepend=0, append=0))
    rate = recording.sampling_rate
    return [((a - 1) / rate, b / rate) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def peaks(recording: Recording) -> np.ndarray:
    """Seconds of the maxima of V5 above half of the largest, by the vertex of a parabola."""
    lead = recording.signal[10].astype(np.float64)
    top = (lead[1:-1] > lead.max() / 2) & (lead[1:-1] >= lead[:-2]) & (lead[1:-1] > lead[2:])
    at = 1 + np.flatnonzero(top)
    a, b, c = lead[at - 1], lead[at], lead[at + 1]
    return (at + (a - c) / (a - 2 * b + c) / 2) / recording.sampling_rate


@pytest.mark.parametrize(
    ("heart_rate", "pr", "qrs", "qt", "axis"),
    [(60, 0.16, 0.09, 0.38, 50), (85, 0.2, 0.12, 0.42, -45), (50, 0.12, 0.08, 0.5, 170)],
)
def test_rate_intervals_and_axis_are_measured_back(
    heart_rate: float, pr: float, qrs: float, qt: float, axis: float
) -> None:
    made, truth = synthetic_ecg(heart_rate, 1000, pr=pr, qrs=qrs, qt=qt, axis=axis)
    assert truth.heart_rate == pytest.approx(heart_rate) and limb_lead_findings(made) == ()
    assert np.abs(peaks(made) - truth.beats).max() < 2e-4
    waves = pieces(made)
    for beat in truth.beats[1:-1]:
        place = next(n for n, (a, b) in enumerate(waves) if a < beat < b)
        (p, _), (onset, end), (_, last) = waves[place - 1 : place + 2]
        assert (onset - p, end - onset, last - onset) == pytest.approx((pr, qrs, qt), abs=0.0031)
        rows = made.signal[:, round(onset * 1000) : round(end * 1000)].sum(axis=1, dtype=float)
        found = np.rad2deg(np.arctan2(2 / np.sqrt(3) * rows[5], rows[0]))
        assert (found - axis + 180) % 360 - 180 == pytest.approx(0, abs=0.5)


def test_atrial_fibrillation_is_irregular_and_has_no_p_wave() -> None:
    (sinus, _), (made, truth) = (
        synthetic_ecg(70, 500, 60, rhythm=rhythm) for rhythm in ("sinus", "atrial fibrillation")
    )
    intervals = np.diff(peaks(made))
    assert truth.pr is None and 60 / intervals.mean() == pytest.approx(truth.heart_rate, rel=0.01)
    assert intervals.std() / intervals.mean() > 0.1 and np.diff(peaks(sinus)).std() < 1e-3

    def before(recording: Recording) -> np.ndarray:
        """The mean of lead II in the 200 ms before the QRS complexes."""
        cuts = [round(beat * 500) for beat in peaks(recording) if beat > 0.5]
        return np.mean([recording.signal[1, cut - 123 : cut - 23] for cut in cuts], axis=0)

    assert np.ptp(before(sinus)) > 0.1 > 2 * np.ptp(before(made))


def test_premature_beats_are_early_wide_and_made_up_for() -> None:
    made, truth = synthetic_ecg(60, 1000, 20, pvc_every=4)
    beats, early = np.array(truth.beats), np.array(truth.pvcs)
    assert early.sum() == 5 and made.metadata["pvcs"] == 5
    steps, at = np.diff(beats), np.flatnonzero(early)[:-1]
    assert np.allclose(steps[at - 1], 0.62) and np.allclose(steps[at - 1] + steps[at], 2)
    waves = pieces(made)
    for beat, premature in zip(beats[1:-1], early[1:-1], strict=True):
        (width,) = [b - a for a, b in waves if a < beat < b]
        sign = np.sign(made.signal[10, round(beat * 1000)])
        assert (width > 0.15, sign) == ((True, -1) if premature else (False, 1))


@pytest.mark.parametrize("kind", ["white", "wander", "mains", "muscle", "electrode"])
def test_noise_has_its_size_and_its_place_in_the_spectrum(kind: Noise) -> None:
    clean, _ = synthetic_ecg(60, 500)
    noisy, truth = synthetic_ecg(60, 500, noise={kind: 0.1})
    added = (noisy.signal - clean.signal).astype(np.float64)
    rms = np.sqrt((added[[0, 1, *range(6, 12)]] ** 2).mean(axis=1))
    assert rms == pytest.approx(np.full(8, 0.1), abs=1e-4) and truth.noise == {kind: 0.1}
    assert np.abs(added[2] - added[1] + added[0]).max() < 1e-5  # Einthoven
    power = (np.abs(np.fft.rfft(added)) ** 2).sum(axis=0)
    hertz = np.fft.rfftfreq(5000, 1 / 500)
    low, high = {"white": (0, 250), "wander": (0, 0.5), "mains": (49.9, 50.1),
                 "muscle": (19, 250), "electrode": (0, 20)}[kind]  # fmt: skip
    assert power[(hertz >= low) & (hertz <= high)].sum() > 0.9 * power.sum()
    assert kind != "white" or 0.4 < power[hertz < 125].sum() / power.sum() < 0.6


def test_intervals_without_room_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(LatentcastError, match="leave no room .* choose a lower heart_rate"):
        synthetic_ecg(150)
    with pytest.raises(LatentcastError, match="noise 'snow': is unknown"):
        synthetic_ecg(noise={"snow": 1.0})  # type: ignore[dict-item]
