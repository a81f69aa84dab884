"""Metrics and their intervals, against scikit-learn, by hand, and by their own coverage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    mean_absolute_error,
    precision_score,
    r2_score,
    recall_score,
    roc_auc_score,
)  # fmt: skip

from latentcast.errors import LatentcastError
from latentcast.evaluation import metrics
from latentcast.evaluation.calibration import tempered
from latentcast.evaluation.estimate import SUPPORT, UNDEFINED, Estimate, Score
from latentcast.evaluation.operating import with_operating_points
from latentcast.evaluation.ranking import ranking_curves

RANKED = [(metrics.auroc, roc_auc_score), (metrics.average_precision, average_precision_score)]


def alone(records: int) -> list[str]:
    """Patients of records of which none is known: each is its own."""
    return [""] * records


def scored(
    targets: np.ndarray,
    scores: np.ndarray,
    patients: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    owners = alone(len(targets)) if patients is None else patients
    counts = metrics.draw(owners, resamples, seed)
    return metrics.score("multi-label", targets, scores, "abcd"[: targets.shape[1]], counts)[0]


def paired(
    targets: np.ndarray, scores: np.ndarray, reference: np.ndarray, patients: Sequence[str]
) -> Estimate:
    counts = metrics.draw(patients, 1000, 0)
    one, other = (
        metrics.Resampled.of(metrics.METRICS["multi-label"][0], targets, predictions, counts)
        for predictions in (scores, reference)
    )
    return metrics.difference(one, other)


@pytest.mark.parametrize(("metric", "reference"), RANKED)
@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 60), steps=st.integers(1, 6))
def test_ranks_are_scored_as_by_scikit_learn_with_and_without_ties(
    metric: Any, reference: Any, seed: int, n: int, steps: int
) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random((n, 3)) < rng.uniform(0.1, 0.9, 3)
    targets[0], targets[1] = True, False
    scores = np.round(rng.normal(size=(n, 3)), steps - 1)
    expected = [reference(targets[:, c], scores[:, c]) for c in range(3)]
    np.testing.assert_allclose(metric(targets, scores), expected, atol=1e-12)


def test_ties_count_half_by_hand() -> None:
    targets = np.array([[1], [0], [1], [0]], dtype=bool)
    # positives 2 and 1, negatives 2 and 0: (tie, win, loss, win) of four pairs.
    assert metrics.auroc(targets, np.array([[2.0], [2.0], [1.0], [0.0]])) == (0.5 + 1 + 0 + 1) / 4
    assert metrics.auroc(targets, np.zeros((4, 1))) == 0.5


@pytest.mark.parametrize("metric", [metric for metric, _ in RANKED])
def test_a_resample_is_scored_as_its_repeated_records(metric: Any) -> None:
    rng = np.random.default_rng(0)
    targets, scores = rng.random((40, 4)) < 0.3, rng.normal(size=(40, 4)).round(1)
    counts = metrics.draw(alone(40), 25, seed=3)
    assert (counts.sum(axis=1) == 40).all()
    found = metric(targets, scores, counts)
    for resample, columns in zip(counts, found, strict=True):
        picked = np.repeat(np.arange(40), resample)
        np.testing.assert_allclose(columns, metric(targets[picked], scores[picked]))


def test_every_record_is_drawn_alike() -> None:
    counts = metrics.draw(alone(7), 20_000, seed=0)
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.03)
    np.testing.assert_allclose((counts == 0).mean(axis=0), (6 / 7) ** 7, atol=0.02)
    assert (metrics.draw(alone(7), 20_000, seed=1) != counts).any()


def test_a_label_without_positives_is_never_a_half() -> None:
    """NEPA defect 7: an empty class was scored 0.5, or made the whole macro average NaN."""
    rng = np.random.default_rng(0)
    targets = np.zeros((50, 3), dtype=bool)
    targets[:25, 0] = True  # b has no positive, c no negative
    targets[:, 2] = True
    scores = np.column_stack([-np.arange(50.0), rng.normal(size=(50, 2))])
    result = scored(targets, scores, resamples=50)
    assert result.supported == result.labels[0].auroc
    assert np.isnan([label.auroc.value for label in result.labels[1:]]).all()
    assert np.isnan([label.average_precision.value for label in result.labels[1:]]).all()
    assert result.main.value == result.others["macro AP"].value == 1.0


def test_no_defined_label_at_all_is_nan_not_a_number() -> None:
    scores = np.arange(5.0)[:, None]
    result = scored(np.zeros((5, 1), bool), scores, resamples=10)
    assert result.main.outcome == "undefined" and result.supported is not None
    assert np.isnan([result.main.value, result.main.low, result.supported.value]).all()


def test_a_label_that_loses_its_positives_is_left_out_of_that_resample_only() -> None:
    targets = np.zeros((30, 2), dtype=bool)
    targets[:15, 0] = True
    targets[0, 1] = True  # drawn in about 63 % of the resamples
    scores = np.column_stack([-np.arange(30.0), np.arange(30.0)])  # label areas 1 and 0
    redrawn = metrics.macro(metrics.auroc(targets, scores, metrics.draw(alone(30), 400, seed=0)))
    assert set(redrawn.round(3)) == {0.5, 1.0}  # both labels, or the first alone
    assert 0.5 < (redrawn == 0.5).mean() < 0.75


def test_rare_labels_leave_the_supported_macro_alone() -> None:
    rng = np.random.default_rng(1)
    targets = rng.random((200, 2)) < 0.4
    rare = np.zeros((200, 1), dtype=bool)
    rare[: SUPPORT - 1] = True
    scores = rng.normal(size=(200, 3))
    both = scored(targets, scores[:, :2], resamples=50)
    with_rare = scored(np.hstack([targets, rare]), scores, resamples=50)
    assert with_rare.supported == both.main
    assert with_rare.supported_others == both.others
    assert with_rare.main != both.main
    rare[SUPPORT - 1] = True
    enough = scored(np.hstack([targets, rare]), scores, resamples=50)
    assert enough.supported == enough.main


@pytest.mark.parametrize("negative", [False, True])
def test_one_positive_or_one_negative_gives_no_interval(negative: bool) -> None:
    """Resamples of it repeat or lack that record: 0.97 [0.93, 1.00] was of the others alone."""
    rng = np.random.default_rng(0)
    targets = np.stack([np.arange(50) == 7, np.arange(50) < 20], axis=1)
    targets[:, 0] ^= negative
    both = scored(targets, values := rng.normal(size=(50, 2)), resamples=50)
    rare, common = both.labels
    assert not np.isfinite([rare.auroc.low, rare.average_precision.high]).any()
    assert np.isfinite([common.auroc.low, both.main.low]).all()
    assert not np.isfinite(scored(targets[:, :1], values[:, :1], resamples=50).main.low)
    older = Estimate(0.97, 0.93, 1.0)  # as a file of an older version has it
    assert rare.text(older) == f"0.970 (1 {'negative' if negative else 'positive'}: no interval)"
    assert common.text(older) == "0.970 [0.930, 1.000]"


def test_the_interval_covers_the_true_auroc() -> None:
    """Two unit normals a distance d apart have AUROC Phi(d / sqrt 2): 0.76025 for d = 1."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        targets = rng.random((200, 1)) < 0.3
        scores = rng.normal(size=(200, 1)) + targets
        macro = scored(targets, scores, resamples=300, seed=trial).main
        covered += macro.low <= 0.76025 <= macro.high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_interval_covers_the_true_auroc_of_patients_with_several_records() -> None:
    """What a patient's records share has variance 1 and their noise 1: AUROC Phi(1.5 / 2)."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), rng.integers(1, 7, 60))
    covered, naive = 0, 0
    for trial in range(150):
        ill, shared = rng.random(60) < 0.4, rng.normal(size=60)
        scores = 1.5 * ill[patients] + shared[patients] + rng.normal(size=len(patients))
        data = ill[patients][:, None], scores[:, None]
        by_patient = scored(*data, patients.astype(str), resamples=200, seed=trial).main
        by_record = scored(*data, resamples=200, seed=trial).main
        covered += by_patient.low <= 0.77337 <= by_patient.high
        naive += by_record.low <= 0.77337 <= by_record.high
    assert 0.89 <= covered / 150 <= 0.99 and naive / 150 < 0.85


def people(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets (80, 2) and two score sets of one record a patient."""
    rng = np.random.default_rng(seed)
    targets = rng.random((80, 2)) < 0.4
    good = targets + rng.normal(size=(80, 2))
    return targets, good, 0.5 * targets + rng.normal(size=(80, 2))


