"""ROC and precision-recall curves, reliability, and a forest of intervals, of scores on test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from latentcast.errors import missing_extra, printable
from latentcast.evaluation.estimate import Calibration, Estimate, RankingCurve, Score, number
from latentcast.evaluation.results import ProbeReport
from latentcast.report.picture import Picture
from latentcast.report.style import CLASS_COLOURS, LIGHT, TEXT_POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (4.6, 4.3)
_STYLES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
"""Beside its colour a curve has a stroke, for print in grey."""


def of_probe(probe: ProbeReport, name: str) -> list[Picture]:
    """Curves and reliability of its first source, and a forest of all; ``name`` is of files."""
    row = probe.readings()[0]
    lines = [
        (", ".join((one.name, *([one.head] if len(probe.heads) > 1 else []),
                    *([one.choice] if one.choice.startswith("layer of") else []))),
         one.score.main, one.name == row.name)
        for one in probe.rows
    ]  # fmt: skip
    drawn = of_score(row.score, f"{row.name} features, {row.head}", name, probe.noun)
    scores = f"Test {probe.metric}, {probe.task}"
    ends = f"dots are scores, lines their {probe.level} intervals over test "
    words = f"{scores}: {ends}{probe.bootstrap['unit']}s."
    if any(math.isfinite(main.low) for _, main, _ in lines):
        drawn.append(forest(lines, f"forest{name}", scores, words))
    return drawn


def of_score(score: Score, source: str, name: str, noun: str) -> list[Picture]:
    """What a score holds: curves where records were ranked, reliability where it is calibrated."""
    found = []
    if score.curves:
        areas = {label.name: label.text(label.auroc) for label in score.labels}
        found += [_roc(score.curves, areas, source, name), _precision_recall(score, source, name)]
    if score.calibration is not None:
        found.append(_reliability(score.calibration, source, name, noun))
    return found


def forest(
    lines: Sequence[tuple[str, Estimate, bool]], name: str, title: str, caption: str
) -> Picture:
    """A dot and its interval for each line: what it is of, the estimate, whether it is tested."""
    figure, axes = _figure(height=0.9 + 0.52 * len(lines))
    figure.subplots_adjust(left=0.04, right=0.96, top=1 - 0.34 / figure.get_figheight(),
                           bottom=0.52 / figure.get_figheight())  # fmt: skip
    for place, (text, main, tested) in enumerate(lines):
        colour, y = LIGHT["model" if tested else "muted"], -place
        if math.isfinite(main.low):
            axes.plot([main.low, main.high], [y, y], color=colour, linewidth=2.2)
        axes.plot([main.value], [y], "o", color=colour, markersize=6)
        for at, words, side in ((0.0, text, "left"), (1.0, main.text(), "right")):
            axes.text(
                at, y + 0.24, _short(words, 36), transform=axes.get_yaxis_transform(), ha=side,
                fontsize=TEXT_POINTS, color=LIGHT["ink"], parse_math=False,
            )  # fmt: skip
    best = max((main.value for _, main, tested in lines if not tested), default=math.nan)
    if math.isfinite(best):
        axes.axvline(best, color=LIGHT["other"], linewidth=1, linestyle=(0, (3, 3)), zorder=0)
        caption += " The broken line is the best floor."
    axes.set_ylim(0.4 - len(lines), 0.75)
    axes.margins(x=0.06)
    _dress(axes, title, "", "")
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    words = "; ".join(f"{text} {main.text()}" for text, main, _ in lines)
    return Picture(name, "Scores with their intervals", figure, f"Forest plot. {words}.", caption)


def _roc(curves: Sequence[RankingCurve], areas: dict[str, str], source: str, name: str) -> Picture:
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=LIGHT["baseline"], linewidth=1, linestyle=(0, (3, 3)))
    for place, curve in enumerate(curves):
        _line(axes, curve.false_positives, curve.sensitivity, place)
    _unit(axes)
    _dress(axes, "ROC", "share of negatives called (1 − specificity)", "sensitivity")
    _legend(axes, [curve.name for curve in curves], "lower right")
    words = "; ".join(f"{curve.name} {areas[curve.name]}" for curve in curves
                      if curve.name in areas)  # fmt: skip
    return Picture(
        f"roc{name}", "ROC curves", figure,
        f"ROC curves on the test fold of {', '.join(curve.name for curve in curves)}"
        + (f"; areas {words}." if words else "."),
        f"{source}, test fold: one curve for each label{_most(curves)}. The broken line is chance.",
    )  # fmt: skip


def _precision_recall(score: Score, source: str, name: str) -> Picture:
    figure, axes = _figure()
    for place, curve in enumerate(score.curves):
        _line(axes, curve.sensitivity, curve.precision, place)
        axes.axhline(curve.precision[-1], color=CLASS_COLOURS[place], linewidth=0.7, alpha=0.6,
                     linestyle=(0, (1, 3)))  # fmt: skip
    _unit(axes)
    _dress(axes, "Precision and recall", "recall (sensitivity)", "precision (PPV)")
    _legend(axes, [curve.name for curve in score.curves], "best")
    precisions = "; ".join(
        f"{label.name} {label.text(label.average_precision)}" for label in score.labels
    )
    return Picture(
        f"precision-recall{name}", "Precision-recall curves", figure,
        f"Precision over recall on the test fold of "
        f"{', '.join(curve.name for curve in score.curves)}"
        + (f"; average precision {precisions}." if precisions else "."),
        f"{source}, test fold: one curve for each label{_most(score.curves)}. Dotted: precision of "
        "calling every record, the share of positives.",
    )  # fmt: skip


def _reliability(found: Calibration, source: str, name: str, noun: str) -> Picture:
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=LIGHT["baseline"], linewidth=1, linestyle=(0, (3, 3)))
    x, y = [own.predicted for own in found.bins], [own.positive for own in found.bins]
    most = max((own.count for own in found.bins), default=1)
    axes.plot(x, y, color=LIGHT["model"], linewidth=1.4)
    sizes = [16 + 130 * math.sqrt(own.count / most) for own in found.bins]
    axes.scatter(x, y, s=sizes, color=LIGHT["model"], alpha=0.75, linewidths=0, zorder=3)
    _unit(axes)
    _dress(axes, "Reliability", "predicted probability", "share of positives")
    words = ", ".join(
        f"{number(p)} predicted, {number(s)} found" for p, s in zip(x, y, strict=True)
    )
    return Picture(
        f"reliability{name}", "Reliability of the probabilities", figure,
        f"Share of positives over predicted probability, bin by bin: {words}.",
        f"{source}, test fold, every label of every {noun}; temperature {found.temperature:.2f}, "
        f"chosen on validation. On the broken line probabilities are what is found; dots are as "
        f"large as their bins. Expected calibration error {number(found.error)}, the mean over "
        "labels.",
    )  # fmt: skip


def _most(curves: Sequence[RankingCurve]) -> str:
    return f", the {len(curves)} of most positives" if len(curves) == len(CLASS_COLOURS) else ""


def _figure(height: float = INCHES[1]) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot", "drawing scores") from error
    figure = Figure(figsize=(INCHES[0], height), facecolor="none")
    figure.subplots_adjust(left=0.13, right=0.97, top=0.92, bottom=0.12)
    return figure, figure.subplots()


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], place: int) -> None:
    style: Any = _STYLES[place % len(_STYLES)]
    axes.plot(x, y, color=CLASS_COLOURS[place], linewidth=1.6, linestyle=style, label=str(place))


def _legend(axes: Axes, names: Sequence[str], where: Literal["lower right", "best"]) -> None:
    # Set below: matplotlib leaves out a name that begins with "_", and reads "$" as mathematics.
    places = [str(place) for place in range(len(names))]
    handles = [line for line in axes.get_lines() if line.get_label() in places]
    legend = axes.legend(
        handles, places, loc=where, frameon=False, fontsize=TEXT_POINTS,
        labelcolor=LIGHT["ink"], labelspacing=0.25,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(_short(name, 24))


def _unit(axes: Axes) -> None:
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.03), xticks=[0, 0.25, 0.5, 0.75, 1],
             yticks=[0, 0.25, 0.5, 0.75, 1])  # fmt: skip


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_facecolor("none")
    axes.set_title(printable(title), loc="left", fontsize=TEXT_POINTS + 1.5, fontweight="bold",
                   color=LIGHT["ink"], parse_math=False)  # fmt: skip
    axes.set_xlabel(x, fontsize=TEXT_POINTS, color=LIGHT["muted"])
    axes.set_ylabel(y, fontsize=TEXT_POINTS, color=LIGHT["muted"])
    axes.tick_params(labelsize=TEXT_POINTS - 0.5, labelcolor=LIGHT["muted"], color=LIGHT["rule"])
    axes.grid(color=LIGHT["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(LIGHT["rule"])


def _short(name: str, most: int) -> str:
    name = printable(name)
    return name if len(name) <= most else name[: most - 1] + "…"
