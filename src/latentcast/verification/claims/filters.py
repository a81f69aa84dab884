"""Filters of recordings: what each frequency keeps, and what stands where nothing was measured."""

from __future__ import annotations

import math

import numpy as np
import torch

from latentcast.config.filters import HighPass, Notch
from latentcast.data.ecg_filters import bridged, filtered
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most
from latentcast.verification.observe.recordings import is_ecg
from latentcast.verification.observe.twin import Twin

RATE, SAMPLES = 200.0, 400
NEEDS = is_ecg


@claim("data.filters", "A filter multiplies each frequency by its gain, forwards and back, and "
       "the window's mirror image goes on beyond its ends.",
       source="Butterworth 1930, by the bilinear transform")  # fmt: skip
def filters(twin: Twin) -> Evidence:
    """Half-sample cosines, which their mirror image continues, on an offset of 1 V."""
    time, offset = torch.arange(SAMPLES, dtype=torch.float64) + 0.5, 1000.0
    kept = {1: 0.0, 4: 0.0, 37: 0.0, 200: 0.0}
    for k in kept:
        turn = math.pi * k / (2 * SAMPLES)
        kept[k] = 1 / (1 + (math.tan(math.pi * 0.5 / RATE) / math.tan(turn)) ** 4)
    parts = {k: torch.cos(math.pi * k * time / SAMPLES) for k in kept}
    signal = torch.stack(list(parts.values())).sum(0) + offset
    passed = torch.stack([kept[k] * part for k, part in parts.items()]).sum(0)
    hum = signal - parts[200]  # 50 Hz at 200 a second
    answers = [
        filtered(signal.expand(1, 2, -1), torch.ones(1, 2, SAMPLES, dtype=torch.bool), [one], RATE)
        for one in (HighPass(hertz=0.5, order=2), Notch(hertz=50.0, quality=1e4))
    ]
    gaps = [float((answer - own).abs().max())
            for answer, own in zip(answers, (passed, hum), strict=True)]  # fmt: skip
    return all_of(
        at_most("high-pass, largest difference", gaps[0], 1e-8),
        at_most("notch, largest difference", gaps[1], 1e-2),
    )


@claim("data.bridged", "What is not valid is bridged by a line from the valid sample before to the "
       "one after, level at the ends; a lead without any is 0.",
       source="our design, data/ecg_filters.py")  # fmt: skip
def bridges(twin: Twin) -> Evidence:
    generator = np.random.default_rng(twin.seed)
    signal, valid = generator.normal(size=(2, 3, 60)), generator.random((2, 3, 60)) < 0.4
    valid[0, 1], valid[1, 2], valid[1, 0, :9] = False, True, False
    expected, place = np.zeros(signal.shape), np.arange(60)
    for row in np.ndindex(2, 3):
        if valid[row].any():
            expected[row] = np.interp(place, place[valid[row]], signal[row][valid[row]])
    found = bridged(torch.from_numpy(signal), torch.from_numpy(valid)).numpy()
    return all_of(at_most("largest difference", float(np.abs(found - expected).max()), 1e-6))
