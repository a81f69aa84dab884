"""Clinical paper: scales, layout, what is not valid, and the model's error per patch."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentcast.errors import LatentcastError
from latentcast.recipes.ecg import hjepa_ecg_leads_tiny
from latentcast.report import paper
from latentcast.report.ecg import plot_recording
from latentcast.report.hierarchy import hierarchy
from latentcast.report.patch_error import PatchErrors
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.recording import Recording, from_signal

pytest.importorskip("matplotlib")

RATE = 100.0


def flat(leads: tuple[str, ...] = CANONICAL_LEADS, seconds: float = 10.0) -> Recording:
    signal = np.zeros((len(leads), round(seconds * RATE)), np.float32)
    return from_signal(signal, leads, RATE, "00017", patient_id="4711")


def step(lead: str, at: float, millivolts: float) -> Recording:
    """A lead that is 0 for most of the time and then ``millivolts`` from ``at`` seconds on."""
    recording = flat()
    signal = recording.signal.copy()
    signal[recording.leads.index(lead), round(at * RATE) :] = millivolts
    return replace(recording, signal=signal)


def drawn(figure: Any, gid: str) -> list[Any]:
    """Artists of the figure's single axes with this id."""
    return [artist for artist in figure.axes[0].get_children() if artist.get_gid() == gid]


def spans(figure: Any, gid: str) -> list[tuple[float, float]]:
    """Left and right edge of the boxes with this id, seconds."""
    edges = [(box.get_x(), box.get_x() + box.get_width()) for box in drawn(figure, gid)]
    return [
        tuple(round((x - paper.LEFT) / paper.MM_PER_SECOND, 6) for x in pair)  # type: ignore[misc]
        for pair in edges
    ]


@pytest.mark.parametrize("recording", [flat(), flat(("II",), 1.0), flat(("I", "V5"), 4.6)])
def test_a_millimetre_is_a_millimetre_on_paper_on_both_axes(recording: Recording) -> None:
    figure = plot_recording(recording, patch_errors=[0.5], patch_seconds=1.0)
    figure.draw_without_rendering()
    origin, right, up = figure.axes[0].transData.transform([(0, 0), (1, 0), (0, 1)])
    millimetre = figure.dpi / 25.4
    np.testing.assert_allclose(right - origin, [millimetre, 0], atol=1e-9)
    np.testing.assert_allclose(up - origin, [0, millimetre], atol=1e-9)


def test_one_millivolt_is_ten_millimetres_and_one_second_twenty_five() -> None:
    figure = plot_recording(step("II", at=8.0, millivolts=1.0))
    rhythm = max(drawn(figure, "trace-II"), key=lambda line: len(line.get_xdata()))
    x, y = rhythm.get_xdata(), rhythm.get_ydata()
    assert y[-1] - y[0] == pytest.approx(10.0)
    jump = int(np.argmax(np.diff(y)))
    assert x[jump + 1] - x[0] == pytest.approx(8.0 * 25.0)


def test_the_calibration_pulse_is_one_millivolt_for_a_fifth_of_a_second() -> None:
    for pulse in drawn(plot_recording(flat()), "calibration"):
        x, y = pulse.get_xdata(), pulse.get_ydata()
        assert y.max() - y.min() == 10.0
        top = x[y == y.max()]
        assert top.max() - top.min() == 5.0


def test_grid_lines_are_one_and_five_millimetres_apart_and_zero_is_on_a_heavy_one() -> None:
    figure = plot_recording(flat())
    for gap in (1.0, 5.0):
        (lines,) = drawn(figure, f"grid-{gap:g}mm")
        ends = np.array(lines.get_segments())
        for axis in (0, 1):
            along = np.unique(ends[ends[:, 0, axis] == ends[:, 1, axis]][:, 0, axis].round(6))
            np.testing.assert_allclose(np.diff(along), gap)
    heavy = {round(float(y), 6) for y in along}
    zeros = {round(float(t.get_ydata()[0]), 6) for t in figure.axes[0].lines if t.get_gid()}
    assert zeros <= heavy


def test_the_columns_of_the_standard_page_are_continuous_in_time() -> None:
    recording = flat()
    ramp = np.linspace(-0.5, 0.5, 1000, dtype=np.float32)
    recording = replace(recording, signal=np.tile(ramp, (12, 1)))
    figure = plot_recording(recording)
    assert len([line for line in figure.axes[0].lines if "trace" in (line.get_gid() or "")]) == 13
    for column, lead in enumerate(("aVF", "V3", "V6"), start=1):
        (line,) = drawn(figure, f"trace-{lead}")
        seconds = (line.get_xdata() - paper.LEFT) / 25.0
        np.testing.assert_allclose(seconds, np.arange(250) / 100 + 2.5 * column)
        shown = np.diff(line.get_ydata()) / 10.0
        np.testing.assert_allclose(shown, np.diff(ramp)[:249], atol=1e-6)