def test_copies_of_a_patients_record_do_not_narrow_the_interval() -> None:
    """Four copies of every record tell nothing new: the interval is that of one copy."""
    targets, good, poor = people()
    names = [f"p{i}" for i in range(80)]
    fourfold = [np.repeat(array, 4, axis=0) for array in (targets, good, poor)]
    one = scored(targets, good, names).main
    four = scored(*fourfold[:2], np.repeat(names, 4)).main  # type: ignore[arg-type]
    assert (four.low, four.high) == pytest.approx((one.low, one.high))
    taken_apart = scored(*fourfold[:2]).main
    width = taken_apart.high - taken_apart.low
    assert four.high - four.low > 1.7 * width  # sqrt(4) in the limit

    narrow = paired(targets, good, poor, names)
    wide = paired(*fourfold, np.repeat(names, 4))  # type: ignore[arg-type]
    assert (wide.low, wide.high) == pytest.approx((narrow.low, narrow.high))


def test_with_one_record_a_patient_patients_are_records() -> None:
    targets, good, _ = people()
    names = [f"p{i * 37 % 80}" for i in range(80)]  # in no order
    assert (metrics.draw(names, 50, seed=1) == metrics.draw(alone(80), 50, seed=1)).all()
    assert scored(targets, good, names) == scored(targets, good)


