"""AUROC and its intervals, against scikit-learn, by hand, and by their own coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from latentcast.errors import LatentcastError
from latentcast.evaluation import metrics


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 6))
def test_auroc_equals_scikit_learn_with_and_without_ties(seed: int, n: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random((n, 3)) < rng.uniform(0.1, 0.9, 3)
    targets[0], targets[1] = True, False
    scores = np.round(rng.normal(size=(n, 3)), steps - 1)
    expected = [roc_auc_score(targets[:, c], scores[:, c]) for c in range(3)]
    np.testing.assert_allclose(metrics.auroc(targets, scores), expected, atol=1e-12)


def test_ties_count_half_by_hand() -> None:
    targets = np.array([[1], [0], [1], [0]], dtype=bool)
    # positives 2 and 1, negatives 2 and 0: (tie, win, loss, win) of four pairs.
    assert metrics.auroc(targets, np.array([[2.0], [2.0], [1.0], [0.0]])) == (0.5 + 1 + 0 + 1) / 4
    assert metrics.auroc(targets, np.zeros((4, 1))) == 0.5


def test_a_resample_equals_the_auroc_of_its_repeated_records() -> None:
    rng = np.random.default_rng(0)
    targets, scores = rng.random((40, 4)) < 0.3, rng.normal(size=(40, 4)).round(1)
    counts = metrics.draw(40, 25, seed=3)
    assert (counts.sum(axis=1) == 40).all()
    areas = metrics.auroc(targets, scores, counts)
    for resample, area in zip(counts, areas, strict=True):
        picked = np.repeat(np.arange(40), resample)
        np.testing.assert_allclose(area, metrics.auroc(targets[picked], scores[picked]))


def test_every_record_is_drawn_alike() -> None:
    counts = metrics.draw(7, 20_000, seed=0)
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.03)
    np.testing.assert_allclose((counts == 0).mean(axis=0), (6 / 7) ** 7, atol=0.02)
    assert (metrics.draw(7, 20_000, seed=1) != counts).any()


def test_a_label_without_positives_is_never_a_half() -> None:
    rng = np.random.default_rng(0)
    targets = np.zeros((50, 3), dtype=bool)
    targets[:25, 0] = True  # b has no positive, c no negative
    targets[:, 2] = True
    scores = np.column_stack([-np.arange(50.0), rng.normal(size=(50, 2))])
    result = metrics.score(targets, scores, ["a", "b", "c"], resamples=50)
    assert result.undefined == ("b", "c")
    assert result.supported_labels == ("a",)
    assert np.isnan([label.auroc.value for label in result.labels[1:]]).all()
    assert result.macro.value == 1.0


def test_no_defined_label_at_all_is_nan_not_a_number() -> None:
    result = metrics.score(np.zeros((5, 1), bool), np.arange(5.0)[:, None], ["a"], resamples=10)
    assert np.isnan([result.macro.value, result.macro.low, result.supported.value]).all()


def test_a_label_that_loses_its_positives_is_left_out_of_that_resample_only() -> None:
    targets = np.zeros((30, 2), dtype=bool)
    targets[:15, 0] = True
    targets[0, 1] = True  # drawn in about 63 % of the resamples
    scores = np.column_stack([-np.arange(30.0), np.arange(30.0)])  # label areas 1 and 0
    redrawn = metrics.macro(metrics.auroc(targets, scores, metrics.draw(30, 400, seed=0)))
    assert set(redrawn.round(3)) == {0.5, 1.0}  # both labels, or the first alone
    assert 0.5 < (redrawn == 0.5).mean() < 0.75


def test_rare_labels_leave_the_supported_macro_alone() -> None:
    rng = np.random.default_rng(1)
    targets = rng.random((200, 2)) < 0.4
    rare = np.zeros((200, 1), dtype=bool)
    rare[: metrics.SUPPORT - 1] = True
    scores = rng.normal(size=(200, 3))
    both = metrics.score(targets, scores[:, :2], ["a", "b"], resamples=50)
    with_rare = metrics.score(np.hstack([targets, rare]), scores, ["a", "b", "c"], resamples=50)
    assert with_rare.supported == both.macro
    assert with_rare.macro != both.macro
    assert with_rare.supported_labels == ("a", "b")
    rare[metrics.SUPPORT - 1] = True
    enough = metrics.score(np.hstack([targets, rare]), scores, ["a", "b", "c"], resamples=50)
    assert enough.supported == enough.macro


def test_the_interval_covers_the_true_auroc() -> None:
    """Two unit normals a distance d apart have AUROC Phi(d / sqrt 2): 0.76025 for d = 1."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        targets = rng.random((200, 1)) < 0.3
        scores = rng.normal(size=(200, 1)) + targets
        macro = metrics.score(targets, scores, ["a"], resamples=300, seed=trial).macro
        covered += macro.low <= 0.76025 <= macro.high
    assert 0.89 <= covered / 200 <= 0.99


def test_paired_difference_is_narrower_than_unpaired_and_signed() -> None:
    rng = np.random.default_rng(0)
    targets = rng.random((300, 4)) < 0.3
    hard = rng.normal(size=(300, 4))  # what both score sets share
    good = targets + hard + 0.2 * rng.normal(size=(300, 4))
    poor = 0.9 * targets + hard + 0.2 * rng.normal(size=(300, 4))
    paired = metrics.paired_difference(targets, good, poor)
    a = metrics.auroc(targets, good, metrics.draw(300, 1000, seed=1))
    b = metrics.auroc(targets, poor, metrics.draw(300, 1000, seed=2))
    low, high = np.quantile(metrics.macro(a) - metrics.macro(b), [0.025, 0.975])
    assert paired.high - paired.low < 0.6 * (high - low)
    assert paired.low > 0 > low
    back = metrics.paired_difference(targets, poor, good)
    assert back.value == -paired.value
    np.testing.assert_allclose([back.low, back.high], [-paired.high, -paired.low], atol=1e-12)


def test_equal_score_sets_differ_by_exactly_nothing() -> None:
    rng = np.random.default_rng(0)
    targets, scores = rng.random((50, 3)) < 0.3, rng.normal(size=(50, 3))
    assert metrics.paired_difference(targets, scores, scores * 2) == metrics.Estimate(0, 0, 0)


def test_scores_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(LatentcastError, match=r"labels \[1\].*not finite"):
        metrics.auroc(np.eye(2, dtype=bool), np.array([[0.0, np.nan], [0.0, 1.0]]))
