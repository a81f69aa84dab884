"""Filters of recordings: their gain, their phase, gaps, and the same in training and in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal as reference

from latentcast.artifacts.encoder import Encoder
from latentcast.config import Config, EcgInput
from latentcast.config.filters import AnyFilter, BandPass, Baseline, HighPass, Notch
from latentcast.data.ecg_filters import baseline, filtered
from latentcast.data.fit import fitted, reading
from latentcast.data.store import Store
from latentcast.objectives.build import build
from latentcast.signals.synthetic import synthetic_recording

Sections = Callable[[float], np.ndarray]
LINEAR: dict[str, tuple[AnyFilter, Sections]] = {
    "high-pass": (HighPass(), lambda fs: reference.butter(2, 0.5, "high", fs=fs, output="sos")),
    "band-pass": (
        BandPass(low=1, high=30, order=3),
        lambda fs: reference.butter(3, (1, 30), "band", fs=fs, output="sos"),
    ),
    "mains": (Notch(), lambda fs: reference.tf2sos(*reference.iirnotch(50, 30, fs))),
    "US mains": (
        Notch(hertz=60, quality=20),
        lambda fs: reference.tf2sos(*reference.iirnotch(60, 20, fs)),
    ),
}


def noisy(rate: float = 500.0, offset: float = 8.0) -> np.ndarray:
    """Float32 ``(1, 12, samples)`` mV: an ECG that drifts, hums and is far from 0."""
    signal = synthetic_recording(70, rate, wander=0.4, noise=0.02).signal.astype(np.float64)
    hum = 0.1 * np.sin(2 * np.pi * 50 * np.arange(signal.shape[1]) / rate)
    return (signal + hum + offset)[None].astype(np.float32)


def run(signal: np.ndarray, *filters: AnyFilter, rate: float, valid: np.ndarray | None = None):  # type: ignore[no-untyped-def]
    mask = np.ones(signal.shape, bool) if valid is None else valid
    return filtered(torch.from_numpy(signal), torch.from_numpy(mask), filters, rate).numpy()


@pytest.mark.parametrize("rate", [150.0, 500.0])
@pytest.mark.parametrize("name", LINEAR)
def test_a_filter_is_scipys_forwards_and_backwards(name: str, rate: float) -> None:
    """Of the window between its mirror images, in float64, at two rates."""
    one, sections = LINEAR[name]
    signal = noisy(rate)
    samples, mirror = signal.shape[-1], signal[..., ::-1]
    periods = np.concatenate([signal, mirror] * 6 + [signal], axis=-1).astype(np.float64)
    expected = reference.sosfiltfilt(sections(rate), periods, padtype=None)
    middle = slice(6 * samples, 7 * samples)
    assert np.abs(run(signal, one, rate=rate) - expected[..., middle]).max() < 2e-5  # of 8 mV


@pytest.mark.parametrize(
    ("one", "hertz", "gain"),
    [
        (HighPass(hertz=0.5), 0.5, 0.5), (HighPass(hertz=0.5), 10, 1), (HighPass(hertz=0.5), 0, 0),
        (BandPass(low=1, high=40), 1, 0.5), (BandPass(low=1, high=40), 40, 0.5),
        (BandPass(low=1, high=40), 8, 1), (Notch(hertz=50), 50, 0), (Notch(hertz=50), 60, 1),
        (Notch(hertz=60), 60, 0), (Notch(hertz=60), 50, 1), (Baseline(), 0.1, 0.05),
    ],
)  # fmt: skip
def test_a_sine_keeps_its_phase_and_what_the_filter_leaves_of_it(
    one: AnyFilter, hertz: float, gain: float
) -> None:
    time = np.arange(5000) / 250
    sine = np.cos(2 * np.pi * hertz * time)[None, None]
    found = run(sine, one, rate=250.0)[0, 0, 1000:4000]
    wave = np.exp(2j * np.pi * hertz * time[1000:4000])
    if isinstance(one, Baseline):
        assert np.abs(found).max() < gain  # of a wander; it is no linear filter
        return
    there = (found * wave.conj()).mean() * (1 if hertz == 0 else 2)
    assert abs(there - gain) < 0.01  # imaginary where the phase is not 0


def test_the_baseline_is_found_under_the_beats_and_the_beats_stay() -> None:
    clean = synthetic_recording(70, 500, noise=0, wander=0).signal[None].astype(np.float64)
    drift = 1.5 + 0.8 * np.sin(2 * np.pi * 0.15 * np.arange(5000) / 500)
    found = baseline(torch.from_numpy(clean + drift), 500.0).numpy() - drift
    lead = np.pad((clean + drift)[0, 1], 300, mode="edge")
    medians = reference.medfilt(reference.medfilt(lead, 101), 301)[300:-300] - drift
    assert np.sqrt((found[0, 1] ** 2).mean()) < 1.1 * np.sqrt((medians**2).mean())
    assert np.abs(found[0, 1] - medians).max() < 0.1 and np.abs(found).max() < 0.2


@pytest.mark.parametrize("one", [HighPass(), BandPass(), Notch(), Baseline()], ids=lambda f: f.kind)
def test_what_lies_in_a_gap_reaches_no_other_sample(one: AnyFilter) -> None:
    signal = noisy(offset=0)
    valid = np.ones(signal.shape, bool)
    valid[0, 1, 2000:2400] = valid[0, 2, :300] = valid[0, 3, 4900:] = valid[0, 4] = False
    other = np.where(valid, signal, np.float32(-32.768))
    found = run(other, one, rate=500.0, valid=valid)
    assert np.array_equal(found, run(signal, one, rate=500.0, valid=valid))
    assert np.isfinite(found).all()
    whole = run(signal, one, rate=500.0)
    far = valid.copy()  # a second beside a gap the bridge may still be felt
    far[0, 1, 1500:2900] = far[0, 2, :800] = far[0, 3, 4400:] = False
    assert np.abs(found - whole)[far].max() < 0.06


FILTERS = [{"kind": "high-pass"}, {"kind": "notch", "hertz": 45.0}, {"kind": "baseline"}]


def test_training_and_embedding_filter_alike(
    small_config: Config, small_store: Path, tmp_path: Path
) -> None:
    """Store, batch, network is file, embed: the same tensor, and the same after a save."""
    store = Store.open(small_store)
    config = fitted(small_config.updated({"input.filters": FILTERS}), store)
    loader, preprocess = reading(store, config)
    row = int(loader.request(loader.ids(0)[:1])[0][0])
    batch = loader.batch(0, 1)
    start = int(loader.request(loader.ids(0)[:1])[1][0])  # type: ignore[index]
    encoder = Encoder(config, build(config))
    recording = store.recording(row)
    counts = encoder.counts(recording)[start : start + encoder.length][None]
    seen = encoder.inputs(torch.from_numpy(counts))
    assert torch.equal(seen.values, preprocess(batch.samples).values)
    plain = Encoder(config.updated({"input.filters": []}), build(config))
    assert not torch.equal(plain.inputs(torch.from_numpy(counts)).values, seen.values)
    encoder.save_pretrained(tmp_path / "saved")
    again = Encoder.from_pretrained(tmp_path / "saved", device="cpu")
    assert np.array_equal(again.embed(recording), encoder.embed(recording))
    assert np.array_equal(encoder.embed(store, rows=[row]), encoder.embed(recording))


def test_inputs_are_normalised_by_what_the_filters_leave(
    small_config: Config, small_store: Path
) -> None:
    store = Store.open(small_store)
    before, after = (
        fitted(small_config.updated({"input.filters": filters}), store).input
        for filters in ([], FILTERS)
    )
    assert isinstance(before, EcgInput) and isinstance(after, EcgInput)
    assert before.normalisation is not None and after.normalisation is not None
    assert after.normalisation.std[1] < before.normalisation.std[1]
    _, preprocess = reading(store, small_config.updated({"input": after}))
    windows = torch.from_numpy(store.take(store.rows("train"), None, after.length))
    inputs = preprocess(windows)
    assert abs(inputs.values[inputs.valid].std().item() - 1) < 0.15  # clipped at 5
    assert abs(inputs.values[inputs.valid].mean().item()) < 0.05
