"""The levels of a hierarchy: the cells of each grid, and what predicts which of them."""

from __future__ import annotations

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
    figure = Figure(figsize=(5.8, 0.5 + 0.95 * len(levels)), facecolor="none")
    axes = figure.subplots()
    figure.subplots_adjust(left=0.02, right=0.98, top=0.99, bottom=0.02)
    for number, (cells, name, predicts) in enumerate(levels):
        y = 1.0 * number
        _cells(axes, cells, y, CLASS_COLOURS[number % len(CLASS_COLOURS)])
        for at, text, role, points in (
            (y + 0.58, name, "ink", 0.0),
            (y + 0.38, predicts, "muted", -1.0),
        ):
            axes.text(0, at, text, fontsize=TEXT_POINTS + points, color=LIGHT[role],
                      parse_math=False, va="center")  # fmt: skip
        if number:
            axes.annotate("", (0.985, y - 0.03), (0.985, y - 0.72), arrowprops={
                "arrowstyle": "->", "color": LIGHT["muted"]})  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-0.05, len(levels) - 0.2), xticks=[], yticks=[])
    axes.set_axis_off()
    words = " ".join(f"{name}: {predicts}." for _, name, predicts in levels)
    extra = ""
    if objective.top_down:
        extra += " What a coarser level predicts is given to the queries of the finer one."
    if objective.fusion:
        extra += " Each predictor reads its level fused with the coarser ones."
    return Picture(
        "hierarchy", "The levels", figure,
        f"{len(levels)} levels, the finest at the bottom. {words}",
        "Each row is the grid of a level, the finest at the bottom: a cell merges the cells below "
        f"it that are drawn under it.{extra}",
    )  # fmt: skip


def _level(
    config: Config, objective: JepaConfig, number: int, grids: tuple[tuple[int, ...], ...]
) -> tuple[int, str, str]:
    """Cells along the last axis, and two lines of words."""
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
    return (
        grid[-1],
        name,
        (
            f"{width}; predicts {hidden} as the {target} encodes them on level {number}, weight "
            f"{weight:g}"
        ),
    )


def _cell(config: Config, grid: tuple[int, ...]) -> str:
    if config.input.kind == "ecg":
        seconds = config.input.size[-1] / config.input.sampling_rate / grid[-1]
        return f"{1000 * seconds:,.0f} ms" if seconds < 1 else f"{seconds:.3g} s"
    return (
        " × ".join(f"{side // n}" for side, n in zip(config.input.size, grid, strict=True))
        + " pixels"
    )


def _cells(axes: Axes, cells: int, y: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    gap = min(0.15, 0.006 * cells) / cells
    for place in range(cells):
        axes.add_patch(Rectangle((place / cells, y), 1 / cells - gap, 0.24, facecolor=colour,
                                 linewidth=0, alpha=0.85))  # fmt: skip
