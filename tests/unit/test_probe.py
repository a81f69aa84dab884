"""The linear probe and its protocol: against scikit-learn, and against peeking at the test fold."""

from __future__ import annotations

import dataclasses
import io
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
from latentcast.evaluation.heads import PENALTIES, Standardiser, fit_probe, logistic_regression
from latentcast.evaluation.protocol import probe
from latentcast.evaluation.random_convolutions import RandomConvolutions
from latentcast.evaluation.results import ProbeReport, interval, number
from latentcast.evaluation.tasks import Task
from latentcast.signals.recording import INVALID

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
    """NEPA defect 21: the final test used the last weights, whatever validation had said."""
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
    assert read["records_left_out"] == {"train": 0, "validation": 0, "test": 0}
    assert read["rows"][0]["score"]["macro"]["value"] == report.rows[0].score.macro.value
    assert read["data"]["shards"] == {"shard-00000.npy": store.manifest.shards[0].sha256}
    assert read["provenance"] == {"command": "probe RUN", "lr": 0.1}
    assert read["bootstrap"] == {
        "resamples": 100, "level": 0.95, "seed": 7, "unit": "patient",
        "units": report.records["test"],
    }  # fmt: skip

    text = printed(report, 200)
    for expected in ("random convolutions", "layer of pretrained", "STACH", "no positive in train"):
        assert expected in text
    assert f"{report.rows[0].score.macro.value:.3f}" in text


