"""The levels of a hierarchy: the cells of each grid, and what predicts which of them."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from latentcast.config import Config
from latentcast.errors import missing_extra
from latentcast.objectives.jepa.config import JepaConfig
from latentcast.report.picture import Picture
from latentcast.report.style import CLASS_COLOURS, LIGHT, TEXT_POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def hierarchy(config: Config) -> Picture | None:
    """The levels of an objective that has several; None of any other."""
    objective = config.objective
    if not isinstance(objective, JepaConfig) or not objective.coarser:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot", "drawing a hierarchy") from error
    grids = config.grids
    levels = [_level(config, objective, number, grids) for number in range(len(grids))]
    # In inches, as the axes below. A level of several rows, of images or of leads, is drawn taller.
    bands = [0.6 if math.prod(grid[:-1]) > 1 else 0.23 for grid in grids]
    figure = Figure(figsize=(5.8, sum(bands) + 0.72 * len(levels)), facecolor="none")
    axes = figure.add_axes((0.02, 0, 0.96, 1))
    y = 0.1
    for number, (band, (name, predicts)) in enumerate(zip(bands, levels, strict=True)):
        _cells(axes, grids[number], y, band, CLASS_COLOURS[number % len(CLASS_COLOURS)])
        y += band
        for at, text, role, points in (
            (y + 0.33, name, "ink", 0.0),
            (y + 0.14, predicts, "muted", -1.0),
        ):
            axes.text(0, at, text, fontsize=TEXT_POINTS + points, color=LIGHT[role],
                      parse_math=False, va="center")  # fmt: skip
        if number + 1 < len(levels):
            axes.annotate("", (0.985, y + 0.69), (0.985, y + 0.03), arrowprops={
                "arrowstyle": "->", "color": LIGHT["muted"]})  # fmt: skip
        y += 0.72
    axes.set(xlim=(0, 1), ylim=(0, figure.get_figheight()), xticks=[], yticks=[])
    axes.set_axis_off()
    words = " ".join(f"{name}: {predicts}." for name, predicts in levels)
    extra = ""
    if objective.top_down:
        extra += " What a coarser level predicts is given to the queries of the finer one."
    if objective.fusion:
        extra += " Each predictor reads its level fused with the coarser ones."
    return Picture(
        "hierarchy", "The levels", figure,
        f"{len(levels)} levels, the finest at the bottom. {words}",
        "Each band is the grid of a level, the finest at the bottom: a cell merges the cells below "
        f"it that are drawn under it.{extra}",
    )  # fmt: skip


def _level(
    config: Config, objective: JepaConfig, number: int, grids: tuple[tuple[int, ...], ...]
) -> tuple[str, str]:
    """Two lines of words."""
    grid = grids[number]
    size = config.encoder if not number else objective.coarser[number - 1]
    target = "averaged teacher" if objective.target == "teacher" else "student itself"
    masks = objective.masks if not number else objective.coarser[number - 1].masks
    weight = objective.weight if not number else objective.coarser[number - 1].weight
    cell = _cell(config, grid)
    stride = ""
    if number:
        steps = [fine // own for fine, own in zip(grids[number - 1], grid, strict=True)]
        stride = f", each of {' × '.join(map(str, steps))} cells below"
    name = f"Level {number}: {' × '.join(f'{n:,}' for n in grid)} cells of {cell}{stride}"
    width = f"width {getattr(size, 'width', config.encoder.width)}"
    targets = getattr(masks, "targets", None)
    hidden = "the hidden cells" if targets is None else f"{targets} hidden blocks"
    return name, (
        f"{width}; predicts {hidden} as the {target} encodes them on level {number}, weight "
        f"{weight:g}"
    )


def _cell(config: Config, grid: tuple[int, ...]) -> str:
    if config.input.kind == "ecg":
        seconds = config.input.size[-1] / config.input.sampling_rate / grid[-1]
        return f"{1000 * seconds:,.0f} ms" if seconds < 1 else f"{seconds:.3g} s"
    return (
        " × ".join(f"{side // n}" for side, n in zip(config.input.size, grid, strict=True))
        + " pixels"
    )


def _cells(axes: Axes, grid: tuple[int, ...], y: float, band: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    columns, rows = grid[-1], math.prod(grid[:-1])
    gap = min(0.15, 0.006 * columns) / columns
    height = band / rows
    for row, column in itertools.product(range(rows), range(columns)):
        corner = (column / columns, y + row * height)
        axes.add_patch(Rectangle(corner, 1 / columns - gap, height * (0.8 if rows > 1 else 1),
                                 facecolor=colour, linewidth=0, alpha=0.85))  # fmt: skip
