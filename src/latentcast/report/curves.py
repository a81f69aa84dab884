"""Training curves as small multiples, from the rows of ``metrics.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from latentcast.errors import missing_extra
from latentcast.report.style import LIGHT, TEXT_POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: More rows than this are averaged into as many bins; the range in each bin stays visible.
MOST_POINTS: Final = 300

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One key of the rows, its name in the picture, and how it is drawn."""

    key: str
    name: str
    role: str
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One of the small multiples.

    ``note`` says how to read it; ``alarm`` is the part of an alarm's name that belongs here.
    """

    title: str
    note: str
    lines: tuple[Line, ...]
    alarm: str = ""
    from_zero: bool = True


def _pair(kind: str) -> tuple[Line, Line]:
    return Line(f"target_{kind}", "targets", "model"), Line(f"output_{kind}", "outputs", "other")


PANELS: Final = (
    Panel(
        "Loss",
        "should go below copying the last patch",
        (
            Line("copy_last_loss", "copy last\npatch", "baseline", dashed=True),
            Line("loss", "model", "model"),
        ),
        alarm="copying",
        from_zero=False,
    ),
    Panel("Effective rank", "near 1 is collapse", _pair("rank"), alarm="rank"),
    Panel(
        "Norm of the mean direction",
        "near 1: all vectors point one way",
        _pair("mean_norm"),
        alarm="direction",
    ),
    Panel("Std per dimension", "near 0 is collapse", _pair("std"), alarm="dimensions"),
    Panel("Learning rate", "", (Line("lr", "", "model"),)),
    Panel("Samples per second", "", (Line("samples_per_second", "", "model"),)),
)


def plot_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Six small multiples over the optimizer step.

    A panel is shaded where the monitors raised an alarm that belongs to it (``row["alarms"]``, a
    list of names), and names the alarm and its first step.

    Args:
        rows: the rows of ``metrics.jsonl``. A key may be missing in some rows or in all of them,
            and a value may be null or not finite; a step that occurs twice (a run that was killed
            and resumed) counts with its last row.

    Raises:
        LatentcastError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot", "drawing training curves") from error

    numbered = {int(row["step"]): row for row in rows if _number(row.get("step")) is not None}
    latest = {step: numbered[step] for step in sorted(numbered)}
    figure = Figure(figsize=(10.0, 5.2), facecolor="none")
    # Fixed margins: the lines' names stand to the right of each panel, outside its axes.
    figure.subplots_adjust(left=0.06, right=0.925, top=0.88, bottom=0.09, wspace=0.48, hspace=0.5)
    grid = figure.subplots(2, 3, sharex=True)
    for axes, panel in zip(grid.flat, PANELS, strict=True):
        _panel(axes, panel, latest)
    for axes in grid[-1]:
        axes.set_xlabel("optimizer step", fontsize=TEXT_POINTS - 0.5, color=LIGHT["muted"])
    return figure


def first_alarms(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Alarm name -> (first step, number of logged rows) in which it was raised, by first step."""
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        for name in row.get("alarms") or ():
            first, count = found.get(name, (int(row.get("step", 0)), 0))
            found[name] = first, count + 1
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _number(value: Any) -> float | None:
    """A finite number, or None for whatever else a JSON row may hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def series(latest: Mapping[int, Mapping[str, Any]], key: str) -> tuple[Values, Values]:
    """Steps and values of one key, both of shape (n,), gaps left out."""
    pairs = [
        (step, number)
        for step, row in latest.items()
        if (number := _number(row.get(key))) is not None
    ]
    columns = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def _binned(values: Values, reduce: Callable[[Values], Any]) -> Values:
    parts = np.array_split(values, min(MOST_POINTS, len(values)))
    return np.array([reduce(part) for part in parts], dtype=np.float64)


def _panel(axes: Axes, panel: Panel, latest: Mapping[int, Mapping[str, Any]]) -> None:
    ends: list[tuple[float, Line]] = []
    for line in panel.lines:
        steps, values = series(latest, line.key)
        if not len(values):
            continue
        colour, xs, ys = LIGHT[line.role], _binned(steps, np.mean), _binned(values, np.mean)
        if len(values) > MOST_POINTS:
            low, high = _binned(values, np.min), _binned(values, np.max)
            axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)
        style: Any = (0, (4, 2)) if line.dashed else "solid"
        # A single row would be an invisible line.
        marker = "o" if len(xs) == 1 else ""
        axes.plot(xs, ys, color=colour, linewidth=1.6, linestyle=style, marker=marker, gid=line.key)
        ends.append((float(ys[-1]), line))
    _dress(axes, panel, _alarmed(axes, panel, latest))
    if not ends:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, "not logged", fontsize=TEXT_POINTS, color=LIGHT["muted"], **place)
        axes.set_yticks([])
        return
    if panel.from_zero:
        low, high = axes.dataLim.intervaly
        axes.set_ylim(min(0.0, low), high + 0.12 * (high - min(0.0, low)) or 1.0)
    _name_lines(axes, ends)


def _alarmed(axes: Axes, panel: Panel, latest: Mapping[int, Mapping[str, Any]]) -> str:
    """Shade the steps of this panel's alarms; what to say about them, or ""."""
    steps = list(latest)
    rows: list[dict[str, Any]] = [
        {"step": step, "alarms": [n for n in row.get("alarms") or () if panel.alarm in n]}
        for step, row in latest.items()
        if panel.alarm
    ]
    for row, until in zip(rows, [*steps[1:], *steps[-1:]], strict=False):
        if row["alarms"]:
            axes.axvspan(row["step"], until, color=LIGHT["alarm"], alpha=0.12, linewidth=0)
    found = first_alarms(rows)
    for first, _ in found.values():
        axes.axvline(first, color=LIGHT["alarm"], linewidth=1.0, gid="alarm")
    if len(found) > 1:  # the page lists them; here is no room
        return f"{len(found)} alarms, the first at step {min(first for first, _ in found.values())}"
    return "".join(f"{name}, step {first}" for name, (first, _) in found.items())