def test_a_patient_is_drawn_with_all_records_and_an_unknown_one_with_its_own() -> None:
    counts = metrics.draw(["x", "", "y", "x", "", "y"], 500, seed=0)
    assert (counts[:, 0] == counts[:, 3]).all() and (counts[:, 2] == counts[:, 5]).all()
    assert (counts[:, 1] != counts[:, 4]).any()
    assert (counts[:, [0, 1, 2, 4]].sum(axis=1) == 4).all()  # four patients


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.01, 0.02, "better"),
        (-0.02, -0.01, "worse"),
        (-0.01, 0.01, "undecided"),
        (0.0, 0.02, "undecided"),
        (-0.02, 0.0, "undecided"),
        (np.nan, np.nan, "undefined"),
    ],
)
def test_an_interval_that_touches_zero_decides_nothing(
    low: float, high: float, outcome: str
) -> None:
    assert Estimate(0.01, low, high).outcome == outcome


def test_paired_difference_is_narrower_than_unpaired_and_signed() -> None:
    rng = np.random.default_rng(0)
    targets = rng.random((300, 4)) < 0.3
    hard = rng.normal(size=(300, 4))  # what both score sets share
    good = targets + hard + 0.2 * rng.normal(size=(300, 4))
    poor = 0.9 * targets + hard + 0.2 * rng.normal(size=(300, 4))
    narrow = paired(targets, good, poor, alone(300))
    a = metrics.auroc(targets, good, metrics.draw(alone(300), 1000, seed=1))
    b = metrics.auroc(targets, poor, metrics.draw(alone(300), 1000, seed=2))
    low, high = np.quantile(metrics.macro(a) - metrics.macro(b), [0.025, 0.975])
    assert narrow.high - narrow.low < 0.6 * (high - low)
    assert narrow.low > 0 > low
    back = paired(targets, poor, good, alone(300))
    assert back.value == -narrow.value
    np.testing.assert_allclose([back.low, back.high], [-narrow.high, -narrow.low], atol=1e-12)


