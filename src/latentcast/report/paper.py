"""Clinical millimetre paper: a single axes whose data coordinates are millimetres.

Time and voltage therefore enter a drawing as ``25 * seconds`` and ``10 * millivolts`` and cannot
disagree with the grid behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MM_PER_SECOND: Final = 25.0
MM_PER_MILLIVOLT: Final = 10.0
MM_PER_INCH: Final = 25.4

#: Where time 0 stands, mm from the left edge; a multiple of 5, so it falls on a heavy line. The
#: calibration pulse, or the axis of the patch errors, stands in the margin before it.
LEFT: Final = 20.0

PAPER, INK, QUIET, TRACE, DOUBTFUL = "#ffffff", "#1c2128", "#59626c", "#111418", "#6d747d"
_FINE, _HEAVY, _HATCH = "#f9dede", "#eba9a9", "#9aa0a8"


def grid(axes: Axes, width: float, bottom: float, height: float) -> None:
    """Fine lines every millimetre, heavy ones every five, counted from the lower left corner."""
    from matplotlib.collections import LineCollection

    for step, colour, line, layer in ((1.0, _FINE, 0.35, 1.0), (5.0, _HEAVY, 0.6, 1.1)):
        xs = np.arange(0.0, width + step / 2, step)
        ys = np.arange(0.0, height + step / 2, step) + bottom
        segments: list[Any] = [((x, bottom), (x, bottom + height)) for x in xs]
        segments += [((0.0, y), (width, y)) for y in ys]
        lines = LineCollection(segments, colors=colour, linewidths=line, zorder=layer)
        lines.set_gid(f"grid-{step:g}mm")
        # Snapping to whole pixels would make lines of one weight come out in two.
        lines.set_snap(False)
        axes.add_collection(lines, autolim=False)


def calibration_pulse(axes: Axes, y: float) -> None:
    """1 mV for 0.2 s on the zero line ``y`` mm, as a machine prints it."""
    xs = np.array([3.0, 5.0, 5.0, 10.0, 10.0, 12.0])
    ys = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]) * MM_PER_MILLIVOLT + y
    axes.plot(xs, ys, color=TRACE, linewidth=0.9, zorder=3, gid="calibration")


def box(axes: Axes, x: tuple[float, float], y: tuple[float, float], gid: str, **style: Any) -> None:
    """A rectangle between two x and two y, mm; ``gid`` is its id in an SVG."""
    from matplotlib.patches import Rectangle

    style = {"linewidth": 0.0, "zorder": 2.0, **style}
    axes.add_patch(Rectangle((x[0], y[0]), x[1] - x[0], y[1] - y[0], gid=gid, **style))


def hatched(
    axes: Axes, x: tuple[float, float], y: tuple[float, float], gid: str, hatch: str
) -> None:
    """A hatched box: something is not known here, which no colour of a scale may say."""
    box(axes, x, y, gid, facecolor="#e7e9ec99", edgecolor=_HATCH, hatch=hatch)


def runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The stretches [start, stop) where a mask of shape (n,) is True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
