"""Counter-based draws: reproducible, independent, and the same on host and device."""

from __future__ import annotations

import numpy as np
import torch

from latentcast import randomness


def test_host_and_device_draw_the_same_bits() -> None:
    counters = np.array([0, 1, 2, 12345, 2**40, 2**62])
    stream = randomness.key(7, 3, "drop")
    host = randomness.bits(stream, counters)
    device = randomness.tensor_bits(stream, torch.from_numpy(counters))
    assert np.array_equal(host, device.numpy().view(np.uint64))


def test_splitmix64_matches_its_published_sequence() -> None:
    # First outputs of SplitMix64 seeded with 1234567 (the reference C code's well-known vector).
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    golden = 0x9E3779B97F4A7C15
    seeds = np.array([(1234567 + n * golden) % 2**64 for n in range(3)], dtype=np.uint64)
    assert randomness.bits(0, seeds).tolist() == expected


def test_uniform_numbers_are_uniform() -> None:
    draws = randomness.tensor_uniform(randomness.key(0, "x"), torch.arange(200_000))
    assert 0 <= float(draws.min()) and float(draws.max()) < 1
    counts = torch.histc(draws, bins=20, min=0, max=1)
    chi_square = float(((counts - 10_000) ** 2 / 10_000).sum())
    assert chi_square < 45  # 19 degrees of freedom: p < 0.001


def test_streams_do_not_share_numbers() -> None:
    ids = torch.arange(10_000)
    a = randomness.tensor_uniform(randomness.key(0, 1, "a"), ids)
    b = randomness.tensor_uniform(randomness.key(0, 1, "b"), ids)
    c = randomness.tensor_uniform(randomness.key(0, 2, "a"), ids)
    for one, other in ((a, b), (a, c)):
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.03


def test_a_sample_draws_the_same_numbers_in_any_micro_batch() -> None:
    ids = torch.arange(100, 108)
    whole = randomness.Draw(0, 5, ids).for_samples("drop")
    pieces = [randomness.Draw(0, 5, part).for_samples("drop") for part in ids.split(3)]
    assert torch.equal(whole, torch.cat(pieces))


def test_permutation_is_one_and_depends_on_the_key() -> None:
    first, second = (randomness.permutation(randomness.key(0, e), 1000) for e in (0, 1))
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert not np.array_equal(first, second)