def test_equal_score_sets_differ_by_exactly_nothing() -> None:
    rng = np.random.default_rng(0)
    targets, scores = rng.random((50, 3)) < 0.3, rng.normal(size=(50, 3))
    assert paired(targets, scores, scores * 2, alone(50)) == Estimate(0, 0, 0)


@pytest.mark.parametrize("metric", [metric for metric, _ in RANKED])
def test_scores_that_are_not_finite_are_an_error(metric: Any) -> None:
    with pytest.raises(LatentcastError, match=r"labels \[1\].*not finite"):
        metric(np.eye(2, dtype=bool), np.array([[0.0, np.nan], [0.0, 1.0]]))


@pytest.mark.parametrize("kind", ["multi-class", "regression"])
def test_a_metric_of_a_resample_is_that_of_its_repeated_records(kind: Any) -> None:
    rng = np.random.default_rng(0)
    if kind == "multi-class":
        targets, predictions = rng.integers(0, 3, (2, 40))
        naive = [
            lambda y, x: float(np.mean([a == b for a, b in zip(y, x, strict=True)])),
            balanced_accuracy_score,
            partial(f1_score, average="macro"),
        ]
    else:
        targets = 1e6 + rng.normal(size=40)  # as timestamps are: far from zero
        predictions = targets + rng.normal(size=40)
        naive = [r2_score, mean_absolute_error]
    counts = metrics.draw([f"p{min(i, 25)}" for i in range(40)], 25, seed=3)  # one has 15
    for metric, reference in zip(metrics.METRICS[kind], naive, strict=True):
        found = metrics.Resampled.of(metric, targets, predictions, counts)
        of_all = float(metrics.macro(found.columns))
        assert of_all == pytest.approx(reference(targets, predictions), abs=1e-9)
        for resample, value in zip(counts, metrics.macro(found.redrawn), strict=True):
            picked = np.repeat(np.arange(40), resample)
            expected = reference(targets[picked], predictions[picked])
            assert value == pytest.approx(expected, abs=1e-7)


def test_the_auroc_of_classes_is_that_of_each_against_all_others() -> None:
    rng = np.random.default_rng(0)
    targets, shares = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    counts = metrics.draw(alone(60), 9, 0)
    predictions = shares.argmax(1)
    score, _ = metrics.score("multi-class", targets, predictions, "abc", counts, shares)
    expected = roc_auc_score(targets, shares, multi_class="ovr", average="macro")
    assert score.others["macro AUROC"].value == pytest.approx(expected)
    picked = np.repeat(np.arange(60), counts[0])
    redrawn = metrics.class_auroc(targets, shares, counts)[0].mean()
    assert redrawn == pytest.approx(
        roc_auc_score(targets[picked], shares[picked], multi_class="ovr", average="macro")
    )


def test_floors_are_the_scores_of_the_best_constant_of_the_training_targets() -> None:
    classes, numbers = np.array([2, 2, 0, 1]), np.array([1.0, 2.0, 6.0])
    accuracy, balanced, f1 = metrics.METRICS["multi-class"]
    assert balanced.floor(classes, np.array([2, 0, 0, 2, 2])) == 1 / 2
    assert f1.floor(classes, np.array([2, 0, 0, 2, 2])) == pytest.approx((0 + 6 / 8) / 2)
    assert accuracy.floor(classes, np.array([2, 0, 0, 2, 2])) == 3 / 5
    r_squared, error = metrics.METRICS["regression"]
    test = np.array([0.0, 3.0, 9.0])
    assert r_squared.floor(numbers, test) == pytest.approx(r2_score(test, [3.0] * 3))
    assert error.floor(numbers, test) == pytest.approx((3 + 0 + 6) / 3)
    assert r_squared.higher_is_better and not error.higher_is_better
    auroc, precision = metrics.METRICS["multi-label"]
    assert auroc.floor(np.eye(3, dtype=bool), np.eye(3, dtype=bool)) == 0.5
    assert precision.floor(np.eye(4, dtype=bool), np.eye(4, dtype=bool)) == 1 / 4


