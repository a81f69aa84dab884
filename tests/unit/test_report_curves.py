"""Training curves from rows that may lack keys, repeat steps or hold no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentcast.report.curves import MOST_POINTS, PANELS, first_alarms, plot_curves

pytest.importorskip("matplotlib")


def panel(figure: Any, title: str) -> Any:
    """The axes of the panel with this title."""
    return figure.axes[[p.title for p in PANELS].index(title)]


def line(axes: Any, key: str) -> Any:
    (found,) = [line for line in axes.lines if line.get_gid() == key]
    return found


def said(axes: Any) -> str:
    return " | ".join(text.get_text() for text in axes.texts)


@pytest.mark.parametrize(
    "rows",
    [[], [{}], [{"loss": -0.1}], [{"step": 1}], [{"step": None, "loss": 1.0}, {"step": "x"}]],
)
def test_rows_without_keys_give_empty_panels_that_say_so(rows: list[dict[str, Any]]) -> None:
    figure = plot_curves(rows)
    figure.draw_without_rendering()
    assert [("not logged" in said(axes)) for axes in figure.axes] == [True] * 6


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
        {"step": s, "output_rank": 1.0, "loss": 0.1, "alarms": ["output-rank-collapse"] * (s > 30)}
        for s in range(10, 60, 10)
    ]
    figure = plot_curves(rows)
    marks = [line for line in panel(figure, "Effective rank").lines if line.get_gid() == "alarm"]
    assert [mark.get_xdata()[0] for mark in marks] == [40]
    assert "output-rank-collapse, step 40" in said(panel(figure, "Effective rank"))
    assert not [line for line in panel(figure, "Loss").lines if line.get_gid() == "alarm"]


def test_first_alarms_counts_rows_and_keeps_the_first_step() -> None:
    rows = [{"step": 5, "alarms": ["b"]}, {"step": 9, "alarms": ["a", "b"]}, {"step": 12}]
    assert first_alarms(rows) == {"b": (5, 2), "a": (9, 1)}


def test_constant_and_negative_values_fit_into_their_panel() -> None:
    rows = [{"step": s, "lr": 0.0, "output_std": -1.0, "target_std": 2.0} for s in (1, 2)]
    figure = plot_curves(rows)
    figure.draw_without_rendering()
    low, high = panel(figure, "Std per dimension").get_ylim()
    assert low <= -1.0 and high > 2.0
    assert panel(figure, "Learning rate").get_ylim()[1] > 0
