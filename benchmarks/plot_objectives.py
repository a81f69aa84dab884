"""Curves of loss and rank of the runs in `compare_objectives.json`, as one picture.

python benchmarks/plot_objectives.py benchmarks/compare_objectives.json docs/jepa-curves.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentcast.report.style import CLASS_COLOURS, LIGHT, TEXT_POINTS

TITLES = {"nepa": "NEPA", "ijepa": "I-JEPA", "hjepa": "H-JEPA"}


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    names = list(dict.fromkeys(run["recipe"] for run in told["runs"]))
    figure = Figure(figsize=(10, 5.2), facecolor="white")
    grid = figure.subplots(2, len(names), squeeze=False)
    figure.subplots_adjust(left=0.06, right=0.98, top=0.92, bottom=0.09, wspace=0.25, hspace=0.4)
    for column, name in enumerate(names):
        runs = [run for run in told["runs"] if run["recipe"] == name]
        title = TITLES[name.partition("-")[0]]
        losses = [key for key in runs[0]["curve"] if key.endswith("_loss") and key[:5] == "level"]
        drawn = (losses or ["loss"], [k for k in runs[0]["curve"] if k.endswith("target_rank")])
        for row, (keys, what) in enumerate(
            zip(drawn, ("loss", "rank of the targets"), strict=True)
        ):
            axes = grid[row][column]
            _lines(axes, runs, keys)
            axes.set_title(f"{title}: {what}", loc="left", fontsize=TEXT_POINTS + 0.5)
            if row:
                axes.set_xlabel("optimizer step", fontsize=TEXT_POINTS, color=LIGHT["muted"])
    figure.savefig(sys.argv[2])


def _lines(axes: Axes, runs: list[dict[str, Any]], keys: list[str]) -> None:
    for n, key in enumerate(keys):
        for run in runs:
            curve = run["curve"]
            axes.plot(curve["step"], curve[key], color=CLASS_COLOURS[n], linewidth=1, alpha=0.8)
        if len(keys) > 1:
            axes.plot([], [], color=CLASS_COLOURS[n], label=key.partition("_")[0])
    if len(keys) > 1:
        axes.legend(frameon=False, fontsize=TEXT_POINTS - 1)
    axes.tick_params(labelsize=TEXT_POINTS - 1)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
