"""kNN on frozen features: a cosine that is one, votes that are counted, ties that are settled."""

from __future__ import annotations

import numpy as np
import pytest

from latentcast.errors import LatentcastError
from latentcast.evaluation.heads import knn


def drawn(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def naive(bank: np.ndarray, query: np.ndarray, k: int) -> list[tuple[int, float]]:
    """Rows and cosines in float64, one pair at a time; the earlier row first among equals."""
    a, b = bank.astype(np.float64), query.astype(np.float64)
    cosines = [float(x @ b / np.linalg.norm(x) / np.linalg.norm(b)) for x in a]
    order = sorted(range(len(a)), key=lambda i: (-cosines[i], i))
    return [(i, cosines[i]) for i in order[:k]]


def test_similarity_is_the_cosine_and_not_one_minus_a_euclidean_distance() -> None:
    """H-JEPA defect 21: unit vectors at distance 1 (60 degrees) got similarity 0 for 0.5."""
    angle = np.deg2rad([60.0, 180.0, 90.0, 0.0])
    bank = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32) * [
        [1],
        [2],
        [9],
        [5],
    ]
    rows, similarities = knn.neighbours(bank, np.array([[3.0, 0.0]], np.float32), k=4)
    assert rows.tolist() == [[3, 0, 2, 1]]
    np.testing.assert_allclose(similarities, [[1.0, 0.5, 0.0, -1.0]], atol=1e-6)


def test_neighbours_and_votes_equal_a_loop_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = drawn(300, 12) + 0.5, drawn(57, 12, seed=1) + 0.5
    labels = np.random.default_rng(2).integers(0, 4, 300)
    monkeypatch.setattr(knn, "CELLS", 300 * 10)  # six blocks, the last one shorter
    rows, similarities = knn.neighbours(bank, queries, k=9)
    votes = knn.vote(labels[rows], similarities, 4)
    predicted = knn.predict(bank, labels, queries, k=9)
    for q, query in enumerate(queries):
        expected = naive(bank, query, 9)
        assert rows[q].tolist() == [i for i, _ in expected]
        np.testing.assert_allclose(similarities[q], [c for _, c in expected], atol=1e-6)
        counted = np.zeros(4)
        for i, cosine in expected:
            counted[labels[i]] += np.exp(cosine / 0.07)
        np.testing.assert_allclose(votes[q] / votes[q].sum(), counted / counted.sum(), rtol=1e-4)
        assert predicted[q] == counted.argmax()


def test_separable_clusters_are_all_recognised() -> None:
    centres = 10 * np.eye(5, 16)
    labels = np.arange(200) % 5
    images = (centres[labels] + 0.1 * drawn(200, 16)).astype(np.float32)
    found = knn.predict(images[:100], labels[:100], images[100:])
    assert (found == labels[100:]).all()


def test_near_neighbours_outvote_more_but_farther_ones() -> None:
    near = np.array([[1.0, 0.02], [1.0, 0.9], [1.0, 0.9], [1.0, 0.9]], np.float32)
    labels = np.array([1, 0, 0, 0])
    query = np.array([[1.0, 0.0]], np.float32)
    assert knn.predict(near, labels, query, k=4) == 1
    assert knn.predict(near, labels, query, k=4, temperature=100.0) == 0


def test_more_neighbours_than_training_images_are_all_of_them() -> None:
    bank, query = drawn(7, 4), drawn(3, 4, seed=1)
    rows, similarities = knn.neighbours(bank, query, k=20)
    assert rows.shape == similarities.shape == (3, 7)
    assert (np.sort(rows, axis=1) == np.arange(7)).all()
    assert knn.neighbours(bank, query, k=7)[0].tolist() == rows.tolist()


def test_of_equally_near_images_the_first_are_taken_whatever_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    queries = np.eye(4, dtype=np.float32)[[2, 0, 3]]
    for cells in (1, 1 << 24):
        monkeypatch.setattr(knn, "CELLS", cells)
        rows, similarities = knn.neighbours(bank, queries, k=5)
        assert rows.tolist() == [
            [2 + 4 * i for i in range(5)],
            [0, 4, 8, 12, 16],
            [3, 7, 11, 15, 19],
        ]
        assert (similarities == 1).all()
    # Fewer equals than places: the rest are the first of the next best, which tie as well.
    rows, _ = knn.neighbours(bank[:8], queries[:1], k=4)
    assert rows.tolist() == [[2, 6, 0, 1]]
    labels = np.array([1, 0])  # one vote each
    assert knn.predict(np.eye(2, dtype=np.float32)[[0, 0]], labels, queries[1:2, :2], k=2) == 0


def test_a_low_temperature_neither_overflows_nor_loses_all_votes() -> None:
    labels = np.array([[0, 1, 1]])
    for near in (0.99, -0.5):
        votes = knn.vote(labels, np.array([[near, near - 0.1, near - 0.1]], np.float32), 2, 1e-4)
        assert np.isfinite(votes).all()
        assert votes.argmax() == 0


def test_a_feature_of_zero_is_equally_far_from_everything() -> None:
    bank = drawn(5, 3)
    bank[2] = 0.0
    rows, similarities = knn.neighbours(bank, np.zeros((1, 3), np.float32), k=5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]
    assert (similarities == 0).all()


def test_the_features_of_the_caller_stay_as_they_are() -> None:
    bank, queries, labels = drawn(50, 6), drawn(9, 6, seed=1), np.arange(50) % 3
    before = [array.copy() for array in (bank, queries, labels)]
    knn.predict(bank, labels, queries)
    for array, was in zip((bank, queries, labels), before, strict=True):
        np.testing.assert_array_equal(array, was)


def test_no_neighbours_and_no_training_images_are_refused() -> None:
    with pytest.raises(LatentcastError, match="k is 0; ask for one"):
        knn.neighbours(drawn(3, 2), drawn(1, 2), k=0)
    with pytest.raises(LatentcastError, match="no training record"):
        knn.neighbours(drawn(0, 2), drawn(1, 2))
