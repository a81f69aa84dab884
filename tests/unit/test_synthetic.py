"""The synthetic ECG has the rate and intervals it claims, and obeys the laws of the limb leads."""

import numpy as np
import pytest

from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.quality import assess
from latentcast.signals.synthetic import Intervals, beat_times, synthetic_recording


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