def _dress(axes: Axes, panel: Panel, alarm: str) -> None:
    axes.set_facecolor("none")
    title: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "annotation_clip": False,
    }
    axes.annotate(
        panel.title,
        (0, 1),
        (0, 21),
        fontsize=TEXT_POINTS + 1.5,
        fontweight="bold",
        color=LIGHT["ink"],
        **title,
    )
    axes.annotate(
        alarm or panel.note,
        (0, 1),
        (0, 8),
        fontsize=TEXT_POINTS - 1,
        color=LIGHT["alarm" if alarm else "muted"],
        parse_math=False,
        **title,
    )
    axes.tick_params(
        labelsize=TEXT_POINTS - 1, labelcolor=LIGHT["muted"], color=LIGHT["rule"], length=3
    )
    axes.ticklabel_format(axis="y", scilimits=(-3, 5), useMathText=False)
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.yaxis.offsetText.set(fontsize=TEXT_POINTS - 1.5, color=LIGHT["muted"])
    axes.grid(axis="y", color=LIGHT["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LIGHT["rule"])
    axes.margins(x=0.02, y=0.12)


def _name_lines(axes: Axes, ends: Sequence[tuple[float, Line]]) -> None:
    """Name each line at its right end, moved apart where two would print over each other."""
    named = sorted((end for end in ends if end[1].name), key=lambda end: end[0])
    low, high = axes.get_ylim()
    apart = 0.12 * (high - low)
    heights = [y for y, _ in named]
    if len(heights) == 2 and heights[1] - heights[0] < apart:
        middle = (heights[0] + heights[1]) / 2
        heights = [middle - apart / 2, middle + apart / 2]
    for (_, line), y in zip(named, heights, strict=True):
        axes.annotate(
            line.name,
            xy=(1.0, y),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=TEXT_POINTS - 0.5,
            color=LIGHT[line.role],
            va="center",
        )
