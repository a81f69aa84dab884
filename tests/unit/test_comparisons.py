"""p-values of paired differences, and Holm's correction, against their definitions."""

from __future__ import annotations

import math

import numpy as np

from latentcast.evaluation import metrics
from latentcast.evaluation.comparisons import holm, p_value

AUROC = metrics.METRICS["multi-label"][0]


def rejected(p_values: list[float], alpha: float) -> set[int]:
    """Holm 1979, step by step: the smallest against α / m, the next against α / (m − 1), ...; the
    first that is too large ends it."""
    waiting, found = dict(enumerate(p_values)), set[int]()
    while waiting:
        place = min(waiting, key=waiting.__getitem__)
        if waiting.pop(place) * (len(waiting) + 1) > alpha:
            break
        found.add(place)
    return found


def test_an_adjusted_p_value_is_the_least_level_at_which_holm_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = (rng.random(int(rng.integers(1, 9))) ** 3).round(2).tolist()  # with ties
        adjusted = holm(p_values)
        for alpha in (0.01, 0.05, 0.2, 0.999):
            assert {n for n, p in enumerate(adjusted) if p <= alpha} == rejected(p_values, alpha)
    # Computed by hand: 4 x 0.01, 3 x 0.02, the next is smaller and stays at the one before it.
    assert np.allclose(holm([0.02, 0.9, 0.01, 0.025]), [0.06, 0.9, 0.04, 0.06])
    assert holm([math.nan, 0.04])[1] == 0.04 and math.isnan(holm([math.nan, 0.04])[0])
    assert holm([]) == []


def test_a_p_value_is_small_where_the_interval_excludes_zero() -> None:
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        targets = rng.random((120, 2)) < 0.4
        counts = metrics.draw([f"p{n // 2}" for n in range(120)], 999, seed)
        noise = rng.normal(size=(2, 120, 2))
        one, other = (
            metrics.Resampled.of(AUROC, targets, targets * size + own, counts)
            for size, own in zip((1.2, 0.9), noise, strict=True)
        )
        p, gap = p_value(one, other), metrics.difference(one, other)
        assert p == p_value(other, one) and 0 < p <= 1
        if abs(p - 0.05) > 0.01:  # at the edge the quantile lies between two resamples
            assert (p < 0.05) == (gap.outcome in ("better", "worse"))
        found.append(p < 0.05)
        assert p_value(one, one) == 1
    assert 0 < sum(found) < 12
    gaps = np.array([[0.1], [0.2], [-0.1], [0.3]])
    by_hand = metrics.Resampled(gaps[0], gaps), metrics.Resampled(gaps[0], 0 * gaps)
    assert p_value(*by_hand) == 2 * (1 + 1) / (1 + 4)
    empty = metrics.Resampled.of(AUROC, targets, noise[0], counts[:0])
    assert math.isnan(p_value(empty, empty))


def test_equal_sources_are_rarely_told_apart() -> None:
    """Two sets of scores of one quality, two records a patient: p < 0.05 in about 5 % of cases."""
    low = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        ill = np.repeat(rng.random(80) < 0.4, 2)[:, None]
        shared = np.repeat(rng.normal(size=(80, 2)), 2, axis=0)
        counts = metrics.draw([f"p{n // 2}" for n in range(160)], 199, seed)
        one, other = (
            metrics.Resampled.of(
                AUROC, ill, ill + shared[:, k : k + 1] + rng.normal(size=(160, 1)), counts
            )
            for k in range(2)
        )
        low += p_value(one, other) < 0.05
    assert 2 <= low <= 20
