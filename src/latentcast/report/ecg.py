"""A recording on clinical paper: 25 mm/s, 10 mm/mV, and a millimetre is a millimetre."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, missing_extra, printable
from latentcast.report.paper import (
    DOUBTFUL,
    INK,
    LEFT,
    MM_PER_INCH,
    MM_PER_MILLIVOLT,
    MM_PER_SECOND,
    PAPER,
    QUIET,
    TRACE,
    calibration_pulse,
    grid,
    hatched,
    runs,
)
from latentcast.report.patch_error import LANE_HEIGHT, PatchErrors, lane, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from latentcast.signals.recording import Recording

#: The printed 12-lead page: four columns of 2.5 s, continuous in time, and one rhythm strip below.
STANDARD_ROWS: Final = (
    ("I", "aVR", "V1", "V4"),
    ("II", "aVL", "V2", "V5"),
    ("III", "aVF", "V3", "V6"),
)
RHYTHM_LEAD: Final = "II"
STANDARD_SECONDS: Final = 10.0

#: Beyond this a page is wider than anyone can look at (60 s are 1.5 m of paper).
LONGEST_SECONDS: Final = 60.0

# Page geometry, mm. Zero lines stand on multiples of 5, which are heavy lines.
_RIGHT, _HEADER, _FOOTER, _LEAST_WIDTH = 5.0, 15.0, 8.0, 120.0
_ABOVE_LEAST, _BELOW_LEAST, _REACH_MOST, _PITCH_LEAST = 12.0, 6.0, 30.0, 25.0
_LETTER_WIDTH, _LETTER_HEIGHT = 2.2, 3.2
"""Of the names of leads, mm."""


@dataclass(frozen=True)
class _Strip:
    """One stretch of one lead: samples [start, stop), drawn from ``x`` mm on in row ``row``."""

    row: int
    x: float
    lead: int
    start: int
    stop: int


def plot_recording(
    recording: Recording,
    *,
    patch_errors: npt.ArrayLike | None = None,
    patch_seconds: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw an ECG on millimetre paper.

    The twelve standard leads of 10 s are laid out as three rows of four columns (2.5 s each,
    continuous in time) above a rhythm strip of lead II; anything else as a stack of full-length
    leads. Each trace is centred on the median of its valid samples. Stretches that the recording
    marks as not valid are hatched, and drawn in grey where a value was measured.

    Args:
        recording: signal in mV, shape (leads, samples).
        patch_errors: shape (n_patches,), 1 - cosine of prediction and target; patch k spans
            ``[k, k + 1) * patch_seconds``. It tints the paper behind the traces (a patch holds
            all leads of its time span) and is drawn to scale below them. NaN means that nothing
            was predicted there: hatched, never coloured.
        patch_seconds: length of a patch in seconds; needed with ``patch_errors``.
        title: first line of the page; the record id when None.

    Returns:
        A figure whose size in inches is the paper's size, so ``savefig`` to SVG or PDF prints at
        25 mm/s. pyplot and the user's backend are not touched.

    Raises:
        LatentcastError: matplotlib is missing, the recording is empty or longer than 60 s, or the
            patch errors do not fit it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot", "drawing an ECG") from error

    seconds = _checked_seconds(recording)
    errors = (
        None if patch_errors is None else PatchErrors.checked(patch_errors, patch_seconds, seconds)
    )
    strips = _standard(recording) if _is_standard(recording, seconds) else _stacked(recording)
    centred = _centred(recording)
    reach = _reach(recording, strips, centred)
    zero_lines, grid_height = _zero_lines(reach)

    grid_width = LEFT + math.ceil(seconds * MM_PER_SECOND / 5.0) * 5.0 + _RIGHT
    bottom = _FOOTER + (LANE_HEIGHT if errors else 0.0)
    # A recording of one second still needs room for its caption.
    width, height = max(grid_width, _LEAST_WIDTH), bottom + grid_height + _HEADER

    figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH), facecolor=PAPER)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0.0, width), ylim=(0.0, height), aspect="equal", autoscale_on=False)
    axes.axis("off")
    grid(axes, grid_width, bottom, grid_height)
    if errors:
        tint(axes, errors, bottom, grid_height)
        lane(axes, errors, _FOOTER)
    for zero in zero_lines:
        calibration_pulse(axes, bottom + zero)
    for strip in strips:
        _trace(axes, recording, strip, centred, bottom + zero_lines[strip.row], reach[strip.row])
    _captions(axes, recording, seconds, title, (width, height))
    _notes(axes, recording, strips)
    return figure


def _checked_seconds(recording: Recording) -> float:
    leads, samples = recording.signal.shape
    if not leads or not samples:
        raise LatentcastError(
            f"{recording.record_id}: has {leads} leads of {samples} samples, nothing can be "
            "drawn; pick another record"
        )
    seconds = float(samples / recording.sampling_rate)
    if seconds > LONGEST_SECONDS:
        raise LatentcastError(
            f"{recording.record_id}: lasts {seconds:.0f} s, a page holds {LONGEST_SECONDS:.0f} s; "
            "pick a shorter record, or cut the stretch out in Python"
        )
    return seconds


def _is_standard(recording: Recording, seconds: float) -> bool:
    named = sorted(lead for row in STANDARD_ROWS for lead in row)
    same_length = abs(seconds - STANDARD_SECONDS) <= 1.5 / recording.sampling_rate
    return sorted(recording.leads) == named and same_length


def _standard(recording: Recording) -> list[_Strip]:
    samples, rate = recording.signal.shape[1], recording.sampling_rate
    edges = [*(round(column * STANDARD_SECONDS / 4 * rate) for column in range(4)), samples]
    strips = [
        _Strip(row, LEFT + start / rate * MM_PER_SECOND, recording.leads.index(lead), start, stop)
        for row, names in enumerate(STANDARD_ROWS)
        for lead, (start, stop) in zip(names, pairwise(edges), strict=True)
    ]
    rhythm = recording.leads.index(RHYTHM_LEAD)
    return [*strips, _Strip(len(STANDARD_ROWS), LEFT, rhythm, 0, samples)]


def _stacked(recording: Recording) -> list[_Strip]:
    leads, samples = recording.signal.shape
    return [_Strip(lead, LEFT, lead, 0, samples) for lead in range(leads)]


def _centred(recording: Recording) -> npt.NDArray[np.float64]:
    """The signal minus each lead's median of valid samples, mV; NaN where not measured."""
    signal = np.asarray(recording.signal, dtype=np.float64)
    measured = np.where(np.isfinite(signal), signal, np.nan)
    valid = np.where(recording.valid, measured, np.nan)
    for lead, row in enumerate(valid):
        trace = row if np.isfinite(row).any() else measured[lead]
        if np.isfinite(trace).any():
            measured[lead] -= np.nanmedian(trace)
    return measured


