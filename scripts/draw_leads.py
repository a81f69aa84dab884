"""The grid of leads × time, what its masks hide, and the levels above it, as one picture.

python scripts/draw_leads.py docs/leads.svg
"""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from latentcast.objectives.jepa.masks import mask_sampler
from latentcast.randomness import Draw
from latentcast.recipes import recipe
from latentcast.report.style import LIGHT, TEXT_POINTS

COLOURS = ListedColormap(["#ffffff", LIGHT["model"], LIGHT["other"]])
"""Neither, context, target."""
WHAT = ("patches of one lead", "merged over the leads", "merged over time")


def main() -> None:
    matplotlib.rcParams["svg.fonttype"] = "none"  # letters and not their outlines
    config = recipe("hjepa-ecg-leads-tiny")
    masks, grids = mask_sampler(config)(Draw(0, 0, torch.arange(1)), None), config.grids
    assert config.input.kind == "ecg" and config.patch_seconds is not None
    seconds = config.input.length / config.input.sampling_rate
    figure = Figure(figsize=(8, 4.6), facecolor="white")
    # The coarsest level on top, each as high as it has rows.
    rows = figure.subplots(len(grids), 1, gridspec_kw={"height_ratios": [1, 1, 9]})[::-1]
    figure.subplots_adjust(left=0.07, right=0.98, top=0.93, bottom=0.1, hspace=0.6)
    for level, (axes, grid) in enumerate(zip(rows, grids, strict=True)):
        parts = np.zeros(grid)
        parts.flat[masks.targets[level][:, 0].flatten().numpy()] = 2
        if level == 0:
            parts.flat[masks.context[0].numpy()] = 1
        axes.pcolormesh(
            np.linspace(0, seconds, grid[1] + 1), np.arange(grid[0] + 1), parts, cmap=COLOURS,
            vmin=0, vmax=2, edgecolors=LIGHT["muted"], linewidth=0.4,
        )  # fmt: skip
        axes.invert_yaxis()
        cell = f"{grid[0]} × {grid[1]} tokens of {seconds / grid[1]:g} s, {WHAT[level]}"
        axes.set_title(f"level {level}: {cell}", loc="left", fontsize=TEXT_POINTS)
        names = config.input.leads if grid[0] > 1 else ()
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.set_xticks([])
        axes.tick_params(labelsize=TEXT_POINTS - 1, length=0)
    rows[0].set_xticks(range(0, int(seconds) + 1, 2))
    rows[0].set_xlabel("seconds", fontsize=TEXT_POINTS)
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
