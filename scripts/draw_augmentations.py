"""What each augmentation of a recording does to it, as one picture.

python scripts/draw_augmentations.py docs/augmentations.svg
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from matplotlib.figure import Figure

from latentcast.batch import Inputs
from latentcast.config import EcgAugmentation, EcgInput
from latentcast.data.ecg_augment import EcgAugment
from latentcast.randomness import Draw
from latentcast.report.style import LIGHT, TEXT_POINTS
from latentcast.signals.synthetic import synthetic_recording

RATE, SECONDS = 125.0, 2.0
OFF = {"gain": 0.0, "lead_gain": 0.0, "wander": 0.0, "noise": 0.0, "drop_leads": 0.0}
SHOWN: dict[str, dict[str, Any]] = {
    "gain 0.4": {"gain": 0.4},
    "lead_gain 0.4": {"lead_gain": 0.4},
    "wander 0.2 mV": {"wander": 0.2},
    "noise 0.1 mV": {"noise": 0.1},
    "powerline 0.1 mV": {"powerline": 0.1},
    "drop_leads 0.5": {"drop_leads": 0.5},
    "warp 0.3": {"warp": 0.3},
}
LEADS = ("II", "V2")


def main() -> None:
    recording = synthetic_recording(sampling_rate=RATE, seconds=SECONDS, wander=0.0, noise=0.0)
    values = torch.from_numpy(recording.signal)[None]
    settings = EcgInput(sampling_rate=RATE, length=values.shape[2], clip=None)
    seconds, draw = torch.arange(values.shape[2]) / RATE, Draw(7, 0, torch.tensor([6]))
    figure = Figure(figsize=(8, 9), facecolor="white")
    grid = figure.subplots(len(SHOWN), len(LEADS), sharex=True, squeeze=False)
    figure.subplots_adjust(left=0.06, right=0.98, top=0.96, bottom=0.05, hspace=0.5, wspace=0.12)
    for row, (name, strengths) in zip(grid, SHOWN.items(), strict=True):
        augmentation = EcgAugmentation(**{**OFF, **strengths})
        changed = EcgAugment(augmentation, settings, values.shape[2])(Inputs(values), draw).values
        for axes, lead in zip(row, LEADS, strict=True):
            place = recording.leads.index(lead)
            axes.plot(seconds, values[0, place], color=LIGHT["muted"], linewidth=0.7)
            axes.plot(seconds, changed[0, place], color=LIGHT["model"], linewidth=0.7)
            axes.set_title(f"{name}, lead {lead}", loc="left", fontsize=TEXT_POINTS)
            axes.tick_params(labelsize=TEXT_POINTS - 1)
            axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("seconds", fontsize=TEXT_POINTS)
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
