"""A model's prediction error per patch, drawn on an ECG: paper tinted behind the traces, and bars.

A patch holds all leads of its time span, so one value colours the whole height of the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError
from latentcast.report.paper import LEFT, MM_PER_SECOND, QUIET, box, hatched, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Height of the band that the bars need, mm.
LANE_HEIGHT: Final = 26.0

_BARS, _BARS_FROM, _SCALE_X = 15.0, 5.0, (LEFT - 4.0, LEFT - 1.0)
# Low error is bare paper; high error a blue that the pink grid and the black trace both survive.
_COLOURS: Final = ("#ffffff", "#d6e4f5", "#a5c5e9", "#6a9dd6")
Errors = TypeVar("Errors", bound=np.floating[Any])
_OUTLINE, _HATCH = "#3a6ea5", "\\\\\\\\"


def mean_over_leads(errors: npt.NDArray[Errors], rows: int | None) -> npt.NDArray[Errors]:
    """Errors ``(B, rows · times)`` as ``(B, times)``: a span of time is predicted in all leads at
    once, and has the mean over those in which it was. None where a token is of all leads."""
    if rows is None:
        return errors
    apart = np.ma.masked_invalid(errors.reshape(len(errors), rows, -1))
    return np.asarray(apart.mean(axis=1).filled(np.nan), errors.dtype)


@dataclass(frozen=True)
class PatchErrors:
    """Errors (1 - cosine, NaN where nothing was predicted) of the patches of one recording."""

    values: npt.NDArray[np.float64]
    patch_seconds: float
    seconds: float

    @classmethod
    def checked(
        cls, values: npt.ArrayLike, patch_seconds: float | None, seconds: float
    ) -> PatchErrors:
        """Raises LatentcastError when the errors cannot belong to a recording of ``seconds``."""
        errors = np.asarray(values, dtype=np.float64)
        if patch_seconds is None or not patch_seconds > 0:
            raise LatentcastError(
                f"patch_seconds: is {patch_seconds}; give the length of a patch in seconds"
            )
        if errors.ndim != 1 or not errors.size:
            raise LatentcastError(f"patch_errors: has shape {errors.shape}; give one value a patch")
        if (errors.size - 1) * patch_seconds >= seconds:
            raise LatentcastError(
                f"patch_errors: {errors.size} patches of {patch_seconds:g} s do not fit a "
                f"recording of {seconds:g} s; pass the errors of this recording"
            )
        return cls(errors, float(patch_seconds), seconds)

    @property
    def top(self) -> float:
        """Upper end of the scale: the largest error, rounded up to a number one can read."""
        finite = self.values[np.isfinite(self.values)]
        largest = float(finite.max()) if finite.size else 0.0
        if largest <= 0.0:
            return 1.0
        unit = 10.0 ** math.floor(math.log10(largest))
        return next(unit * n for n in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if unit * n >= largest)

    def span(self, start: int, stop: int) -> tuple[float, float]:
        """Patches [start, stop) on the page, mm; the last one ends with the recording."""
        end = min(stop * self.patch_seconds, self.seconds)
        return LEFT + start * self.patch_seconds * MM_PER_SECOND, LEFT + end * MM_PER_SECOND

    def predicted(self) -> list[tuple[int, float]]:
        """(patch, error) of every patch that was predicted."""
        return [(patch, float(e)) for patch, e in enumerate(self.values) if math.isfinite(e)]


def _colours(fractions: npt.ArrayLike) -> npt.NDArray[np.float64]:
    from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("patch error", _COLOURS)
    return np.asarray(scale(np.asarray(fractions, dtype=np.float64)), dtype=np.float64)


def tint(axes: Axes, errors: PatchErrors, bottom: float, height: float) -> None:
    """Colour the paper behind the traces."""
    y = (bottom, bottom + height)
    # Antialiased neighbours would leave hairlines between them.
    style: dict[str, Any] = {"zorder": 0.5, "antialiased": False}
    for patch, error in errors.predicted():
        span, colour = errors.span(patch, patch + 1), _colours(error / errors.top)
        box(axes, span, y, f"error-{patch}", facecolor=colour, **style)
    _hatch_unpredicted(axes, errors, y)


def _hatch_unpredicted(axes: Axes, errors: PatchErrors, y: tuple[float, float]) -> None:
    for start, stop in runs(~np.isfinite(errors.values)):
        hatched(axes, errors.span(start, stop), y, "no-prediction", _HATCH)


def lane(axes: Axes, errors: PatchErrors, bottom: float) -> None:
    """Bars to scale below the traces; the colour bar at their left is their axis."""
    low = bottom + _BARS_FROM
    high = low + _BARS
    levels = 48
    for level, colour in enumerate(_colours((np.arange(levels) + 0.5) / levels)):
        y = low + _BARS * level / levels
        box(axes, _SCALE_X, (y, y + _BARS / levels), "", facecolor=colour, antialiased=False)
    frame = {"facecolor": "none", "edgecolor": QUIET, "linewidth": 0.5, "zorder": 3}
    box(axes, _SCALE_X, (low, high), "colour-bar", **frame)
    for fraction in (0.0, 0.5, 1.0):
        text = f"{fraction * errors.top:.3g}"
        place = (_SCALE_X[0] - 1.0, low + fraction * _BARS)
        axes.text(*place, text, fontsize=7, color=QUIET, ha="right", va="center")

    style: dict[str, Any] = {"edgecolor": _OUTLINE, "linewidth": 0.35}
    for patch, error in errors.predicted():
        fraction = max(error, 0.0) / errors.top
        span, height = errors.span(patch, patch + 1), (low, low + _BARS * fraction)
        box(axes, span, height, f"error-bar-{patch}", facecolor=_colours(fraction), **style)
    _hatch_unpredicted(axes, errors, (low, high))

    axes.plot(errors.span(0, len(errors.values)), [low, low], color=QUIET, linewidth=0.6, zorder=3)
    for second in range(math.floor(errors.seconds + 1e-6) + 1):
        x = LEFT + second * MM_PER_SECOND
        axes.plot([x, x], [low, low - 1.0], color=QUIET, linewidth=0.6)
        axes.text(x, low - 1.6, f"{second} s", fontsize=7, color=QUIET, ha="center", va="top")
    what = f"Prediction error of each {1000 * errors.patch_seconds:g} ms patch, 1 − cosine"
    if not np.isfinite(errors.values).all():
        what += "  (hatched: no prediction)"
    axes.text(LEFT, high + 1.2, what, fontsize=7.5, color=QUIET, va="bottom")
