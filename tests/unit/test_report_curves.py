"""Training curves from rows that may lack keys, repeat steps or hold no number."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from latentcast.report.curves import MOST_POINTS, first_alarms, panels, plot_curves

pytest.importorskip("matplotlib")


def panel(figure: Any, title: str) -> Any:
    """The axes of the panel with this title."""
    (found,) = [axes for axes in figure.axes if title in [t.get_text() for t in axes.texts]]
    return found


def line(axes: Any, key: str) -> Any:
    (found,) = [line for line in axes.lines if line.get_gid() == key]
    return found


def texts(axes: Any) -> str:
    return " | ".join(text.get_text() for text in axes.texts)


@pytest.mark.parametrize(
    "rows",
    [[], [{}], [{"loss": -0.1}], [{"step": 1}], [{"step": None, "loss": 1.0}, {"step": "x"}]],
)
def test_rows_without_keys_give_empty_panels_that_say_so(rows: list[dict[str, Any]]) -> None:
    figure = plot_curves(rows)
    figure.draw_without_rendering()
    assert [("not logged" in texts(axes)) for axes in figure.axes] == [True] * 3


def test_values_that_are_no_numbers_are_gaps_and_not_zeros() -> None:
    rows = [{"step": s, "loss": v} for s, v in enumerate([-0.1, None, float("nan"), "x", -0.3])]
    drawn = line(panel(plot_curves(rows), "Loss"), "loss")
    np.testing.assert_array_equal(drawn.get_xydata(), [(0, -0.1), (4, -0.3)])


def test_a_step_written_twice_by_a_resumed_run_counts_with_its_last_row() -> None:
    rows = [{"step": s, "loss": v} for s, v in [(1, 0.9), (2, 0.8), (3, 0.1), (2, 0.5), (3, 0.4)]]
    drawn = line(panel(plot_curves(rows), "Loss"), "loss")
    np.testing.assert_array_equal(drawn.get_xydata(), [(1, 0.9), (2, 0.5), (3, 0.4)])


def test_the_copying_predictor_stands_on_the_axes_of_the_loss() -> None:
    rows = [{"step": s, "loss": -0.1 * s, "copy_last_loss": -0.2} for s in range(1, 5)]
    axes = panel(plot_curves(rows), "Loss")
    assert set(line(axes, "copy_last_loss").get_ydata()) == {-0.2}
    assert line(axes, "loss").get_ydata()[-1] == -0.4


def test_binning_keeps_the_mean_and_a_spike_stays_visible() -> None:
    values = np.random.default_rng(0).normal(size=MOST_POINTS * 10)
    values[1234] = 50.0
    axes = panel(plot_curves([{"step": i, "loss": v} for i, v in enumerate(values)]), "Loss")
    binned = line(axes, "loss").get_ydata()
    assert len(binned) == MOST_POINTS
    assert binned.mean() == pytest.approx(values.mean())
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 1].max() == 50.0


def test_an_alarm_is_marked_in_its_own_panel_from_its_first_step() -> None:
    rows = [
        {"step": s, "level0_output_rank": 1.0, "loss": 0.1,
         "alarms": ["level0_output-rank-collapse"] * (s > 30)}
        for s in range(10, 60, 10)
    ]  # fmt: skip
    figure = plot_curves(rows)
    marks = [line for line in panel(figure, "Effective rank").lines if line.get_gid() == "alarm"]
    assert [mark.get_xdata()[0] for mark in marks] == [40]
    assert "level0_output-rank-collapse, step 40" in texts(panel(figure, "Effective rank"))
    assert not [line for line in panel(figure, "Loss").lines if line.get_gid() == "alarm"]


def test_first_alarms_counts_rows_and_keeps_the_first_step() -> None:
    rows = [{"step": 5, "alarms": ["b"]}, {"step": 9, "alarms": ["a", "b"]}, {"step": 12}]
    assert first_alarms(rows) == {"b": (5, 2), "a": (9, 1)}


def test_constant_and_negative_values_fit_into_their_panel() -> None:
    rows = [
        {"step": s, "lr": 0.0, "level0_output_std": -1.0, "level0_target_std": 2.0} for s in (1, 2)
    ]
    figure = plot_curves(rows)
    figure.draw_without_rendering()
    low, high = panel(figure, "Std per dimension").get_ylim()
    assert low <= -1.0 and high > 2.0
    assert panel(figure, "Learning rate").get_ylim()[1] > 0


def level_rows(levels: int, momentum: float = 0.99, **also: float) -> list[dict[str, Any]]:
    """Rows of a JEPA run in which every value is another number."""
    kinds = ("rank", "lidar", "mean_norm", "std", "between")
    rows: list[dict[str, Any]] = []
    for step in (1, 2, 3):
        row = {"step": step, "loss": 0.5, "lr": 1e-3, "samples_per_second": 9.0, "alarms": []}
        row |= {"momentum": momentum, "teacher_distance": momentum and 0.01 * step, **also}
        for n in range(levels):
            row[f"level{n}_loss"] = 0.4 + n
            for view in ("context", "target", "prediction"):
                row |= {f"level{n}_{view}_{kind}": 1.0 + n for kind in kinds}
        rows.append(row)
    return rows


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_each_level_of_a_jepa_run_has_its_lines(levels: int) -> None:
    figure = plot_curves(level_rows(levels))
    figure.draw_without_rendering()
    for title, keys in {
        "Loss": ["level{}_loss"],
        "Effective rank": ["level{}_target_rank", "level{}_prediction_rank"],
        "LiDAR of the targets": ["level{}_target_lidar"],
        "Norm of the mean direction": ["level{}_target_mean_norm", "level{}_prediction_mean_norm"],
        "Std per dimension": ["level{}_target_std", "level{}_prediction_std"],
        "Variance between samples": ["level{}_target_between"],
    }.items():
        axes = panel(figure, title)
        for n in range(levels):
            for key in keys:
                assert len(line(axes, key.format(n)).get_ydata()) == 3
    assert not [axes for axes in figure.axes if "not logged" in texts(axes)]
    named = texts(panel(figure, "Effective rank"))
    if levels > 1:
        assert all(f"level {n}" in named for n in range(levels)) and "dashed: pred" in named
        colours = [line(axes, key.format(n)).get_color() for n in range(levels)]
        assert len(set(colours)) == levels
    else:
        assert "targets" in named and "predic" in named and "level" not in named


def test_the_teacher_is_drawn_when_there_is_one_and_the_regularizer_too() -> None:
    def titles(rows: list[dict[str, Any]]) -> set[str]:
        return {p.title for p in panels(rows)}

    teacher, regularizer = {"Teacher from student", "EMA momentum"}, {"Regularizer"}
    with_teacher, without = level_rows(2), level_rows(2, momentum=0.0, regularizer=1.2)
    assert titles(with_teacher) - titles(without) == teacher
    assert titles(without) - titles(with_teacher) == regularizer
    figure = plot_curves(with_teacher)
    assert line(panel(figure, "Teacher from student"), "teacher_distance").get_ydata()[-1] == 0.03
    assert line(panel(figure, "EMA momentum"), "momentum").get_ydata()[-1] == 0.99


@pytest.mark.parametrize(
    ("alarm", "title"),
    [
        ("level1_target-rank-collapse", "Effective rank"),
        ("level0_context-constant-direction", "Norm of the mean direction"),
        ("level1_prediction-constant", "Std per dimension"),
        ("level0_target-dead-dimensions", "Std per dimension"),
        ("level1_target-same-for-all-samples", "Variance between samples"),
    ],
)
def test_an_alarm_of_a_level_shades_one_panel(alarm: str, title: str) -> None:
    rows = level_rows(2)
    rows[1]["alarms"] = [alarm]
    figure = plot_curves(rows)
    marked = [axes for axes in figure.axes if any(x.get_gid() == "alarm" for x in axes.lines)]
    assert marked == [panel(figure, title)]


def test_names_of_many_lines_do_not_print_over_each_other() -> None:
    rows = level_rows(4)
    for row in rows:
        row |= {f"level{n}_target_lidar": 5 + 0.001 * n for n in range(4)}
    figure = plot_curves(rows)
    figure.draw_without_rendering()
    names = [t for t in panel(figure, "LiDAR of the targets").texts if "level" in t.get_text()]
    boxes = sorted((t.get_window_extent() for t in names), key=lambda box: box.y0)
    assert len(boxes) == 4
    assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))


def test_the_step_is_under_the_lowest_panel_of_each_column() -> None:
    figure = plot_curves(level_rows(2))
    assert len(figure.axes) % 3  # a last row that is not full
    labelled = [place for place, axes in enumerate(figure.axes) if axes.get_xlabel()]
    assert labelled == list(range(len(figure.axes) - 3, len(figure.axes)))


def test_the_online_probe_has_a_panel_only_where_there_was_one() -> None:
    looked = [{"step": s, "loss": 1.0} | ({"online_knn": s / 9} if s % 3 == 0 else {})
              for s in range(1, 10)]  # fmt: skip
    axes = panel(plot_curves(looked), "Online probe")
    np.testing.assert_allclose(line(axes, "online_knn").get_xdata(), [3, 6, 9])
    assert "to watch, not to report" in texts(axes) and "kNN" in texts(axes)
    assert "Online probe" not in [drawn.title for drawn in panels([{"step": 1, "loss": 1.0}])]
    levels = [{"step": 1, "level0_loss": 1.0, "online_linear": 0.5}]
    assert "Online probe" in [drawn.title for drawn in panels(levels)]


@pytest.mark.parametrize("level", ["", "level0_"])
def test_a_spike_is_drawn_where_the_loss_is(level: str) -> None:
    rows = [{"step": s, "loss": 1.0, f"{level}loss": 1.0, "alarms": ["loss-spike"] * (s == 3)}
            for s in range(1, 5)]  # fmt: skip
    assert "loss-spike, step 3" in texts(panel(plot_curves(rows), "Loss"))
