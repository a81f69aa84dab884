"""The floors without learning: against a plain loop, and blind to what is not valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_stores import Images, write_store

from latentcast.errors import LatentcastError
from latentcast.evaluation.baselines import TAPS, Pixels, RandomConvolutions, baseline
from latentcast.signals.recording import INVALID

LEADS = ("I", "II", "V1")


def convolutions(length: int = 120, kernels: int = 80, seed: int = 0) -> RandomConvolutions:
    return RandomConvolutions(
        leads=LEADS,
        sampling_rate=100.0,
        scale=0.001,
        length=length,
        mean=[0.1, -0.2, 0.0],
        std=[0.5, 1.0, 2.0],
        kernels=kernels,
        seed=seed,
    )


def signals(batch: int, length: int = 120) -> np.ndarray:
    return np.random.default_rng(0).integers(-2000, 2000, (batch, length, 3)).astype(np.int16)


def test_features_equal_a_plain_loop_over_time_and_taps() -> None:
    source = convolutions(kernels=20)
    samples = signals(1)
    tokens, valid = source.token_layers(samples)
    assert tokens[0].shape == (1, 1, 40)
    assert valid.all()
    x = (samples[0].astype(np.float64) * 0.001 - [0.1, -0.2, 0.0]) / [0.5, 1.0, 2.0]
    peaks, shares = [], []
    for group in source._groups:
        for weight, bias in zip(group.weights.double().numpy(), group.biases.tolist(), strict=True):
            taps = weight.shape[1]
            out = np.full(len(x), bias)
            for t in range(len(x)):
                for k in range(taps):
                    at = t + (k - taps // 2) * group.dilation
                    if 0 <= at < len(x):
                        out[t] += weight[:, k] @ x[at]
            peaks.append(out.max())
            shares.append((out > 0).mean())
    np.testing.assert_allclose(tokens[0][0, 0].numpy(), [*peaks, *shares], atol=2e-3)


def test_kernels_vary_in_length_dilation_and_leads_and_are_centred() -> None:
    groups = convolutions(length=1000, kernels=600)._groups
    assert sum(len(group.weights) for group in groups) == 600
    assert {group.weights.shape[-1] for group in groups} == set(TAPS)
    assert {group.dilation for group in groups} >= {1, 2, 4, 8, 16, 32, 64}
    used = torch.cat([(group.weights != 0).any(dim=-1).sum(dim=1) for group in groups])
    assert set(used.tolist()) == {1, 2, 3}
    for group in groups:
        assert group.dilation * (group.weights.shape[-1] - 1) < 1000
        torch.testing.assert_close(
            group.weights.sum(dim=-1), torch.zeros(group.weights.shape[:2]), atol=1e-5, rtol=0
        )


def test_the_seed_decides_everything() -> None:
    samples = signals(2)
    torch.manual_seed(1)
    first = convolutions(seed=3).token_layers(samples)[0][0]
    torch.manual_seed(2)
    torch.testing.assert_close(convolutions(seed=3).token_layers(samples)[0][0], first)
    assert not torch.equal(convolutions(seed=4).token_layers(samples)[0][0], first)


def test_invalid_samples_of_a_lead_read_as_its_mean() -> None:
    samples = signals(1)
    samples[0, 30:60, 1] = INVALID
    filled = samples.copy()
    filled[0, 30:60, 1] = -200  # the lead's mean in counts
    source = convolutions()
    torch.testing.assert_close(
        source.token_layers(samples)[0][0], source.token_layers(filled)[0][0], atol=1e-4, rtol=0
    )


def test_padding_does_not_count_as_time() -> None:
    samples = signals(2)
    samples[:, 60:] = INVALID
    padded = convolutions(length=120)
    tokens = padded.token_layers(samples)[0][0][:, 0]
    # The same kernels over the record alone, by cutting the padding off.
    alone = padded.token_layers(samples[:, :60])[0][0][:, 0]
    torch.testing.assert_close(tokens, alone, atol=1e-4, rtol=0)


def test_padding_is_no_zero_above_a_negative_signal() -> None:
    samples = np.full((1, 120, 3), INVALID, dtype=np.int16)
    samples[:, :60] = [100, -200, 0]  # the means: every kernel gives its bias
    source = convolutions()
    biases = torch.cat([group.biases for group in source._groups])
    tokens = source.token_layers(samples)[0][0][0, 0]
    torch.testing.assert_close(tokens[:80], biases, atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens[80:], (biases > 0).float())


def test_a_record_without_a_valid_sample_has_no_valid_token() -> None:
    samples = signals(2)
    samples[1] = INVALID
    tokens, valid = convolutions().token_layers(samples)
    assert valid.flatten().tolist() == [True, False]
    assert torch.isfinite(tokens[0]).all()


def test_from_a_store_takes_its_usual_length_and_training_statistics(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [
        (rng.normal(size=(n, 2)) * [100, 300] + [50, 0]).round().astype(np.int16)
        for n in (60, 90, 90)
    ]
    store = write_store(tmp_path / "s", records, folds=[1, 2, 10])
    source = RandomConvolutions.from_store(store, kernels=10)
    assert source.length == 90
    np.testing.assert_allclose(source._std.numpy(), store.manifest.statistics.std, rtol=1e-6)
    np.testing.assert_allclose(source._mean.numpy(), store.manifest.statistics.mean, rtol=1e-6)


def test_recordings_shorter_than_a_kernel_are_refused() -> None:
    with pytest.raises(LatentcastError, match="fewer than 11 taps"):
        convolutions(length=10)


def test_the_pixel_floor_reads_small_images_whole_and_large_ones_by_averages() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    source = Pixels(8, 8, 1)
    layers, valid = source.token_layers(small)
    np.testing.assert_allclose(layers[0][:, 0], small.reshape(3, -1) / 255, rtol=1e-6)
    assert valid.shape == (3, 1) and valid.all() and source.pooling == "8 × 8"
    large = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    source = Pixels(32, 32, 3)
    token = source.token_layers(large)[0][0][1, 0].reshape(3, 8, 8)
    assert source.pooling == "8 × 8"
    np.testing.assert_allclose(token[2, 0, 1], large[1, :4, 4:8, 2].mean() / 255, rtol=1e-5)
    for height, width in ((500, 3), (225, 31)):
        layers, _ = Pixels(height, width, 3).token_layers(np.zeros((1, height, width, 3), np.uint8))
        assert layers[0].shape[-1] <= 256


def test_the_floor_suits_the_store(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", [np.zeros((60, 2), np.int16)], folds=[1])
    assert isinstance(baseline(store), RandomConvolutions)
    assert isinstance(baseline(Images(5)), Pixels)
