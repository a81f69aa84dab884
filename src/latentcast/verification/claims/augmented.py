"""Recordings as they are cut, changed and filtered: each number from its draw, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import EcgAugmentation, EcgInput
from latentcast.config.filters import Baseline, HighPass
from latentcast.config.inputs import Normalisation
from latentcast.data.ecg_augment import EcgAugment, kept_leads
from latentcast.data.ecg_filters import baseline, filtered
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest
from latentcast.verification.observe.recordings import TWELVE, Floats, is_ecg
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.twin import Twin

NEEDS = is_ecg
OURS = "our design, law 1: the state is the step"
COUNT, SAMPLES, RATE, LENGTH = 12, 90, 150.0, 50
FLOAT = 1e-4
"""Of sums of float32 of the order of 1 to 10, and of angles of some hundred radians."""


def _recording(**changed: Any) -> EcgInput:
    mean, std = np.linspace(-0.2, 0.3, 12), np.linspace(0.2, 0.5, 12)
    own: dict[str, Any] = {
        "leads": TWELVE, "sampling_rate": RATE, "length": SAMPLES, "clip": 4.0, "scale": 0.005,
        "normalisation": Normalisation(mean=tuple(mean), std=tuple(std)),
    }  # fmt: skip
    return EcgInput(**(own | changed))


def _draw(twin: Twin) -> Draw:
    return Draw(twin.seed, 11, torch.arange(COUNT) * 3 + 7)


def _noise(twin: Twin, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(twin.seed))


def _kept(draw: Draw, stream: str, share: float) -> npt.NDArray[np.bool_]:
    """Lead by lead: half of the samples lose those whose number is below twice the share's."""
    own, loses, rank = (draw.uniform(f"{stream} {name}", n).double().numpy() for name, n in
                        (("lost share", 1), ("loses", 1), ("leads", 12)))  # fmt: skip
    kept = np.ones((COUNT, 12), bool)
    for sample in range(COUNT):
        limit = 2 * share * own[sample, 0] if loses[sample, 0] < 0.5 else 0.0
        for lead in range(12):
            kept[sample, lead] = rank[sample, lead] >= limit
        kept[sample, int(rank[sample].argmax())] = True
    return kept


def _electrodes() -> Floats:
    """Twelve leads of RA, LA, LL and six on the chest (Einthoven, Goldberger, Wilson)."""
    right, left, foot, *chest = np.eye(9)
    return np.stack([
        left - right, foot - right, foot - left, right - (left + foot) / 2,
        left - (right + foot) / 2, foot - (right + left) / 2,
        *(one - (right + left + foot) / 3 for one in chest),
    ])  # fmt: skip


def _changed(
    values: Floats, draw: Draw, settings: EcgAugmentation, shape: EcgInput, electrodes: Floats
) -> Floats:
    """A sample at a time in float64, in millivolts, at the electrodes."""
    assert shape.normalisation is not None and shape.clip is not None
    mean, std = (np.array(x)[:, None] for x in (shape.normalisation.mean, shape.normalisation.std))
    amplifier = [0] * 6 + [*range(1, 7)] if settings.consistent else [*range(12)]
    many, seconds = electrodes.shape[1], np.arange(values.shape[2]) / shape.sampling_rate

    def drawn(kind: str, stream: str, n: int) -> Floats:
        return np.asarray(getattr(draw, kind)(stream, n).double().numpy())

    common, own = (
        drawn("normal", "view gain", 1),
        drawn("normal", "view lead gain", max(amplifier) + 1),
    )
    rate = 0.05 + 0.45 * drawn("uniform", "view wander rate", 1)
    white = drawn("normal", "view noise", many * values.shape[2]).reshape(len(values), many, -1)
    loud = drawn("uniform", "view noise size", 1)
    waves = []
    for name, hertz, strength in (
        ("wander", rate, settings.wander),
        ("mains", 0 * rate + settings.mains, settings.powerline),
    ):
        size, phase = (drawn(kind, f"view {name} {word}", many)[:, :, None] for kind, word in
                       (("normal", "size"), ("uniform", "phase")))  # fmt: skip
        angle = 2 * math.pi * (hertz[:, :, None] * seconds + phase)
        waves.append(strength * size * np.sin(angle))
    added = waves[0] + waves[1] + settings.noise * loud[:, :, None] * white
    gains = np.exp(settings.gain * common + settings.lead_gain * own[:, amplifier])[:, :, None]
    millivolts = (values * std + mean) * gains + electrodes @ added
    kept = _kept(draw, "view", settings.drop_leads)[:, :, None]
    return np.where(kept, np.clip((millivolts - mean) / std, -shape.clip, shape.clip), 0.0)


