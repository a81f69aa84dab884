"""kNN and linear probe of images: against references, against peeking, next to their floors."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.evaluation import classification, metrics
from latentcast.evaluation.classification import classify, redrawn_accuracies
from latentcast.evaluation.classification_results import ClassificationReport
from latentcast.evaluation.features import extract_images
from latentcast.evaluation.multinomial import PENALTIES, fit_head, regression_path
from latentcast.evaluation.pixels import PixelSource
from latentcast.evaluation.results import interval

DIGITS = Path(__file__).parents[2] / "data" / "digits" / "digits.npz"


class Images:
    """A store of images in memory: what :class:`Store` gives the evaluation."""

    def __init__(
        self,
        pixels: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        folds: Sequence[str] | np.ndarray,
        classes: tuple[str, ...] = ("ant", "bee", "cat"),
        name: str = "images",
    ) -> None:
        self.path, self.classes = Path(name), classes
        self.pixels, self.class_ids = pixels, np.asarray(labels, dtype=np.int64)
        self.folds = np.asarray(folds)
        self.height, self.width, self.channels = pixels.shape[1:]
        self.record_ids = np.array([f"{name}-{i}" for i in range(len(pixels))])
        self.checksums = {"shard-00000.npy": f"{name} {pixels.sum()}"}

    def rows(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.folds == split)

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


def images(n: int = 600, seed: int = 0, classes: int = 3, **changes: Any) -> Images:
    """Noise with a class in the brightness of one quarter; 60 % train, 20 % validation, test."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    pixels = rng.normal(100, 40, (n, 6, 6, 1))
    for i, c in enumerate(labels):
        pixels[i, 3 * (c // 2) : 3 * (c // 2) + 3, 3 * (c % 2) : 3 * (c % 2) + 3] += 25
    folds = np.array(["train"] * 3 + ["validation", "test"])[np.arange(n) % 5]
    made = {"labels": labels, "folds": folds} | changes
    return Images(pixels.clip(0, 255).astype(np.uint8), **made)


class Patches(torch.nn.Module):
    """A fake encoder: noise, raw 3 × 3 patches, and their projection."""

    def __init__(self, name: str = "encoder", *, seed: int = 0, causal: bool = False) -> None:
        super().__init__()
        self.name, self.causal = name, causal
        self.layer_names = ("embedding", "block 1", "norm")
        self.project = torch.nn.Linear(9, 5)
        self.dropout = torch.nn.Dropout(0.5)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.project.weight.copy_(torch.randn(5, 9, generator=generator))

    def token_layers(self, samples: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
        assert samples.dtype == np.uint8
        x = torch.from_numpy(samples).float() / 255
        b, h, w, _ = x.shape
        x = x.reshape(b, h // 3, 3, w // 3, 3).permute(0, 1, 3, 2, 4).reshape(b, -1, 9)
        weight = torch.arange(1.0, 1 + x.shape[1])[:, None]  # the mean must tell places apart
        noise = (x * 1e4).sin()
        layers = [noise, weight * self.dropout(x), self.project(weight * self.dropout(x)).tanh()]
        return layers, torch.ones(x.shape[:2], dtype=torch.bool)


def correlated(n: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features with a condition number in the thousands, and classes."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, width)) * np.arange(1, width + 1) ** -1.5
    x = hidden @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    scores = 9 * hidden[:, :classes] + rng.normal(size=(n, classes)) - np.arange(classes)
    return (x - x.mean(axis=0)) / x.std(axis=0), scores.argmax(axis=1)


def test_every_penalty_equals_scikit_learn_whatever_stands_before_it() -> None:
    x, y = correlated(500, 30, 4)
    x = x + 2.0  # not centred: the intercept has to carry it
    for penalty, weights, intercepts in regression_path(x, y, PENALTIES):
        reference = LogisticRegression(C=penalty, tol=1e-10, max_iter=20_000).fit(x, y)
        exact = reference.coef_.T
        assert np.linalg.norm(weights - exact) < 0.01 * np.linalg.norm(exact)
        # A constant over all intercepts changes nothing.
        ours, theirs = x @ weights + intercepts, x @ exact + reference.intercept_
        ours, theirs = (held - held.mean(axis=1, keepdims=True) for held in (ours, theirs))
        assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()


def test_a_collapsed_encoder_gives_the_frequencies_and_one_class_is_refused() -> None:
    y = np.repeat([0, 1, 2], [4, 6, 10])
    for _, weights, intercepts in regression_path(np.zeros((20, 6)), y, PENALTIES):
        assert (weights == 0).all()
        share = np.exp(intercepts) / np.exp(intercepts).sum()
        np.testing.assert_allclose(share, [0.2, 0.3, 0.5], atol=1e-6)
    with pytest.raises(LatentcastError, match="of one class; give images of two"):
        next(regression_path(np.eye(3), np.zeros(3, np.int64), PENALTIES))


def test_the_solver_gives_the_same_bits_on_two_threads_and_in_no_grad() -> None:
    x, y = correlated(400, 20, 3)
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


def test_the_penalty_follows_the_validation_images() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    x = rng.normal(size=(600, 150)).astype(np.float32)
    x[np.arange(600), y] += 1.0  # three weak features among noise: weak penalties overfit
    noisy = fit_head(x[:300], y[:300], x[300:], y[300:])
    assert noisy.penalty < 1.0
    easy = np.eye(3, dtype=np.float32)[y]
    head = fit_head(easy[:300], y[:300], easy[300:], y[300:])
    assert head.validation == 1.0 and head.penalty < 1.0  # a draw: the stronger one


def test_a_class_without_a_training_image_is_never_named_and_counts_as_a_miss() -> None:
    store = images(classes=4)
    store.classes = ("ant", "bee", "cat", "dog")
    gone = (store.class_ids == 1) & (store.folds == "train")
    store.class_ids[gone] = -1
    report = classify([PixelSource.from_store(store)], store, resamples=20)
    assert report.classes[1].images["train"] == 0 < report.classes[1].images["test"]
    assert report.images_left_out == {"train": gone.sum(), "validation": 0, "test": 0}
    missed = report.classes[1].images["test"] / report.images["test"]
    for row in report.rows:
        assert 0.4 < row.accuracy.value <= 1 - missed


def test_report_has_every_row_difference_class_and_source_of_the_numbers(tmp_path: Path) -> None:
    store = images()
    sources = [Patches("trained", seed=1), Patches("random init", seed=2), PixelSource(6, 6, 1)]
    report = classify(sources, store, resamples=100, seed=7, k=5, provenance={"command": "probe"})
    assert [(row.name, row.head, row.choice) for row in report.rows] == [
        ("trained", "kNN", "chosen on validation"),
        ("trained", "linear", "chosen on validation"),
        ("random init", "kNN", "chosen on validation"),
        ("random init", "kNN", "layer of trained"),
        ("random init", "linear", "chosen on validation"),
        ("random init", "linear", "layer of trained"),
        ("pixels", "kNN", "chosen on validation"),
        ("pixels", "linear", "chosen on validation"),
    ]
    first = {row.head: row for row in report.rows[:2]}
    for row in report.rows:
        assert row.layer != "embedding"  # noise
        assert (row.penalty is None) == (row.head == "kNN")
        assert row.accuracy.low < row.accuracy.value < row.accuracy.high
        if row.choice == "layer of trained":
            assert row.layer == first[row.head].layer
    rest = [row for row in report.rows if row.name != "trained"]
    for difference, row in zip(report.differences, rest, strict=True):
        assert (difference.reference, difference.head, difference.choice) == (
            row.name, row.head, row.choice,
        )  # fmt: skip
        gap = first[row.head].accuracy.value - row.accuracy.value
        assert difference.estimate.value == pytest.approx(gap)
    assert report.images == {"train": 360, "validation": 120, "test": 120}
    assert report.classes[2].images["test"] == (store.class_ids[store.rows("test")] == 2).sum()

    path = report.write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["probe-classes.json"]
    read = json.loads(path.read_text())
    assert read == report.as_dict()
    assert read["rows"][0]["accuracy"]["value"] == report.rows[0].accuracy.value
    assert read["data"]["shards"] == store.checksums
    assert read["provenance"] == {"command": "probe"}
    assert read["bootstrap"]["unit"] == "image" and read["bootstrap"]["units"] == 120
    assert classify(sources, store, resamples=100, seed=7, k=5).rows == report.rows
    with pytest.raises(LatentcastError, match="gone/probe-classes.json: cannot.*probe again"):
        report.write(tmp_path / "gone")


def printed(report: ClassificationReport, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    report.render(console)
    return console.export_text()


@pytest.mark.parametrize("name", ["pretrained", "ijepa-image-tiny (step-00004000, student)"])
def test_a_terminal_of_80_columns_shows_every_number_whole(name: str) -> None:
    store = images(n=300, classes=3)
    store.classes = ("[red]", "bee", "cat")  # a folder's name is no markup
    store.class_ids[:3] = -1
    sources = [Patches(name), Patches("random-initialised", seed=3), PixelSource(6, 6, 1)]
    report = classify(sources, store, resamples=30)
    lines = printed(report).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines) and any(line.startswith("[red] ") for line in lines)
    shown = [interval(row.accuracy) for row in report.rows]
    shown += [interval(d.estimate, signed=True) for d in report.differences]
    for numbers in shown:
        assert sum(line.count(numbers) for line in lines) >= shown.count(numbers), numbers
    text = " ".join("".join(f"{line} " for line in lines).split())
    assert "3 without a label left out" in text
    assert f"most frequent class: {report.majority:.3f}" in text


def test_many_classes_are_summed_up_and_not_listed() -> None:
    store = images(n=300, classes=3)
    store.classes = ("ant", "bee", "cat", *(f"class {i}" for i in range(30)))
    text = printed(classify([PixelSource(6, 6, 1)], store, resamples=10))
    assert "33 classes; images of each: train 0 to" in " ".join(text.split())
    assert "class 7" not in text


def test_the_test_split_has_no_say_in_layer_penalty_or_validation() -> None:
    store = images()
    sources = [Patches("a", seed=1), PixelSource(6, 6, 1)]
    before = classify(sources, store, resamples=10)
    test = store.rows("test")
    store.pixels = store.pixels.copy()
    store.pixels[test] = np.random.default_rng(9).integers(0, 256, store.pixels[test].shape)
    store.class_ids[test] = (store.class_ids[test] + 1) % 3
    after = classify(sources, store, resamples=10)
    chosen = [[(r.layer, r.penalty, r.validation) for r in x.rows] for x in (before, after)]
    assert chosen[0] == chosen[1]
    assert [r.accuracy for r in before.rows] != [r.accuracy for r in after.rows]


def test_layers_are_compared_on_some_images_and_scored_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, seen = images(), []

    def watched(train: np.ndarray, *rest: np.ndarray) -> Any:
        seen.append(len(train))
        return fit_head(train, *rest)

    monkeypatch.setattr(classification, "fit_head", watched)
    monkeypatch.setattr(classification, "COMPARED", 50)
    report = classify([Patches("a"), PixelSource(6, 6, 1)], store, resamples=10)
    assert seen == [50, 50, 50, 360, 360]  # three layers, the chosen one, the pixels
    assert report.compared == 50
    assert "layers compared on 50 training images" in " ".join(printed(report).split())


def test_a_named_layer_is_read_everywhere_it_exists() -> None:
    store = images(n=200)
    sources = [Patches("a"), Patches("b", seed=2), PixelSource(6, 6, 1)]
    report = classify(sources, store, layer="block 1", resamples=10)
    assert [(r.layer, r.choice) for r in report.rows] == [
        *[("block 1", "named")] * 4, *[("pixels", "chosen on validation")] * 2,
    ]  # fmt: skip
    with pytest.raises(LatentcastError, match="layer block1: a has none; did you mean 'block 1'"):
        classify(sources, store, layer="block1")


def test_the_evaluation_neither_freezes_nor_changes_the_callers_model() -> None:
    """H-JEPA defect 21: the kNN evaluator froze the model it was given for good."""
    model = Patches("a")
    model.dropout.eval()
    modes = [module.training for module in model.modules()]
    held = {name: value.clone() for name, value in model.state_dict().items()}
    classify([model], images(n=200), resamples=10)
    assert [module.training for module in model.modules()] == modes == [True, True, False]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all((model.state_dict()[name] == value).all() for name, value in held.items())
    assert torch.is_grad_enabled()


def test_features_are_those_of_each_image_without_dropout_in_the_order_asked_for() -> None:
    store, model = images(n=300), Patches("a")
    rows = np.array([250, 3, 77, 3, *range(200)])  # several batches
    layers = extract_images(model, store, rows)  # type: ignore[arg-type]
    assert tuple(layers) == model.layer_names
    model.eval()
    for i, row in enumerate(rows[:20]):
        tokens, _ = model.token_layers(store.take(np.array([row])))
        expected = tokens[2][0].mean(dim=0).detach().numpy()
        np.testing.assert_allclose(layers["norm"][i], expected, atol=1e-6)
    model.project.weight.data[0, 0] = torch.nan
    with pytest.raises(LatentcastError, match="layer norm: features are not finite"):
        extract_images(model, store, rows)  # type: ignore[arg-type]
    model.layer_names = ("norm",)
    with pytest.raises(LatentcastError, match="names 1 layers and returns 3"):
        extract_images(model, store, rows)  # type: ignore[arg-type]


def test_resamples_are_those_of_the_records_bootstrap_and_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random((80, 3)) < [0.5, 0.7, 0.9]
    counts = metrics.draw([""] * 80, 25, seed=4)
    np.testing.assert_allclose(redrawn_accuracies(hits, 25, 4), counts @ hits / 80)
    # Two readings that differ in a few images: their difference is known far better than either.
    first = rng.random(500) < 0.6
    second = first.copy()
    second[:15] = False
    redrawn = redrawn_accuracies(np.stack([first, second], axis=1), 400, 0)
    assert (redrawn[:, 0] - redrawn[:, 1]).std() < 0.35 * redrawn[:, 0].std()
    twins = classify([Patches("a", seed=1), Patches("b", seed=1)], images(n=200), resamples=50)
    for difference in twins.differences:
        assert difference.estimate == metrics.Estimate(0.0, 0.0, 0.0)


def test_an_interval_covers_the_true_accuracy_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        redrawn = redrawn_accuracies(rng.random((300, 1)) < 0.8, 200, trial)
        low, high = np.quantile(redrawn, [0.025, 0.975])
        covered += low <= 0.8 <= high
    assert 180 <= covered <= 199


def test_a_store_that_cannot_be_scored_says_why_and_what_to_do() -> None:
    source = PixelSource(6, 6, 1)
    with pytest.raises(LatentcastError, match="holds no labels; ingest images in one folder a"):
        classify([source], images(classes=3, labels=[-1] * 600))
    unnamed = images()
    unnamed.classes = ()
    with pytest.raises(LatentcastError, match="images: holds no labels"):
        classify([source], unnamed)
    one = images()
    one.class_ids[one.rows("train")] = 1
    with pytest.raises(LatentcastError, match="train split are of class 'bee'; ingest images of"):
        classify([source], one)
    lacking = images()
    lacking.class_ids[lacking.rows("validation")] = -1
    with pytest.raises(LatentcastError, match="no labelled image in the validation split"):
        classify([source], lacking)
    with pytest.raises(LatentcastError, match="token 0 sees only itself"):
        classify([Patches(causal=True)], images(), pooling="cls")
    with pytest.raises(LatentcastError, match="one name; name them apart"):
        classify([source, source], images())
    with pytest.raises(LatentcastError, match="k is 0"):
        classify([source], images(), k=0)
    with pytest.raises(LatentcastError, match="resamples 0; ask for one or more"):
        classify([source], images(), resamples=0)


def test_copies_across_splits_and_of_test_images_in_pretraining_stop_the_probe() -> None:
    store = images(n=100)
    source = PixelSource(6, 6, 1)
    train, test = store.rows("train"), store.rows("test")
    store.pixels[train[1]] = store.pixels[train[0]]  # a copy within a split is none of its business
    other = images(n=40, seed=5, name="other")
    classify([source], store, pretraining=other, resamples=10)
    classify([source], store, pretraining=store, resamples=10)
    other.pixels[other.rows("test")[0]] = store.pixels[test[3]]  # was not trained on
    classify([source], store, pretraining=other, resamples=10)
    other.pixels[other.rows("train")[0]] = store.pixels[test[3]]
    with pytest.raises(LatentcastError, match=f"test image in pretraining: 1 .*images-{test[3]}"):
        classify([source], store, pretraining=other)
    for held, also in (("train", "test"), ("validation", "test"), ("train", "validation")):
        leaky = images(n=100)
        leaky.pixels[leaky.rows(held)[2]] = leaky.pixels[leaky.rows(also)[1]]
        with pytest.raises(LatentcastError, match="images: image in two splits: 1 cases"):
            classify([source], leaky)
    unlabelled = images(n=100)
    unlabelled.pixels[train[2]] = unlabelled.pixels[test[1]]
    unlabelled.class_ids[train[2]] = -1  # pretraining reads it all the same
    with pytest.raises(LatentcastError, match="image in two splits"):
        classify([source], unlabelled)


def test_the_pixel_floor_reads_small_images_whole_and_large_ones_by_averages() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    source = PixelSource(8, 8, 1)
    layers, valid = source.token_layers(small)
    np.testing.assert_allclose(layers[0][:, 0], small.reshape(3, -1) / 255, rtol=1e-6)
    assert valid.shape == (3, 1) and valid.all() and source.pooling == "8 × 8"
    large = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    source = PixelSource(32, 32, 3)
    token = source.token_layers(large)[0][0][1, 0].reshape(3, 8, 8)
    assert source.pooling == "8 × 8"
    np.testing.assert_allclose(token[2, 0, 1], large[1, :4, 4:8, 2].mean() / 255, rtol=1e-5)
    for height, width in ((500, 3), (225, 31)):
        layers, _ = PixelSource(height, width, 3).token_layers(
            np.zeros((1, height, width, 3), np.uint8)
        )
        assert layers[0].shape[-1] <= 256


def test_digits_are_scored_from_their_store_with_intervals_and_floors(tmp_path: Path) -> None:
    store = ingest(DIGITS, tmp_path / "store", workers=1, quiet=True).store

    class Edge(PixelSource):
        name = "upper edge"
        layer_names = ("edge",)

        def token_layers(self, samples: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
            layers, valid = super().token_layers(samples)
            return [layers[0][..., :12]], valid

    floor = Edge.from_store(store)
    report = classify([PixelSource.from_store(store), floor], store, resamples=200)
    assert sum(report.images.values()) == len(store) and len(report.classes) == 10
    nearest, linear, *_ = report.rows
    assert nearest.accuracy.value > 0.95 and linear.accuracy.value > 0.93
    assert [d.estimate.outcome for d in report.differences] == ["better", "better"]
    assert report.data["shards"] == store.checksums
    assert 0.05 < report.majority < 0.2