def _reach(
    recording: Recording, strips: list[_Strip], centred: npt.NDArray[np.float64]
) -> list[tuple[float, float]]:
    """How far each row's valid trace goes above and below its zero line, mm, within limits."""
    reach = [(_ABOVE_LEAST, _BELOW_LEAST)] * (strips[-1].row + 1)
    for strip in strips:
        part = np.s_[strip.lead, strip.start : strip.stop]
        values = centred[part][recording.valid[part] & np.isfinite(centred[part])]
        if values.size:
            above, below = reach[strip.row]
            reach[strip.row] = (
                min(max(above, values.max() * MM_PER_MILLIVOLT), _REACH_MOST),
                min(max(below, -values.min() * MM_PER_MILLIVOLT), _REACH_MOST),
            )
    return reach


def _zero_lines(reach: list[tuple[float, float]]) -> tuple[list[float], float]:
    """Each row's zero line above the grid's lower edge, and the grid's height; mm, multiples of 5.

    Tall rows get more paper instead of running into their neighbours.
    """
    y = math.ceil((reach[-1][1] + 2.0) / 5.0) * 5.0
    lines = [y]
    for (_, below), (above, _) in reversed(list(pairwise(reach))):
        y += max(_PITCH_LEAST, math.ceil((below + above + 2.0) / 5.0) * 5.0)
        lines.append(y)
    # 4 mm more for the lead names above the uppermost row.
    return lines[::-1], y + math.ceil((reach[0][0] + 4.0) / 5.0) * 5.0