@claim("views.recordings", "A view of a recording is a crop at the place that was drawn, with the "
       "gains, wander, hum and noise of its draw, in millivolts and at the electrodes, clipped and "
       "with leads lost; what was not measured is 0.", source=OURS)  # fmt: skip
def recordings(twin: Twin) -> Evidence:
    """A sample at a time in float64; with and without each strength, faster and slower."""
    strengths: dict[str, Any] = {"gain": 0.3, "lead_gain": 0.2, "wander": 0.3, "noise": 0.2,
                                 "powerline": 0.2, "mains": 60, "drop_leads": 0.4}  # fmt: skip
    none_of = dict.fromkeys(("gain", "lead_gain", "wander", "noise", "powerline"), 0.0)
    draw, shape, parts = _draw(twin), _recording(), list[Evidence]()
    raw, flags = 2 * _noise(twin, COUNT, 12, SAMPLES), _noise(twin, COUNT, 12, SAMPLES) > -1.2
    place = draw.for_samples("view place").double().numpy()
    ways: dict[str, dict[str, Any]] = {
        "at electrodes": strengths, "lead by lead": strengths | {"consistent": False},
        "nothing but gains": none_of | {"gain": 0.3, "drop_leads": 0.0},
        "warped": none_of | {"warp": 0.3, "drop_leads": 0.5}, "leads": strengths,
    }  # fmt: skip
    for name, own in ways.items():
        settings = EcgAugmentation(**own)
        tokens = name == "leads"
        augment = EcgAugment(
            settings, _recording(**({"tokens": "per_lead"} if tokens else {})), LENGTH
        )
        given = Inputs(torch.where(flags, raw, 0.0), flags)
        found = augment(given, draw)
        changed_together = augment(Inputs(raw), draw)
        clean, valid = np.zeros((COUNT, 12, LENGTH)), np.ones((COUNT, 12, LENGTH), bool)
        full = np.zeros((COUNT, 12, LENGTH))
        speed = np.exp(settings.warp * (2 * draw.for_samples("view warp").double().numpy() - 1))
        x, unmasked, measured = (one.double().numpy() for one in (given.values, raw, flags))
        for n in range(COUNT):
            extent = min(LENGTH * speed[n], SAMPLES)
            first = place[n] * (SAMPLES - extent)
            begin = int(place[n] * (SAMPLES - LENGTH + 1))
            for k in range(LENGTH):
                if settings.warp == 0:
                    low, share = begin + k, 0.0
                else:
                    at = first + (k + 0.5) * extent / LENGTH - 0.5
                    at = min(max(at, 0.0), SAMPLES - 1)
                    low, share = int(at), at - int(at)
                high = min(low + 1, SAMPLES - 1) if settings.warp else low
                valid[n, :, k] = (measured[n, :, low] > 0) & (measured[n, :, high] > 0)
                clean[n, :, k] = (1 - share) * x[n, :, low] + share * x[n, :, high]
                full[n, :, k] = (1 - share) * unmasked[n, :, low] + share * unmasked[n, :, high]
        clean = np.where(valid, clean, 0.0)
        spread = _electrodes() if settings.consistent else np.eye(12)
        expected = np.where(valid, _changed(clean, draw, settings, shape, spread), 0.0)
        without = _changed(full, draw, settings, shape, spread)
        kept = _kept(draw, "view", settings.drop_leads)[:, :, None] if tokens else True
        assert found.valid is not None and found.clean is not None
        bound = 1e-3 if settings.warp else FLOAT  # a place in float32, among some ten samples
        gaps = [
            float(np.abs(a.double().numpy() - b).max())
            for a, b in (
                (found.values, expected),
                (found.clean, clean),
                (changed_together.values, without),
            )
        ]
        parts += [
            at_most(f"{name}: largest difference", greatest(*gaps), bound),
            equal(f"{name}: flags that differ",
                  int((found.valid.numpy() != (valid & kept)).sum()), 0),
            equal(f"{name}: flags of what was all measured", str(changed_together.valid is None),
                  str(not tokens)),
        ]  # fmt: skip
    bare = EcgAugment(EcgAugmentation(), _recording(normalisation=None), LENGTH)
    numbers = [float(bare.mean.abs().max()), float((bare.std - 1).abs().max())]
    return all_of(
        *parts, at_most("unlike 0 and 1 where nothing is normalised", greatest(*numbers), 0.0)
    )