def printed(report: ProbeReport, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    report.render(console)
    return console.export_text()


@pytest.mark.parametrize("name", ["pretrained", "nepa-ecg-tiny (step-00004000, student)"])
def test_a_terminal_of_80_columns_shows_every_number_whole(store: Store, name: str) -> None:
    sources = [
        PatchSource(name, seed=1),
        PatchSource("random-initialised", seed=2),
        RandomConvolutions.from_store(store, kernels=30),
    ]
    report = probe(sources, store, HELD, resamples=50)
    lines = printed(report, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    # Its two readings and their two differences: the name is not broken either.
    assert sum(line.startswith("random-initialised ") for line in lines) >= 4
    shown = [interval(row.score.macro) for row in report.rows]
    shown += [interval(d.estimate, signed=True) for d in report.differences]
    shown += [interval(row.score.supported) for row in report.first_rows]
    shown += [interval(label.auroc) for label in report.rows[0].score.labels]
    shown += [number(x.auroc.value) for row in report.first_rows[1:] for x in row.score.labels]
    for numbers in shown:  # the same number may stand in two tables, and must be whole in both
        assert sum(line.count(numbers) for line in lines) >= shown.count(numbers), numbers


def test_a_named_layer_shows_the_tested_encoder_label_by_label(store: Store) -> None:
    sources = [PatchSource("pretrained"), RandomConvolutions.from_store(store, kernels=30)]
    report = probe(sources, store, HELD, layer="embedding", resamples=50)
    assert [row.name for row in report.first_rows] == ["pretrained", "random convolutions"]
    line = next(line for line in printed(report, 80).splitlines() if line.startswith("AFIB "))
    assert interval(report.rows[0].score.labels[1].auroc) in line


def test_the_same_probe_twice_gives_the_same_report(store: Store) -> None:
    first, second = (probe([PatchSource()], store, HELD, resamples=50).as_json() for _ in range(2))
    assert first == second


def test_a_named_layer_is_read_everywhere_it_exists(store: Store) -> None:
    sources = [PatchSource("a"), PatchSource("b"), RandomConvolutions.from_store(store, kernels=30)]
    report = probe(sources, store, HELD, layer="embedding", resamples=20)
    assert [row.layer for row in report.rows] == ["embedding"] * 2 + ["kernels"]
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
    with pytest.raises(LatentcastError, match="probe-mixed.json: cannot be written.*disk full"):
        dataclasses.replace(report, windows="centre").write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["probe-mixed.json"]
    assert (tmp_path / "probe-mixed.json").read_text() == before


def test_a_run_folder_that_is_gone_is_named_with_the_mend(store: Store, tmp_path: Path) -> None:
    report = probe([PatchSource()], store, HELD, resamples=10)
    with pytest.raises(LatentcastError, match="gone/probe-mixed.json: cannot.*probe again"):
        report.write(tmp_path / "gone")


def test_a_cls_probe_of_a_causal_encoder_is_refused_with_the_reason(store: Store) -> None:
    """NEPA defect 9: the head read token 0, whose logits are the same for any ECG."""
    with pytest.raises(LatentcastError, match="token 0 sees only itself.*use mean"):
        probe([PatchSource(causal=True)], store, HELD, pooling="cls")
    with pytest.raises(LatentcastError, match="no objective here trains the CLS"):
        probe([PatchSource(causal=False)], store, HELD, pooling="cls")


def test_an_undefined_number_is_null_in_json(tmp_path: Path) -> None:
    """NEPA defect 7: a class without positives must not become a number."""
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


def test_a_leak_stops_the_probe_and_a_possible_one_is_printed(tmp_path: Path) -> None:
    """NEPA defect 15: no overlap check between pretraining and evaluation data."""
    leaky = labelled_store(
        tmp_path / "store", n=200, patient_ids=[f"p{i % 50}" for i in range(200)]
    )
    with pytest.raises(LatentcastError, match="patient in two splits"):
        probe([PatchSource()], leaky, HELD, resamples=10)

    store = labelled_store(tmp_path / "mine", n=200)
    rng = np.random.default_rng(5)
    other = [rng.integers(-99, 99, (40, 2)).astype(np.int16) for _ in range(200)]
    ids = [f"x{i}" for i in range(200)]
    for source, folder in (("test", "same"), ("hospital B", "other")):
        write_store(tmp_path / folder, other, folds=[1] * 200, record_ids=ids, source=source)
    with pytest.raises(LatentcastError, match="patient id in pretraining.*both stores come from"):
        probe([PatchSource()], store, HELD, pretraining=Store.open(tmp_path / "same"))
    pretraining = Store.open(tmp_path / "other")
    report = probe([PatchSource()], store, HELD, pretraining=pretraining, resamples=10)
    assert "LEAK (warning): patient id in pretraining" in printed(report, 200)


def test_records_of_one_patient_widen_the_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(90), 4)  # four records each, all in one fold
    folds = np.repeat([1] * 40 + [9] * 15 + [10] * 35, 4).tolist()
    ill = rng.random(90) < 0.5
    signs = rng.normal(size=(90, 40, 2)) * np.where(ill, 130, 100)[:, None, None]
    records = [(signs[p] + rng.normal(size=(40, 2))).round().astype(np.int16) for p in people]
    labels = [{"NORM": 1.0} if ill[p] else {} for p in people]
    one = Task("one", {"NORM": ("NORM",)}, keeps_unlabelled=True)
    reports = {}
    for name, ids in (("known", [f"p{p}" for p in people]), ("unknown", [""] * len(people))):
        held = write_store(tmp_path / name, records, folds=folds, labels=labels, patient_ids=ids)
        floor = RandomConvolutions.from_store(held, kernels=20)
        reports[name] = probe([PatchSource(), floor], held, one)
    assert reports["known"].bootstrap["unit"] == "patient"
    assert reports["known"].bootstrap["units"] == 35
    assert reports["unknown"].bootstrap["unit"] == "record"
    wide, narrow = (r.rows[0].score.macro for r in reports.values())
    assert wide.value == narrow.value and wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    wide, narrow = (r.differences[0].estimate for r in reports.values())
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


class PickySource(PatchSource):
    """Reads a record only when its first sample is valid."""

    def token_layers(self, samples: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
        layers, valid = super().token_layers(samples)
        return layers, valid & torch.from_numpy(samples[:, :1, 0] != INVALID)


def test_records_that_some_source_cannot_read_are_left_out_for_all_and_counted(
    store: Store, tmp_path: Path
) -> None:
    records = [store.take([row])[0] for row in range(len(store))]
    test, train = store.rows("test")[-2:], store.rows("train")[0]
    records[train] = np.full_like(records[train], INVALID)
    for row in test:
        records[row][0] = INVALID  # only the floor cannot read these
    labels = [store.labels.of(row) for row in range(len(store))]
    holes = write_store(tmp_path / "holes", records, folds=store.folds.tolist(), labels=labels)
    report = probe([PatchSource("a"), PickySource("b")], holes, HELD, resamples=20)
    assert report.records_left_out == {"train": 1, "validation": 0, "test": 2}
    assert report.as_json()["records_left_out"] == {"train": 1, "validation": 0, "test": 2}
    before = probe([PatchSource("a")], store, HELD, resamples=20).records
    assert report.records["train"] == before["train"] - 1
    assert report.records["test"] == before["test"] - 2
    assert {label.records for label in report.rows[0].score.labels} == {report.records["test"]}
    text = " ".join(printed(report, 80).split())
    assert "3 records without a valid token left out (train 1, test 2)" in text

    # As if they were not in the store at all.
    kept = np.delete(np.arange(len(records)), [train, *test])
    clean = write_store(
        tmp_path / "clean", [records[i] for i in kept], folds=store.folds[kept].tolist(),
        labels=[labels[i] for i in kept],
    )  # fmt: skip
    alone = probe([PatchSource("a")], clean, HELD, resamples=20)
    assert alone.rows[0].score == report.rows[0].score


def test_a_split_without_a_readable_record_is_an_error(store: Store, tmp_path: Path) -> None:
    records = [store.take([row])[0] for row in range(len(store))]
    for row in store.rows("validation"):
        records[row][:] = INVALID
    labels = [store.labels.of(row) for row in range(len(store))]
    blank = write_store(tmp_path / "blank", records, folds=store.folds.tolist(), labels=labels)
    with pytest.raises(LatentcastError, match="with a valid token in the validation split"):
        probe([PatchSource()], blank, HELD)


def test_an_empty_test_fold_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [rng.integers(-99, 99, (40, 2)).astype(np.int16) for _ in range(20)]
    labels = [{"NORM": 1.0} if i % 2 else {} for i in range(20)]
    small = write_store(tmp_path / "s", records, folds=[1] * 10 + [9] * 10, labels=labels)
    with pytest.raises(LatentcastError, match="test split"):
        probe([PatchSource()], small, Task("one", {"NORM": ("NORM",)}, True))
