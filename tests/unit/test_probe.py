"""The linear probe and its protocol: against scikit-learn, and against peeking at the test fold."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_stores import PatchSource, write_store
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.probes import PENALTIES, Standardiser, fit_probe, logistic_regression
from latentcast.evaluation.protocol import probe
from latentcast.evaluation.random_convolutions import RandomConvolutions
from latentcast.evaluation.tasks import Task

CLASSES = ("NORM", "AFIB", "STACH")


def correlated(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features with a condition number in the thousands, and three labels."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, width)) * np.arange(1, width + 1) ** -1.5
    x = hidden @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    logits = 3 * hidden[:, :3] + 5 * hidden[:, 3:6] + rng.normal(size=(n, 3)) - [0, 1, 3]
    return (x - x.mean(axis=0)) / x.std(axis=0), logits > 0


def test_every_penalty_and_label_equals_scikit_learn() -> None:
    x, y = correlated(400, 30)
    weights, intercepts = logistic_regression(x, y, PENALTIES)
    for p, penalty in enumerate(PENALTIES):
        for c in range(3):
            reference = LogisticRegression(C=penalty, tol=1e-10, max_iter=10_000).fit(x, y[:, c])
            exact = reference.coef_[0]
            off = np.linalg.norm(weights[p, :, c] - exact)
            assert off < 1e-3 * np.linalg.norm(exact)
            np.testing.assert_allclose(intercepts[p, c], reference.intercept_[0], rtol=0.01)


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


def test_a_label_without_training_positives_is_refused() -> None:
    with pytest.raises(LatentcastError, match="no positive or no negative"):
        logistic_regression(np.eye(3), np.zeros((3, 1), dtype=bool), [1.0])


def test_a_constant_feature_is_ignored_not_divided_by_zero() -> None:
    features = np.array([[1.0, 0.1], [2.0, 0.1], [4.0, 0.1]], dtype=np.float32)
    standard = Standardiser.fit(features)(np.array([[1.0, 5.0]], dtype=np.float32))
    assert np.isfinite(standard).all()
    assert standard[0, 1] == 0


def test_a_collapsed_encoder_gives_a_fit_that_knows_the_prevalence_only() -> None:
    y = np.arange(40)[:, None] < np.array([4, 20])
    weights, intercepts = logistic_regression(np.zeros((40, 6)), y, [0.01, 1.0])
    assert (weights == 0).all()
    np.testing.assert_allclose(intercepts, [[np.log(4 / 36), 0]] * 2, atol=1e-6)


def folds(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    train, validation, test = np.split(np.arange(n), [n * 6 // 10, n * 8 // 10])
    return train, validation, test


def test_layer_and_penalty_come_from_validation_and_statistics_from_training() -> None:
    x, y = correlated(500, 20)
    rng = np.random.default_rng(1)
    layers = {
        "noise": rng.normal(size=x.shape).astype(np.float32),
        "signal": (5 + 3 * x).astype(np.float32),
    }
    train, validation, test = folds(len(x))
    fitted = fit_probe(layers, y, train, validation)
    assert fitted.layer == "signal"
    np.testing.assert_allclose(
        fitted.standardise.mean, layers["signal"][train].mean(axis=0), rtol=1e-5
    )
    # The test fold can hold anything without changing the probe.
    spoiled = {name: held.copy() for name, held in layers.items()}
    spoiled["signal"][test] = 1e6
    flipped = y.copy()
    flipped[test] = ~y[test]
    again = fit_probe(spoiled, flipped, train, validation)
    assert (again.layer, again.penalty, again.validation) == (
        fitted.layer,
        fitted.penalty,
        fitted.validation,
    )
    np.testing.assert_array_equal(again.weights, fitted.weights)


def test_the_penalty_follows_the_validation_fold() -> None:
    rng = np.random.default_rng(0)
    y = rng.random((300, 1)) < 0.5
    x = rng.normal(size=(300, 200)).astype(np.float32)
    x[:, 0] += 0.5 * y[:, 0]  # one weak feature among noise: weak penalties overfit
    train, validation, _ = folds(300)
    noisy = fit_probe({"x": x}, y, train, validation)
    assert noisy.penalty < 1.0
    # A large feature of no use and a small but perfect one: only a weak penalty finds it.
    shortcut = np.column_stack([y[:, 0] + 0.8 * rng.normal(size=300)] * 40 + [y[:, 0]])
    shortcut[:, :40] += 0.01 * rng.normal(size=(300, 40))
    exact = fit_probe({"x": shortcut.astype(np.float32)}, y, train, validation)
    assert exact.penalty > min(PENALTIES)


def labelled_store(path: Path, n: int = 400, **changes: object) -> Store:
    """Noise ECGs; NORM doubles the amplitude, AFIB adds a rhythm, STACH is rare."""
    rng = np.random.default_rng(0)
    fold = rng.integers(1, 11, n)
    labels: list[dict[str, float]] = []
    records = []
    for i in range(n):
        codes = [c for c, p in zip(CLASSES, (0.5, 0.3, 0.0), strict=True) if rng.random() < p]
        if i < 12:
            codes.append("STACH")
        signal = rng.normal(size=(40, 2)) * (150 if "NORM" in codes else 100)
        if "AFIB" in codes:
            signal += 60 * np.sin(np.arange(40) * 1.3 + rng.uniform(0, 6))[:, None]
        labels.append(dict.fromkeys(codes, 0.0))
        records.append(signal.round().astype(np.int16))
    fold[:12] = 10  # STACH occurs in the test fold only
    return write_store(path, records, folds=fold.tolist(), labels=labels, **changes)


HELD = Task("mixed", {name: (name,) for name in CLASSES}, keeps_unlabelled=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return labelled_store(tmp_path_factory.mktemp("probe") / "store")


def test_report_has_every_row_difference_label_and_source_of_the_numbers(
    store: Store, tmp_path: Path
) -> None:
    sources = [
        PatchSource("pretrained", seed=1),
        PatchSource("random init", seed=2),
        RandomConvolutions.from_store(store, kernels=60),
    ]
    report = probe(
        sources, store, HELD, resamples=100, seed=7, provenance={"command": "probe RUN", "lr": 0.1}
    )
    assert [(row.name, row.choice) for row in report.rows] == [
        ("pretrained", "chosen on validation"),
        ("random init", "chosen on validation"),
        ("random init", "layer of pretrained"),
        ("random convolutions", "chosen on validation"),
    ]
    assert report.rows[2].layer == report.rows[0].layer
    assert [d.reference for d in report.differences] == [row.name for row in report.rows[1:]]
    for difference, row in zip(report.differences, report.rows[1:], strict=True):
        gap = report.rows[0].score.macro.value - row.score.macro.value
        assert difference.estimate.value == pytest.approx(gap)
    assert report.protocol == "PTB-XL mixed, folds 1–8/9/10, linear probe"
    assert report.left_out == {"STACH": "no positive in train"}
    assert report.labels[2].positives == {"train": 0, "validation": 0, "test": 12}

    path = report.write(tmp_path)
    assert path.name == "probe-mixed.json"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    read = json.loads(path.read_text())
    assert read["rows"][0]["score"]["macro"]["value"] == report.rows[0].score.macro.value
    assert read["data"]["shards"] == {"shard-00000.npy": store.manifest.shards[0].sha256}
    assert read["provenance"] == {"command": "probe RUN", "lr": 0.1}
    assert read["bootstrap"] == {"resamples": 100, "level": 0.95, "seed": 7, "unit": "record"}

    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    report.render(console)
    text = console.export_text()
    for expected in ("random convolutions", "layer of pretrained", "STACH", "no positive in train"):
        assert expected in text
    assert f"{report.rows[0].score.macro.value:.3f}" in text


def test_the_same_probe_twice_gives_the_same_report(store: Store) -> None:
    first, second = (probe([PatchSource()], store, HELD, resamples=50).as_json() for _ in range(2))
    assert first == second


def test_a_named_layer_is_read_everywhere_it_exists(store: Store) -> None:
    sources = [PatchSource("a"), PatchSource("b"), RandomConvolutions.from_store(store, kernels=30)]
    report = probe(sources, store, HELD, layer="embedding", resamples=20)
    assert [row.layer for row in report.rows] == ["embedding"] * 2 + ["max and positive share"]
    with pytest.raises(LatentcastError, match="did you mean 'block 1'"):
        probe(sources, store, HELD, layer="block1")


def test_a_write_that_fails_leaves_the_report_before_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = probe([PatchSource()], store, HELD, resamples=10)
    before = report.write(tmp_path).read_text()

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        dataclasses.replace(report, windows="centre").write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["probe-mixed.json"]
    assert (tmp_path / "probe-mixed.json").read_text() == before


def test_an_undefined_number_is_null_in_json(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [rng.integers(-99, 99, (40, 2)).astype(np.int16) for _ in range(60)]
    fold = [1] * 40 + [9] * 10 + [10] * 10
    labels = [{"NORM": 1.0} if i % 2 and i < 50 else {} for i in range(60)]  # none in fold 10
    lacking = write_store(tmp_path / "store", records, folds=fold, labels=labels)
    report = probe([PatchSource()], lacking, Task("one", {"NORM": ("NORM",)}, True), resamples=10)
    assert report.left_out == {"NORM": "no positive in test"}
    read = json.loads(report.write(tmp_path).read_text())
    assert read["rows"][0]["score"]["macro"] == {"value": None, "low": None, "high": None}


def test_records_without_a_label_of_the_task_are_dropped(store: Store) -> None:
    members = {name: (name,) for name in ("NORM", "AFIB")}
    some = probe([PatchSource()], store, Task("some", members), resamples=10)
    everything = probe([PatchSource()], store, Task("every", members, True), resamples=10)
    assert sum(everything.records.values()) == len(store)
    labelled = store.labels.indicator(["NORM", "AFIB"]).any(axis=1).sum()
    assert sum(some.records.values()) == labelled < len(store)


def test_a_leak_stops_the_probe_unless_it_is_accepted_and_printed(tmp_path: Path) -> None:
    leaky = labelled_store(
        tmp_path / "store", n=200, patient_ids=[f"p{i % 50}" for i in range(200)]
    )
    with pytest.raises(LatentcastError, match="patient in two splits"):
        probe([PatchSource()], leaky, HELD, resamples=10)
    report = probe([PatchSource()], leaky, HELD, resamples=10, accept_leaks=True)
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    report.render(console)
    assert "LEAK (error): patient in two splits" in console.export_text()


def test_an_empty_test_fold_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [rng.integers(-99, 99, (40, 2)).astype(np.int16) for _ in range(20)]
    labels = [{"NORM": 1.0} if i % 2 else {} for i in range(20)]
    small = write_store(tmp_path / "s", records, folds=[1] * 10 + [9] * 10, labels=labels)
    with pytest.raises(LatentcastError, match="test split"):
        probe([PatchSource()], small, Task("one", {"NORM": ("NORM",)}, True))
