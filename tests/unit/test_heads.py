"""Heads: against scikit-learn, and against peeking at what they are scored on."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as Reference
from sklearn.metrics import r2_score

from latentcast.errors import LatentcastError
from latentcast.evaluation.heads import (
    HEADS,
    READ_TOKENS,
    ClassHead,
    knn,
    logistic,
    multinomial,
    ridge,
)
from latentcast.evaluation.heads.base import Standardiser
from latentcast.evaluation.heads.logistic import logistic_regression
from latentcast.evaluation.heads.multinomial import regression_path
from latentcast.evaluation.heads.ridge import ridge_regression


def correlated(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features with a condition number in the thousands, and three labels."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, width)) * np.arange(1, width + 1) ** -1.5
    x = hidden @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    logits = 3 * hidden[:, :3] + 5 * hidden[:, 3:6] + rng.normal(size=(n, 3)) - [0, 1, 3]
    return (x - x.mean(axis=0)) / x.std(axis=0), logits > 0


def correlated_classes(n: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The same features, and one class a record."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(n, width)) * np.arange(1, width + 1) ** -1.5
    x = hidden @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    scores = 9 * hidden[:, :classes] + rng.normal(size=(n, classes)) - np.arange(classes)
    return (x - x.mean(axis=0)) / x.std(axis=0), scores.argmax(axis=1)


def test_every_penalty_and_label_equals_scikit_learn() -> None:
    x, y = correlated(400, 30)
    weights, intercepts = logistic_regression(x, y, logistic.PENALTIES)
    for p, penalty in enumerate(logistic.PENALTIES):
        for c in range(3):
            reference = LogisticRegression(C=penalty, tol=1e-10, max_iter=10_000).fit(x, y[:, c])
            exact = reference.coef_[0]
            off = np.linalg.norm(weights[p, :, c] - exact)
            assert off < 1e-3 * np.linalg.norm(exact)
            np.testing.assert_allclose(intercepts[p, c], reference.intercept_[0], rtol=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_label_of_one_positive_among_thousands_has_a_fit(seed: int) -> None:
    """Its intercept overshot by a thousand, and no line search came back from there."""
    x = np.random.default_rng(seed).normal(size=(2000, 30))
    y = np.arange(2000)[:, None] < [1]
    weights, intercepts = logistic_regression(x, y, [1e-4])
    reference = LogisticRegression(C=1e-4, tol=1e-12, max_iter=10_000).fit(x, y[:, 0])
    np.testing.assert_allclose(weights[0, :, 0], reference.coef_[0], atol=1e-6)
    np.testing.assert_allclose(intercepts[0], reference.intercept_, atol=1e-3)


def test_separable_rare_and_wide_problems_converge_to_the_minimum() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 200)) + 3.0  # more features than records, and not centred
    y = np.zeros((60, 2), dtype=bool)
    y[0, 0] = True
    y[:30, 1] = True
    for penalty in (1e-4, 1.0):
        weights, intercepts = logistic_regression(x, y, [penalty])
        pull = y - 1 / (1 + np.exp(-(x @ weights[0] + intercepts[0])))
        # The gradient bounds the distance to the minimum, the ridge being the identity.
        distance = np.linalg.norm(weights[0] - penalty * (x - x.mean(axis=0)).T @ pull, axis=0)
        assert (distance < 2e-3 * np.linalg.norm(weights[0], axis=0)).all()


def test_every_penalty_equals_scikit_learn_whatever_stands_before_it() -> None:
    x, y = correlated_classes(500, 30, 4)
    x = x + 2.0  # not centred: the intercept has to carry it
    for penalty, weights, intercepts in regression_path(x, y, multinomial.PENALTIES):
        reference = LogisticRegression(C=penalty, tol=1e-10, max_iter=20_000).fit(x, y)
        exact = reference.coef_.T
        assert np.linalg.norm(weights - exact) < 0.01 * np.linalg.norm(exact)
        # A constant over all intercepts changes nothing.
        ours, theirs = x @ weights + intercepts, x @ exact + reference.intercept_
        ours, theirs = (side - side.mean(axis=1, keepdims=True) for side in (ours, theirs))
        assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()


def test_ridge_equals_scikit_learn_at_every_penalty() -> None:
    x, labels = correlated(200, 30)
    x, y = x + 2.0, 1e4 + x @ np.arange(30.0) + labels.sum(axis=1)  # far from zero, both of them
    weights, intercepts = ridge_regression(x, y, ridge.PENALTIES)
    for penalty, w, b in zip(ridge.PENALTIES, weights, intercepts, strict=True):
        reference = Reference(alpha=1 / penalty, solver="cholesky").fit(x, y)
        np.testing.assert_allclose(w, reference.coef_, rtol=1e-6, atol=1e-8)
        assert b == pytest.approx(reference.intercept_, rel=1e-9)
    wide = np.random.default_rng(0).normal(size=(20, 60))
    (w,), (b,) = ridge_regression(wide, wide[:, 0], [1.0])
    np.testing.assert_allclose(w, Reference(alpha=1).fit(wide, wide[:, 0]).coef_, atol=1e-9)


def test_the_solver_runs_on_one_thread_and_gives_the_others_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = correlated(400, 20)
    used = []
    eigh = torch.linalg.eigh

    def watched(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        used.append(torch.get_num_threads())
        values, vectors = eigh(matrix)
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", watched)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first = logistic_regression(x, y, [0.01])[0]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert used == [1]
    np.testing.assert_array_equal(logistic_regression(x, y, [0.01])[0], first)


def test_the_solver_of_classes_gives_the_same_bits_on_two_threads_and_in_no_grad() -> None:
    x, y = correlated_classes(400, 20, 3)
    first = next(regression_path(x, y, [0.01]))[1]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.no_grad():
            again = next(regression_path(x, y, [0.01]))[1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(first, again)


def test_a_label_without_training_positives_is_refused() -> None:
    with pytest.raises(LatentcastError, match="no positive or no negative"):
        logistic_regression(np.eye(3), np.zeros((3, 1), dtype=bool), [1.0])


def test_a_constant_feature_is_ignored_not_divided_by_zero() -> None:
    features = np.array([[1.0, 0.1], [2.0, 0.1], [4.0, 0.1]], dtype=np.float32)
    standard = Standardiser.fit(features)(np.array([[1.0, 5.0]], dtype=np.float32))
    assert np.isfinite(standard).all()
    assert standard[0, 1] == 0


def test_a_collapsed_encoder_gives_the_prevalence_of_labels() -> None:
    y = np.arange(40)[:, None] < np.array([4, 20])
    weights, intercepts = logistic_regression(np.zeros((40, 6)), y, [0.01, 1.0])
    assert (weights == 0).all()
    np.testing.assert_allclose(intercepts, [[np.log(4 / 36), 0]] * 2, atol=1e-6)


def test_a_collapsed_encoder_gives_the_frequencies_and_one_class_is_refused() -> None:
    y = np.repeat([0, 1, 2], [4, 6, 10])
    for _, weights, intercepts in regression_path(np.zeros((20, 6)), y, multinomial.PENALTIES):
        assert (weights == 0).all()
        share = np.exp(intercepts) / np.exp(intercepts).sum()
        np.testing.assert_allclose(share, [0.2, 0.3, 0.5], atol=1e-6)
    with pytest.raises(LatentcastError, match="of one class; give records of two"):
        next(regression_path(np.eye(3), np.zeros(3, np.int64), [1.0]))


PROBLEMS = ("multi-label", "multi-class", "regression")


def problem(kind: str, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Raw features that tell the targets of a kind in part."""
    x, labels = correlated(n, 20)
    targets = {"multi-label": labels[:, :2], "multi-class": labels.sum(axis=1),
               "regression": 50 + 9 * x[:, 0] + x[:, 1]}[kind]  # fmt: skip
    return (5 + 3 * x).astype(np.float32), targets


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("head", [name for name in HEADS if name not in READ_TOKENS])
def test_the_validation_score_is_that_of_the_predictions_for_validation(
    head: str, kind: Any
) -> None:
    x, y = problem(kind)
    fitted = HEADS[head][kind](x[:300], y[:300], x[300:], y[300:])
    predictions = fitted.predict(x[300:])
    if kind == "multi-class":
        assert fitted.validation == (predictions == y[300:]).mean() > 0.5
    elif kind == "regression":
        assert fitted.validation == pytest.approx(r2_score(y[300:], predictions))
        assert fitted.validation > (0.99 if head == "linear" else 0.5)
    else:
        wins = [
            np.mean(np.sign(p[t][:, None] - p[~t][None]) / 2 + 0.5)
            for t, p in zip(y[300:].T, predictions.T, strict=True)
        ]
        assert fitted.validation == pytest.approx(np.mean(wins)) and np.mean(wins) > 0.8
    assert (fitted.penalty is None) == (head == "kNN")