@claim(
    "data.lost-leads",
    "Half of the samples lose leads, each by its own number below twice a "
    "share that is drawn evenly, and never all of them; training alone does.",
    source=OURS,
)
def lost_leads(twin: Twin) -> Evidence:
    draw, wrong = _draw(twin), 0
    for share in (0.0, 0.3, 1.0):
        wrong += int(
            (kept_leads(draw, "input", 12, share).numpy() != _kept(draw, "input", share)).sum()
        )
    shape = _recording(tokens="per_lead", drop_leads=0.4, filters=(HighPass(hertz=2.0),))
    assert shape.normalisation is not None and shape.clip is not None
    counts = (300 * _noise(twin, COUNT, SAMPLES, 12)).to(torch.int16)
    counts[1, 3:9, 2] = -32768
    preprocess = EcgPreprocess(shape)
    flags = (counts != -32768).transpose(1, 2)
    millivolts = filtered(counts.transpose(1, 2).double() * 0.005, flags, shape.filters, RATE)
    mean, std = (np.array(x)[:, None] for x in (shape.normalisation.mean, shape.normalisation.std))
    normal = np.clip((millivolts.numpy() - mean) / std, -shape.clip, shape.clip)
    worst = 0.0
    for read, kept in ((preprocess(counts, draw), _kept(draw, "input", 0.4)[:, :, None]),
                       (preprocess(counts), np.ones((COUNT, 12, 1), bool))):  # fmt: skip
        assert read.valid is not None
        own = flags.numpy() & kept
        worst = greatest(worst, float(np.abs(np.where(own, normal, 0) - read.values.numpy()).max()))
        wrong += int((read.valid.numpy() != own).sum())
    cases: dict[str, Case] = {
        "no statistics": (lambda: EcgPreprocess(_recording(normalisation=None)),
                          "input.normalisation: is not set"),
        "of three leads": (lambda: EcgPreprocess(_recording().model_copy(update={
            "normalisation": Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3)})), "has 3 leads"),
    }  # fmt: skip
    return all_of(
        equal("flags that differ", wrong, 0),
        at_most("values, largest difference", worst, 1e-3),
        refusals(cases, {"of twelve": lambda: EcgPreprocess(shape)}),
    )


@claim("data.baseline", "The baseline is the median over 0.2 s and then over 0.6 s, of means over "
       "0.04 s, its ends repeated, joined by lines; it is taken off in its turn among the "
       "filters.", source="de Chazal, O'Dwyer & Reilly 2004")  # fmt: skip
def baselines(twin: Twin) -> Evidence:
    """A window at a time, at rates at which windows come out odd and records do not divide."""
    worst, drift = 0.0, 0.0
    for rate, samples in ((100.0, 203), (257.0, 400), (30.0, 90), (500.0, 1500)):
        signal = torch.cumsum(_noise(twin, 2, 3, samples).double(), -1)
        block = max(1, round(0.04 * rate))
        for row, found in zip(
            signal.flatten(0, 1).numpy(), baseline(signal, rate).flatten(0, 1).numpy(), strict=True
        ):
            padded = np.concatenate([row, np.repeat(row[-1], -samples % block)])
            slow = [float(np.mean(padded[n : n + block])) for n in range(0, len(padded), block)]
            for seconds in (0.2, 0.6):
                half = max(1, round(seconds * rate / block / 2))
                near = [slow[min(max(k, 0), len(slow) - 1)] for k in range(-half, len(slow) + half)]
                slow = [sorted(near[n : n + 2 * half + 1])[half] for n in range(len(slow))]
            line = np.interp((np.arange(samples) + 0.5) / block - 0.5, np.arange(len(slow)), slow)
            worst, drift = max(worst, float(np.abs(line - found).max())), max(drift, np.ptp(line))
    signal, flags = _noise(twin, 1, 2, 400).double(), torch.ones(1, 2, 400, dtype=torch.bool)
    both = filtered(signal, flags, [HighPass(hertz=1.0), Baseline()], 100.0)
    one = filtered(signal, flags, [HighPass(hertz=1.0)], 100.0)
    flags[0, 0, 50:90] = False
    noisy = [
        filtered(torch.where(flags, signal, x), flags, [Baseline()], 100.0) for x in (0.0, 9.0)
    ]
    return all_of(
        at_most("largest difference", worst, 1e-9),
        above("range of the lines", drift, 1.0),
        at_most(
            "after another filter", float((both - one + baseline(one, 100.0)).abs().max()), 1e-12
        ),
        at_most(
            "by what was not measured",
            float(
                (noisy[0] - noisy[1]).abs()[0, 1].max()
                + (noisy[0] - noisy[1]).abs()[0, 0][flags[0, 0]].max()
            ),
            1e-12,
        ),
    )
