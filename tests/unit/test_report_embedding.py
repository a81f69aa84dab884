"""The map of features: reproducible, honest about records with several classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentcast.errors import LatentcastError
from latentcast.report import embedding
from latentcast.report.embedding import MOST_CLASSES, plot_embedding, project, thinned

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

CLASSES = ("NORM", "MI", "STTC")


def features(n: int = 40, width: int = 12) -> Any:
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def labels(n: int = 40) -> Any:
    """Ten records a class in turn, then ten of several or none."""
    table = np.zeros((n, 3), dtype=bool)
    table[np.arange(30), np.arange(30) % 3] = True
    table[30:35] = True
    return table


def test_the_same_features_give_the_same_points() -> None:
    one, other = project(features(), 3), project(features(), 3)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[2], other[2])


def test_principal_components_agree_with_a_singular_value_decomposition() -> None:
    x = features().astype(np.float64) * np.linspace(1, 1000, 12)
    standard = (x - x.mean(0)) / x.std(0)
    u, s, _ = np.linalg.svd(standard, full_matrices=False)
    points, share, _ = project(x, 0)
    np.testing.assert_allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), atol=1e-8)
    assert share == pytest.approx((s[:2] ** 2).sum() / (s**2).sum())


def test_tsne_keeps_two_far_groups_apart() -> None:
    x = features()
    x[20:] += 25.0
    _, _, points = project(x, 0)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    assert ((gaps.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()


def test_a_record_with_several_classes_or_none_is_grey() -> None:
    figure = plot_embedding(features(), labels(), CLASSES)
    assert [len(c.get_offsets()) for c in figure.axes[0].collections] == [10, 10, 10, 10]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["several or none", "NORM", "MI", "STTC"]
    # In its own small panel a class shows all of its records.
    assert [len(axes.collections[1].get_offsets()) for axes in figure.axes[2:]] == [15, 15, 15]


def test_a_large_fold_is_thinned_with_labels_and_features_in_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "MOST_RECORDS", 20)
    x = np.tile(np.arange(40.0)[:, None], (1, 4))
    mapped: list[Any] = []

    def watched(kept: Any, seed: int) -> Any:
        mapped.append(kept)
        return kept[:, :2], 1.0, kept[:, :2]

    monkeypatch.setattr(embedding, "project", watched)
    table = np.arange(40)[:, None] < 17
    figure = plot_embedding(x, table, ("low",))
    low = figure.axes[2].collections[1].get_offsets()[:, 0]
    assert len(mapped[0]) == 20 and len(set(mapped[0][:, 0])) == 20
    np.testing.assert_array_equal(np.sort(low), mapped[0][mapped[0][:, 0] < 17, 0])


def test_of_many_classes_the_most_frequent_of_the_shown_records_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "MOST_RECORDS", 60)
    names = tuple("abcdefghijkl")
    counts = [3, 50, 9, 40, 0, 30, 1, 20, 25, 8, 45, 35]
    table = np.arange(60)[:, None] < np.array(counts)
    x, y, drawn = thinned(features(60), table, names)
    assert drawn == tuple("bcdfhikl") and y.sum(axis=0).tolist() == [50, 9, 40, 30, 20, 25, 45, 35]
    np.testing.assert_array_equal(x, features(60))
    more = np.zeros((3000, 12), dtype=bool)
    more[:, 4] = True
    _, y, drawn = thinned(features(3060), np.vstack([table, more]), names)
    assert len(y) == 60 and "e" in drawn and y[:, drawn.index("e")].sum() > 40
    again = thinned(features(60), table[:, :MOST_CLASSES], names[:MOST_CLASSES])
    assert again[2] == names[:MOST_CLASSES]  # none left out, none moved

    figure = plot_embedding(features(60), table, names)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x1 < figure.bbox.x1  # nine names fit the page, and lie on no map
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
    titles = [axes.get_title(loc="left") for axes in figure.axes[2:]]
    assert titles == [f"{n}\nn = {counts[names.index(n)]}" for n in "bcdfhikl"]


def test_small_maps_of_long_names_can_be_told_apart_and_are_not_stretched() -> None:
    devices = (
        "AT-6     6",
        "AT-6 C 5.5",
        "AT-6 C 5.8",
        "AT-60    3",
        "CS-12",
        "CS-12   E",
        "CS100",
    )
    table = np.arange(40)[:, None] % len(devices) == np.arange(len(devices))
    figure = plot_embedding(features(), table, devices, grey="another or none")
    titles = [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes[2:]]
    assert titles == [" ".join(device.split()) for device in devices]
    # Every record has a device: nothing is grey.
    assert len(figure.legends[0].get_texts()) == len(devices)
    two = plot_embedding(features(), labels()[:, :2], CLASSES[:2])
    two.draw_without_rendering()
    panel = two.axes[2].get_window_extent()
    assert 0.8 < panel.width / panel.height < 1.3


def test_a_collapsed_encoder_has_a_map_that_says_so() -> None:
    # 37 x 0.1 is not 3.7 in floating point: the deviation is tiny and not 0.
    figure = plot_embedding(np.full((37, 6), 0.1), labels()[:37], CLASSES)
    figure.draw_without_rendering()
    assert "all records have the same features" in figure.axes[0].get_title(loc="left")


def test_many_copies_of_few_records_have_a_map() -> None:
    _, _, points = project(np.repeat(features(3), 20, axis=0), 0)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("width", [1, 2, 60])
def test_any_width_and_constant_features_have_a_map(width: int) -> None:
    x = features(width=width)
    x[:, width // 2 :] = 1.0
    points, share, neighbours = project(x, 0)
    assert points.shape == neighbours.shape == (40, 2)
    assert np.isfinite(points).all() and np.isfinite(neighbours).all() and 0 <= share <= 1


@pytest.mark.parametrize(
    ("x", "y", "classes", "named"),
    [
        (np.full((9, 3), np.nan), np.zeros((9, 1), bool), ("a",), "not finite"),
        (np.zeros((9, 3)), np.zeros((8, 1), bool), ("a",), "(8, 1)"),
        (np.zeros((9, 3)), np.zeros((9, 2), bool), ("a",), "1 classes"),
        (np.zeros((4, 3)), np.zeros((4, 1), bool), ("a",), "4 records"),
    ],
)
def test_input_that_cannot_be_mapped_is_refused(x: Any, y: Any, classes: Any, named: str) -> None:
    with pytest.raises(LatentcastError) as problem:
        plot_embedding(x, y, classes)
    assert named in str(problem.value)