@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_penalty_follows_the_validation_records(kind: Any) -> None:
    rng = np.random.default_rng(0)
    y = rng.random((300, 1)) < 0.5
    fit = HEADS["linear"][kind]
    targets = (
        y if kind == "multi-label" else y[:, 0].astype(int if kind == "multi-class" else float)
    )
    penalties = {"multi-label": logistic, "multi-class": multinomial, "regression": ridge}[
        kind
    ].PENALTIES

    def penalty(x: np.ndarray) -> float:
        x = x.astype(np.float32)
        found = fit(x[:180], targets[:180], x[180:240], targets[180:240]).penalty
        assert found is not None
        return found

    x = rng.normal(size=(300, 200))
    x[:, :1] += 0.5 * y  # one weak feature among noise: weak penalties overfit
    assert penalty(x) < max(penalties)
    # A large feature of no use and a small but perfect one: only a weak penalty finds it.
    shortcut = np.column_stack([y[:, 0] + 0.8 * rng.normal(size=300)] * 40 + [y[:, 0]])
    shortcut[:, :40] += 0.01 * rng.normal(size=(300, 40))
    assert penalty(shortcut) > min(penalties)


def test_of_equal_penalties_the_stronger_is_taken() -> None:
    y = np.random.default_rng(0).integers(0, 3, 600)
    easy = np.eye(3, dtype=np.float32)[y]
    classes = multinomial.fit(easy[:300], y[:300], easy[300:], y[300:])
    assert classes.validation == 1.0 and classes.penalty == 1e-3  # 1e-4 predicts one class
    present = np.eye(3, dtype=bool)[y]
    labels = logistic.fit(easy[:300], present[:300], easy[300:], present[300:])
    assert labels.validation == 1.0 and labels.penalty == 1e-4


