"""Leads found by name, derived where they follow, masked where they are missing."""

from dataclasses import replace

import numpy as np
import pytest

from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.recording import Recording, from_signal, millivolts_per, select_leads
from latentcast.signals.resample import polyphase, resample
from latentcast.signals.synthetic import beat_times, synthetic_recording
from latentcast.source import BadRecord


def only(recording: Recording, names: tuple[str, ...]) -> Recording:
    rows = [recording.leads.index(name) for name in names]
    return replace(
        recording, signal=recording.signal[rows], valid=recording.valid[rows], leads=names
    )


def test_a_source_with_avf_before_avl_keeps_each_waveform_with_its_name() -> None:
    recording = synthetic_recording()
    rng = np.random.default_rng(0)
    for _ in range(10):
        shuffled = only(recording, tuple(rng.permutation(CANONICAL_LEADS).tolist()))
        sorted_again = select_leads(shuffled, CANONICAL_LEADS, mask_missing=False)
        assert sorted_again.leads == CANONICAL_LEADS
        assert np.array_equal(sorted_again.signal, recording.signal)


def test_limb_leads_that_follow_from_two_are_computed_and_named() -> None:
    recording = synthetic_recording(noise=0.02)
    eight = only(recording, ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"))
    twelve = select_leads(eight, CANONICAL_LEADS, mask_missing=False)
    assert np.allclose(twelve.signal, recording.signal, atol=1e-5)
    assert twelve.metadata["derived_leads"] == ["III", "aVR", "aVL", "aVF"]


def test_a_derived_lead_is_not_valid_where_its_sources_are_not() -> None:
    recording = synthetic_recording()
    signal = recording.signal.copy()
    signal[0, 100:200] = np.nan
    gap = from_signal(signal, CANONICAL_LEADS, 500.0, "gap")
    derived = select_leads(only(gap, ("I", "II")), ("II", "III"), mask_missing=False)
    assert derived.valid[0].all()
    assert not derived.valid[1, 100:200].any() and derived.valid[1, 200:].all()


def test_a_missing_chest_lead_is_refused_or_masked_but_never_zero() -> None:
    eleven = only(synthetic_recording(), CANONICAL_LEADS[:-1])
    with pytest.raises(BadRecord, match="lacks lead V6"):
        select_leads(eleven, CANONICAL_LEADS, mask_missing=False)
    kept = select_leads(eleven, CANONICAL_LEADS, mask_missing=True)
    assert not kept.valid[11].any() and np.isnan(kept.signal[11]).all()
    assert kept.valid[:11].all() and kept.metadata["missing_leads"] == ["V6"]


def test_a_recording_without_any_wanted_lead_is_refused_even_when_masking() -> None:
    with pytest.raises(BadRecord, match="lacks lead"):
        select_leads(only(synthetic_recording(), ("V1",)), ("I", "II"), mask_missing=True)


def test_nan_and_infinity_are_never_valid() -> None:
    signal = np.zeros((1, 4), np.float32)
    signal[0] = [1.0, np.nan, np.inf, -np.inf]
    recording = from_signal(signal, ("I",), 500.0, "x")
    assert recording.valid.tolist() == [[True, False, False, False]]
    assert np.isnan(recording.signal[0, 1:]).all()


@pytest.mark.parametrize("shape", [(5000, 12), (12,), (11, 5000)])
def test_a_shape_that_contradicts_the_leads_is_refused_not_transposed(shape: tuple) -> None:
    with pytest.raises(BadRecord, match="shape"):
        from_signal(np.zeros(shape, np.float32), CANONICAL_LEADS, 500.0, "x")


def test_units() -> None:
    names = ["mV", "mv", "uV", "µV", "\u03bcV", "V", "nV"]
    assert [millivolts_per(n) for n in names] == [1, 1, 1e-3, 1e-3, 1e-3, 1e3, 1e-6]
    with pytest.raises(LatentcastError, match="'mmHg': is no voltage"):
        millivolts_per("mmHg")


@pytest.mark.parametrize("rate", [100.0, 250.0, 500.0, 1000.0, 360.0])
def test_resampling_keeps_beats_at_their_seconds_and_millivolts_at_their_size(rate: float) -> None:
    source = synthetic_recording(75, rate, noise=0.0, wander=0.0)
    resampled = resample(source, 500.0)
    assert resampled.samples == 5000
    lead = resampled.signal[1]
    for beat in beat_times(75, 9.5):
        near = slice(int(beat * 500) - 40, int(beat * 500) + 40)
        assert abs((near.start + lead[near].argmax()) / 500 - beat) <= 0.0041
    reference = synthetic_recording(75, 500.0, noise=0.0, wander=0.0).signal
    # 100 Hz cannot hold all of a 10 ms R wave; the other rates can.
    error = np.abs(resampled.signal - reference)[:, 50:-50]
    assert error.max() < (0.25 if rate == 100 else 0.01)


def test_resampling_does_not_ring_at_the_ends_of_an_offset() -> None:
    offset = from_signal(np.full((1, 500), 3.0, np.float32), ("I",), 500.0, "offset")
    assert np.allclose(polyphase(offset, 100.0).signal, 3.0, atol=1e-4)


def test_resampling_spreads_nan_over_its_neighbourhood_and_no_further() -> None:
    signal = synthetic_recording().signal.copy()
    signal[3, 1000:1500] = np.nan
    resampled = resample(from_signal(signal, CANONICAL_LEADS, 500.0, "x"), 100.0)
    bad = np.flatnonzero(~resampled.valid[3])
    assert set(range(200, 300)) <= set(bad.tolist())
    assert len(bad) <= 102
    assert np.isnan(resampled.signal[3, bad]).all()
    assert np.isfinite(resampled.signal[resampled.valid]).all()
    assert resampled.valid[[0, 1, 2, *range(4, 12)]].all()


def test_a_masked_stretch_stays_masked_at_the_new_rate_and_keeps_its_samples() -> None:
    recording = synthetic_recording()
    valid = recording.valid.copy()
    valid[0, :50] = False
    resampled = resample(replace(recording, valid=valid), 1000.0)
    assert not resampled.valid[0, :100].any() and resampled.valid[0, 104:].all()
    assert np.isfinite(resampled.signal).all()