def test_leads_are_placed_by_name_and_not_by_row() -> None:
    recording = step("aVL", at=4.0, millivolts=1.0)
    order = list(range(12))[::-1]
    swapped = replace(
        recording,
        signal=recording.signal[order],
        valid=recording.valid[order],
        leads=tuple(recording.leads[i] for i in order),
    )
    for gid in ("trace-aVL", "trace-V1"):
        (one,), (other,) = (
            drawn(plot_recording(recording), gid),
            drawn(plot_recording(swapped), gid),
        )
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_invalid_stretches_are_hatched_where_they_are_and_nowhere_else() -> None:
    recording = flat(("I", "V5"), 6.0)
    valid = recording.valid.copy()
    valid[1, 150:275] = False
    valid[1, 590:] = False
    figure = plot_recording(replace(recording, valid=valid))
    assert spans(figure, "invalid-V5") == [(1.5, 2.75), (5.9, 6.0)]
    assert not drawn(figure, "invalid-I")
    assert all(box.get_hatch() for box in drawn(figure, "invalid-V5"))
    (trace,) = drawn(figure, "trace-V5")
    assert np.isnan(trace.get_ydata()[150:275]).all()
    assert np.isfinite(trace.get_ydata()[:150]).all()


def test_a_nan_is_hatched_even_where_the_mask_calls_it_valid() -> None:
    recording = flat(("I",), 2.0)
    signal = recording.signal.copy()
    signal[0, 50:100] = np.nan
    assert spans(plot_recording(replace(recording, signal=signal)), "invalid-I") == [(0.5, 1.0)]


def test_a_saturated_stretch_moves_no_trace_and_enters_no_other_row() -> None:
    clean = flat()
    valid, signal = clean.valid.copy(), clean.signal.copy()
    row = clean.leads.index("V2")  # shown from 5.0 to 7.5 s; saturated for most of the record
    for part in (slice(0, 520), slice(560, 600), slice(760, 1000)):
        signal[row, part], valid[row, part] = 32.0, False
    figure = plot_recording(replace(clean, signal=signal, valid=valid))
    (trace,), (expected,) = drawn(figure, "trace-V2"), drawn(plot_recording(clean), "trace-V2")
    seen = np.isfinite(trace.get_ydata())
    assert seen.sum() == 190
    np.testing.assert_allclose(trace.get_ydata()[seen], expected.get_ydata()[seen])
    box, _ = drawn(figure, "invalid-V2")
    for line in figure.axes[0].lines:
        if line.get_color() == paper.DOUBTFUL:
            heights = line.get_ydata()[np.isfinite(line.get_ydata())]
            assert ((heights >= box.get_y()) & (heights <= box.get_y() + box.get_height())).all()


def test_what_is_not_valid_in_a_stretch_that_the_layout_leaves_out_is_told() -> None:
    recording = flat()
    valid = recording.valid.copy()
    valid[recording.leads.index("V6"), :100] = False  # V6 is shown from 7.5 s on
    figure = plot_recording(replace(recording, valid=valid))
    (notes,) = [t.get_text() for t in figure.axes[0].texts if "median" in t.get_text()]
    assert "not shown: V6." in notes and "Hatched" not in notes


def test_tall_rows_get_paper_instead_of_running_into_their_neighbours() -> None:
    recording = flat(("V1", "V2", "V3"), 4.0)
    signal = recording.signal.copy()
    signal[:, 100:110], signal[:, 200:210] = 2.4, -2.4
    figure = plot_recording(replace(recording, signal=signal))
    rows = [drawn(figure, f"trace-{name}")[0].get_ydata() for name in recording.leads]
    for upper, lower in pairwise(rows):
        assert upper.min() > lower.max()


def test_an_error_that_is_nan_is_hatched_and_never_coloured_as_zero() -> None:
    errors = [0.0, 0.4, np.nan, np.nan, 0.8]
    figure = plot_recording(flat(), patch_errors=errors, patch_seconds=0.5)
    for patch in (2, 3):
        assert not drawn(figure, f"error-{patch}") and not drawn(figure, f"error-bar-{patch}")
    # Behind the traces and in the lane.
    assert spans(figure, "no-prediction") == [(1.0, 2.0), (1.0, 2.0)]
    assert all(box.get_hatch() for box in drawn(figure, "no-prediction"))
    for patch in (0, 1, 4):
        assert spans(figure, f"error-{patch}") == [(patch / 2, patch / 2 + 0.5)]