@pytest.mark.parametrize("kind", ["multi-label", "regression"])  # accuracy is always defined
@pytest.mark.parametrize("head", [name for name in HEADS if name not in READ_TOKENS])
def test_a_validation_split_that_decides_nothing_is_an_error(head: str, kind: Any) -> None:
    x, y = problem(kind)
    with pytest.raises(LatentcastError, match="the validation split .*; use a larger store"):
        HEADS[head][kind](x[:300], y[:300], x[300:], np.repeat(y[:1], 100, axis=0))


def test_neighbours_vote_for_labels_and_average_numbers_by_their_nearness() -> None:
    angle = np.deg2rad([0.0, 20.0, 90.0, 180.0])
    bank = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    query = bank[:1]
    weights = np.exp((np.cos(angle) - 1) / knn.TEMPERATURE)
    values = np.array([10.0, 20.0, 500.0, 900.0])
    labels = np.array([[True, False], [False, True], [False, True], [True, True]])
    fit = partial(knn.fit, bank, validation=bank)
    mean = fit(values, validation_targets=values, kind="regression").predict(query)
    assert mean[0] == pytest.approx((weights @ values) / weights.sum())
    shares = fit(labels, validation_targets=labels, kind="multi-label").predict(query)
    np.testing.assert_allclose(shares[0], weights @ labels / weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("head", [name for name in HEADS if name not in READ_TOKENS])
def test_the_class_of_the_largest_share_is_the_one_predicted(head: str) -> None:
    x, y = problem("multi-class")
    fitted = HEADS[head]["multi-class"](x[:200], y[:200] + 2, x[200:300], y[200:300] + 2)
    assert isinstance(fitted, ClassHead)
    shares = fitted.class_shares(x[300:], int(y.max()) + 4)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert np.array_equal(shares.argmax(axis=1), fitted.predict(x[300:]))
    assert not shares[:, :2].any() and not shares[:, -1].any()  # of these there is no record
