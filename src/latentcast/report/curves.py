"""Training curves as small multiples, from the rows of ``metrics.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from latentcast.errors import missing_extra
from latentcast.monitors.rows import columns, present
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

    ``note`` says how to read it; ``alarms`` are the ends of the names of alarms that belong here.
    """

    title: str
    note: str
    lines: tuple[Line, ...]
    alarms: tuple[str, ...] = ()
    from_zero: bool = True


ONLINE: Final = Panel(
    "Online probe",
    "validation split; to watch, not to report",
    (Line("online_knn", "kNN", "other"), Line("online_linear", "linear", "model")),
    from_zero=False,
)
LEARNING_RATE: Final = Panel("Learning rate", "", (Line("lr", "", "model"),))
THROUGHPUT: Final = Panel("Samples per second", "", (Line("samples_per_second", "", "model"),))
NAMES: Final = {"target": "targets", "output": "outputs", "prediction": "predic-\ntions"}
"""Of the lines, by the role of the view."""


def panels(rows: Collection[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """The small multiples of what these rows hold: losses, statistics of views by role and level.

    The teacher's panels are there when a teacher was moved, the regularizer's and the online
    probe's when there is one.
    """
    keys = {key for row in rows for key in row}
    found = columns(keys)
    levels = sorted({column.level for column in found})
    roles = {column.role for column in found}
    copying = "copy_last_loss" in keys
    drawn = [_loss(levels, keys, copying)]
    if levels:
        drawn += _statistics(levels, roles, copying)
    for key, title in (("regularizer", "Regularizer"), ("views_term", "Term between two views")):
        if key in keys:
            drawn.append(Panel(title, "", (Line(key, "", "model"),)))
    if not copying and any(_number(row.get("momentum")) for row in rows):
        moved = Line("teacher_distance", "", "model"), Line("momentum", "", "model")
        drawn.append(Panel("Teacher from student", "distance over the student's norm", moved[:1]))
        drawn.append(Panel("EMA momentum", "1 stands still", moved[1:], from_zero=False))
    online = (ONLINE,) if any(line.key in keys for line in ONLINE.lines) else ()
    return (*drawn, LEARNING_RATE, THROUGHPUT, *online)


def _loss(levels: Sequence[int], keys: Collection[str], copying: bool) -> Panel:
    if copying:
        loss = "objective_loss" if "objective_loss" in keys else "loss"
        return Panel(
            "Loss", "should go below copying the last patch",
            (Line("copy_last_loss", "copy last\npatch", "baseline", dashed=True),
             Line(loss, "model", "model")),
            ("copying-is-better", "loss-spike"), from_zero=False,
        )  # fmt: skip
    own = [level for level in levels if f"level{level}_loss" in keys]
    several, note = len(own) > 1, ""
    if several:
        note = "of all levels together, and of each"
    elif {"regularizer", "views_term"} & {*keys}:
        note = "black: with its other terms"
    lines = (Line("loss", "all" if several else "", "ink"), *_each(own, "level{}_loss"))
    return Panel("Loss", note, lines, ("loss-spike",), from_zero=False)


def _statistics(levels: Sequence[int], roles: Collection[str], copying: bool) -> list[Panel]:
    """Of targets beside what answers them; a role that no view has draws no line."""
    answer = "output" if "output" in roles else "prediction"
    both = [role for role in ("target", answer) if role in roles] or sorted(roles)[:1]
    drawn = [
        Panel("Effective rank", _reading(levels, "near 1 is collapse"),
              _both(levels, both, "rank"), ("rank-collapse",)),
        Panel("Norm of the mean direction", _reading(levels, "near 1: all point one way"),
              _both(levels, both, "mean_norm"), ("constant-direction",)),
        Panel("Std per dimension", _reading(levels, "near 0 is collapse"),
              _both(levels, both, "std"), ("dead-dimensions", "-constant")),
    ]  # fmt: skip
    first, name = both[0], NAMES.get(both[0], both[0])
    between = Panel(
        "Variance between samples", f"share of the {name}' that is not positional",
        _each(levels, f"level{{}}_{first}_between"), ("same-for-all-samples",),
    )  # fmt: skip
    lidar = Panel(f"LiDAR of the {name}", "rank of what tells samples apart",
                  _each(levels, f"level{{}}_{first}_lidar"))  # fmt: skip
    return [drawn[0], lidar, *drawn[1:], between]


def _each(levels: Sequence[int], key: str, dashed: bool = False) -> tuple[Line, ...]:
    """A line for each level, coloured and named by it; one level is all of the model."""
    if len(levels) == 1:
        return (Line(key.format(levels[0]), "", "model", dashed),)
    names = [f"level {level}" if not dashed else "" for level in levels]
    return tuple(
        Line(key.format(level), name, f"class-{1 + place % 8}", dashed)
        for place, (level, name) in enumerate(zip(levels, names, strict=True))
    )


def _both(levels: Sequence[int], roles: Sequence[str], statistic: str) -> tuple[Line, ...]:
    """A line for each role: named when there is one level, else the second role dashed."""
    keys = [f"level{{}}_{role}_{statistic}" for role in roles]
    if len(levels) == 1:
        colours = ("model", "other")
        return tuple(
            Line(key.format(levels[0]), NAMES.get(role, role), colour)
            for key, role, colour in zip(keys, roles, colours, strict=False)
        )
    first, *others = keys
    return (
        *(line for key in others for line in _each(levels, key, dashed=True)),
        *_each(levels, first),
    )


def _reading(levels: Sequence[int], note: str) -> str:
    return note if len(levels) == 1 else f"{note}; dashed: predictions"


def plot_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Small multiples over the optimizer step; which ones, the keys of the rows say.

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

    numbered = {
        int(row["step"]): present(row) for row in rows if _number(row.get("step")) is not None
    }
    latest = {step: numbered[step] for step in sorted(numbered)}
    chosen = panels(latest.values())
    high = math.ceil(len(chosen) / 3)
    inches = 2.6 * high
    figure = Figure(figsize=(10.0, inches), facecolor="none")
    # Fixed margins: the lines' names stand to the right of each panel, outside its axes.
    figure.subplots_adjust(
        left=0.06, right=0.925, top=1 - 0.624 / inches, bottom=0.468 / inches,
        wspace=0.48, hspace=0.5,
    )  # fmt: skip
    grid = figure.subplots(high, 3, sharex=True, squeeze=False)
    for axes, panel in zip(grid.flat, chosen, strict=False):
        _panel(axes, panel, latest)
    for spare in grid.flat[len(chosen) :]:
        spare.remove()
    for axes in grid.flat[max(0, len(chosen) - 3) : len(chosen)]:  # the last of each column
        axes.set_xlabel("optimizer step", fontsize=TEXT_POINTS - 0.5, color=LIGHT["muted"])
        axes.tick_params(labelbottom=True)
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
    numbers = {step: _number(row.get(key)) for step, row in latest.items()}
    pairs = [(step, number) for step, number in numbers.items() if number is not None]
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
        {"step": step, "alarms": [n for n in row.get("alarms") or () if n.endswith(panel.alarms)]}
        for step, row in latest.items()
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
    above, role = ((0, 1), "axes fraction"), "alarm" if alarm else "muted"
    _label(axes, panel.title, *above, (0, 21), 1.5, "ink", fontweight="bold")
    _label(axes, alarm or panel.note, *above, (0, 8), -1, role, parse_math=False)
    axes.tick_params(
        labelsize=TEXT_POINTS - 1, labelcolor=LIGHT["muted"], color=LIGHT["rule"], length=3
    )
    axes.ticklabel_format(axis="y", scilimits=(-4, 5), useMathText=False)
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
    heights = _apart([y for y, _ in named], 0.12 * (high - low))
    for (_, line), y in zip(named, heights, strict=True):
        right = axes.get_yaxis_transform()
        _label(axes, line.name, (1, y), right, (4, 0), -0.5, line.role, va="center")


def _label(
    axes: Axes, text: str, at: tuple[float, float], coordinates: Any, offset: tuple[int, int],
    points: float, role: str, **style: Any,
) -> None:  # fmt: skip
    """Text beside the axes, ``points`` larger than running text."""
    style |= {"fontsize": TEXT_POINTS + points, "color": LIGHT[role], "annotation_clip": False}
    axes.annotate(text, at, offset, xycoords=coordinates, textcoords="offset points", **style)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights at least ``gap`` apart: what would overlap is spread about its middle."""
    groups: list[list[float]] = []
    for y in heights:
        groups.append([y])
        while len(groups) > 1 and _spread(groups[-2], gap)[-1] + gap > _spread(groups[-1], gap)[0]:
            last = groups.pop()
            groups[-1] += last
    return [y for group in groups for y in _spread(group, gap)]


def _spread(group: Sequence[float], gap: float) -> list[float]:
    middle = sum(group) / len(group)
    return [middle + gap * (place - (len(group) - 1) / 2) for place in range(len(group))]