def test_a_larger_error_is_darker_and_its_bar_taller() -> None:
    figure = plot_recording(flat(), patch_errors=[0.0, 0.2, 0.5, 1.3], patch_seconds=0.2)
    tints = [sum(drawn(figure, f"error-{k}")[0].get_facecolor()[:3]) for k in range(4)]
    assert tints == sorted(tints, reverse=True) and tints[0] == 3.0
    bars = np.array([drawn(figure, f"error-bar-{k}")[0].get_height() for k in range(4)])
    np.testing.assert_allclose(bars / bars[-1], np.array([0.0, 0.2, 0.5, 1.3]) / 1.3)


def test_the_last_patch_ends_with_the_recording() -> None:
    figure = plot_recording(flat(("I",), 1.1), patch_errors=[0.1, 0.2, 0.3], patch_seconds=0.5)
    assert spans(figure, "error-2") == [(1.0, 1.1)]


@pytest.mark.parametrize("largest", [1e-4, 0.07, 0.31, 1.0, 1.01, 2.0])
def test_the_scale_holds_the_largest_error_and_wastes_at_most_half(largest: float) -> None:
    top = PatchErrors.checked([0.0, largest], 0.2, 10.0).top
    assert largest <= top * (1 + 1e-12) and top <= 2 * largest


@pytest.mark.parametrize(
    ("errors", "seconds", "named"),
    [
        (np.zeros(51), 0.2, "51 patches"),
        (np.zeros((2, 5)), 0.2, "(2, 5)"),
        (np.zeros(0), 0.2, "(0,)"),
        (np.zeros(5), None, "patch_seconds"),
        (np.zeros(5), 0.0, "patch_seconds"),
    ],
)
def test_errors_of_another_recording_are_refused(errors: Any, seconds: Any, named: str) -> None:
    with pytest.raises(LatentcastError) as problem:
        plot_recording(flat(), patch_errors=errors, patch_seconds=seconds)
    assert named in str(problem.value)


@pytest.mark.parametrize("recording", [flat(("I",), 61.0), flat(("I",), 0.0)])
def test_a_recording_that_no_page_holds_is_refused_by_its_id(recording: Recording) -> None:
    with pytest.raises(LatentcastError, match="00017"):
        plot_recording(recording)


def test_recordings_without_a_single_valid_sample_still_have_a_picture() -> None:
    recording = flat()
    nothing = np.full_like(recording.signal, np.nan)
    figure = plot_recording(
        replace(recording, signal=nothing, valid=np.zeros_like(recording.valid))
    )
    assert spans(figure, "invalid-II")[-1] == (0.0, 10.0)


def test_an_id_with_dollar_signs_is_no_equation(tmp_path: Any) -> None:
    recording = replace(flat(("I",), 2.0), record_id="a$b", patient_id="$\\frac$")
    plot_recording(recording, title="$x_$").savefig(tmp_path / "page.svg")


@pytest.mark.parametrize(
    ("sex", "words"), [("1", "63 years · sex 1"), ("female", "63 years · female")]
)
def test_a_sex_that_is_a_code_is_not_printed_as_a_bare_number(sex: str, words: str) -> None:
    figure = plot_recording(replace(flat(), metadata={"age": 63, "sex": sex}))
    assert words in [text.get_text() for text in figure.axes[0].texts]


def test_every_cell_of_a_hierarchy_of_leads_is_drawn() -> None:
    config = hjepa_ecg_leads_tiny()
    picture = hierarchy(config)
    assert picture is not None
    cells = picture.figure.axes[0].patches
    assert len(cells) == sum(math.prod(grid) for grid in config.grids)


def test_pyplot_and_the_users_backend_are_left_alone(tmp_path: Any) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import numpy as np\n"
        "from latentcast.signals.recording import from_signal\n"
        "from latentcast.report.ecg import plot_recording\n"
        "assert 'matplotlib' not in sys.modules\n"
        "r = from_signal(np.zeros((1, 300), np.float32), ('I',), 100.0, 'x')\n"
        "plot_recording(r).savefig(sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    source = str(Path(paper.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code, tmp_path / "page.png", source], check=True)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LatentcastError, match=r"latentcast\[plot\]"):
        plot_recording(flat())


@pytest.mark.parametrize("at", [7.52, 7.6, 7.7])
@pytest.mark.parametrize("millivolts", [1.3, 2.4, -1.3])
def test_no_trace_runs_through_the_name_of_its_lead(at: float, millivolts: float) -> None:
    recording = step("V5", at, millivolts)
    signal = recording.signal.copy()
    row = recording.leads.index("V5")
    signal[row, round((at + 0.04) * recording.sampling_rate) :] = 0.0  # an R wave, and no step
    figure = plot_recording(replace(recording, signal=signal))
    figure.draw_without_rendering()
    (name,) = [text for text in figure.axes[0].texts if text.get_gid() == "name-V5"]
    box = name.get_window_extent().transformed(figure.axes[0].transData.inverted())
    (trace,) = drawn(figure, "trace-V5")
    path = trace.get_path().interpolated(50).vertices
    assert not any(box.contains(*point) for point in path)