def test_the_variance_of_equal_numbers_is_nothing_to_explain() -> None:
    equal = np.full(20, 0.1)
    assert np.isnan(metrics.r_squared(equal, equal + 1.0)).all()
    score, _ = metrics.score("regression", equal, equal + 1.0, ["x"], metrics.draw(alone(20), 9, 0))
    assert np.isnan(score.main.value) and score.others["MAE"].value == pytest.approx(1.0)
    assert score.main.text() == "–" and UNDEFINED.outcome == "undefined"


def test_an_interval_covers_the_true_accuracy_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        hits = (rng.random(300) < 0.8).astype(np.int64)
        counts = metrics.draw(alone(300), 200, trial)
        accuracy = metrics.score("multi-class", hits, np.ones_like(hits), "ab", counts)[0].main
        covered += accuracy.low <= 0.8 <= accuracy.high
    assert 180 <= covered <= 199


def test_operating_points_are_those_of_the_records_called_at_the_threshold() -> None:
    rng = np.random.default_rng(0)
    targets = rng.random((60, 4)) < 0.4
    targets[:, 2], targets[:, 3] = False, np.arange(60) < SUPPORT - 1
    probabilities = rng.random((60, 4)).round(1)  # ties with the threshold are called
    counts = metrics.draw(alone(60), 40, 0)
    nothing = Score(UNDEFINED)
    found = with_operating_points(
        nothing, "abcd", [0.6, np.nan, 0.5, 0.5], targets, probabilities, counts
    )
    first, without, empty, rare = found.points
    y, called = targets[:, 0], probabilities[:, 0] >= 0.6
    for rate, naive in (
        (first.sensitivity, recall_score), (first.ppv, precision_score), (first.f1, f1_score),
        (first.specificity, partial(recall_score, pos_label=False)),
    ):  # fmt: skip
        assert rate.value == pytest.approx(naive(y, called))
        picks = [np.repeat(np.arange(60), times) for times in counts]
        ends = np.quantile([naive(y[p], called[p]) for p in picks], [0.025, 0.975])
        assert (rate.low, rate.high) == pytest.approx(tuple(ends))
    assert np.isnan([r.value for r in (without.specificity, without.f1, empty.f1)]).all()
    assert np.isnan(empty.sensitivity.value) and empty.specificity.value < 1
    assert list(found.supported_others.values()) == [first.f1]
    (f1,) = found.others.values()
    assert f1.value == pytest.approx((first.f1.value + rare.f1.value) / 2)


def test_a_temperature_divides_the_logits_that_probabilities_have() -> None:
    logits = np.random.default_rng(0).normal(0, 6, (50, 3))
    of_labels, of_classes = 1 / (1 + np.exp(-logits)), np.exp(logits)
    of_classes /= of_classes.sum(1, keepdims=True)
    halved = np.exp(logits / 2)
    assert tempered(of_labels, 2.0, labels=True) == pytest.approx(1 / (1 + np.exp(-logits / 2)))
    found = tempered(of_classes, 2.0, labels=False)
    assert found == pytest.approx(halved / halved.sum(1, keepdims=True))
    certain = tempered(np.array([[0.0, 1.0]]), 2.0, labels=True)
    assert np.isfinite(certain).all() and certain[0, 0] < 1e-6 and certain[0, 1] > 1 - 1e-6


def test_a_thinned_curve_has_the_area_of_the_full_one() -> None:
    rng = np.random.default_rng(0)
    targets = rng.random((900, 2)) < 0.3
    scores = (rng.normal(size=targets.shape) + targets).round(1)  # with ties
    curves = ranking_curves("multi-label", targets, scores, ("a", "b"))
    areas = [np.trapezoid(curve.sensitivity, curve.false_positives) for curve in curves]
    np.testing.assert_allclose(areas, metrics.auroc(targets, scores), atol=2e-3)
    assert all(len(curve.precision) <= 61 and curve.sensitivity[-1] == 1 for curve in curves)
    shares = np.eye(3)[[0, 1, 2, 2]]
    classes = ranking_curves("multi-class", np.array([0, 1, 2, 0]), None, "abc", shares)
    assert [curve.name for curve in classes] == ["a", "b", "c"]