def _trace(
    axes: Axes,
    recording: Recording,
    strip: _Strip,
    centred: npt.NDArray[np.float64],
    zero: float,
    reach: tuple[float, float],
) -> None:
    part = np.s_[strip.lead, strip.start : strip.stop]
    step = MM_PER_SECOND / recording.sampling_rate
    xs = strip.x + np.arange(strip.stop - strip.start) * step
    ys = zero + centred[part] * MM_PER_MILLIVOLT
    valid = recording.valid[part] & np.isfinite(ys)
    name = printable(recording.leads[strip.lead])

    for start, stop in runs(~valid):
        across, along = (xs[start], xs[stop - 1] + step), (zero - reach[1], zero + reach[0])
        hatched(axes, across, along, f"invalid-{name}", "////")
    style: dict[str, Any] = {"linewidth": 0.9, "solid_joinstyle": "round"}
    if not valid.all():
        # Only inside the hatching: a saturated lead must not cross another lead's row.
        shown = ~valid & (ys >= zero - reach[1]) & (ys <= zero + reach[0])
        axes.plot(xs, np.where(shown, ys, np.nan), color=DOUBTFUL, zorder=3.0, **style)
    trace = np.where(valid, ys, np.nan)
    axes.plot(xs, trace, color=TRACE, zorder=3.1, gid=f"trace-{name}", **style)
    if strip.x > LEFT:  # the mark where one lead ends and the next begins
        mark = [zero - 3.0, zero + 3.0]
        axes.plot([strip.x, strip.x], mark, color=TRACE, linewidth=0.9, zorder=3)
    style = {"fontsize": 9, "fontweight": "bold", "color": INK, "va": "bottom", "zorder": 4}
    above: npt.NDArray[np.float64] = (ys - zero).astype(np.float64)
    times = xs.astype(np.float64)
    height = _free_height(strip.x + 1, name, times, above, reach)
    axes.text(strip.x + 1, zero + height, name, parse_math=False, gid=f"name-{name}", **style)


def _free_height(
    x: float,
    name: str,
    xs: npt.NDArray[np.float64],
    ys: npt.NDArray[np.float64],
    reach: tuple[float, float],
) -> float:
    """Of a lead's name above the zero line, mm: the usual one, or the nearest to it at which the
    trace does not run through the letters; the usual one where there is none."""
    usual = min(reach[0], _ABOVE_LEAST)
    under = (xs >= x - 1.0) & (xs <= x + _LETTER_WIDTH * len(name) + 1.0)
    under[1:] |= under[:-1]  # the line that leads out of it
    trace = ys[under]
    trace = trace[np.isfinite(trace)]
    if not trace.size:
        return usual
    low = np.minimum(trace[:-1], trace[1:]) if trace.size > 1 else trace
    high = np.maximum(trace[:-1], trace[1:]) if trace.size > 1 else trace
    candidates = np.arange(-reach[1], reach[0] + 0.5, 0.5)
    for height in sorted([usual, *candidates], key=lambda h: abs(h - usual)):
        if not ((low < height + _LETTER_HEIGHT + 0.5) & (high > height - 0.5)).any():
            return float(height)
    return usual


def _captions(
    axes: Axes, recording: Recording, seconds: float, title: str | None, page: tuple[float, float]
) -> None:
    width, height = page
    record = f"Record {recording.record_id}"
    facts = [] if recording.patient_id is None else [f"Patient {recording.patient_id}"]
    facts += [] if title is None else [record]
    leads = "1 lead" if len(recording.leads) == 1 else f"{len(recording.leads)} leads"
    facts += [f"{recording.sampling_rate:g} Hz", f"{seconds:g} s", leads]
    about = recording.metadata
    person = [f"{about['age']:g} years"] if isinstance(about.get("age"), int | float) else []
    if "sex" in about:  # a number is a code of its table
        sex = str(about["sex"])[:40]
        person.append(f"sex {sex}" if sex[:1].isdecimal() else sex)
    person += [
        str(about[key])[:40] for key in ("recording_date", "device", "filter") if key in about
    ]
    # parse_math=False: an id with two dollar signs is an id and no equation.
    style: dict[str, Any] = {"parse_math": False, "va": "top", "fontsize": 8.5, "color": QUIET}
    name = printable(record if title is None else title)
    axes.text(5.0, height - 3.0, name, **{**style, "fontsize": 12, "color": INK}, weight="bold")
    axes.text(5.0, height - 7.6, printable(" · ".join(facts)), **style)
    axes.text(5.0, height - 11.1, printable(" · ".join(person)), **style)
    paper = f"{MM_PER_SECOND:g} mm/s · {MM_PER_MILLIVOLT:g} mm/mV"
    axes.text(width - 5.0, height - 9.0, paper, **{**style, "color": INK}, ha="right")


def _notes(axes: Axes, recording: Recording, strips: list[_Strip]) -> None:
    bad = ~(recording.valid & np.isfinite(recording.signal))
    shown = np.zeros_like(bad)
    for strip in strips:
        shown[strip.lead, strip.start : strip.stop] = True
    hidden = np.flatnonzero((bad & ~shown).any(axis=1))
    notes = ["Each trace is centred on its median."]
    if (bad & shown).any():
        notes.append("Hatched ////: not valid (missing, flat or saturated).")
    if hidden.size:
        names = ", ".join(recording.leads[lead] for lead in hidden)
        notes.append(f"Not valid in a stretch that is not shown: {names}.")
    text = printable(" ".join(notes))
    axes.text(5.0, 2.5, text, fontsize=7, color=QUIET, va="bottom", parse_math=False)
