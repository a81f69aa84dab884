"""What stands beside a score: the floor under it, and how far its probabilities can be believed."""

from __future__ import annotations

import math
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch

from latentcast import randomness
from latentcast.data.store import Store
from latentcast.evaluation.baselines import Pixels, RandomConvolutions
from latentcast.evaluation.calibration import expected_calibration_error, thresholds
from latentcast.evaluation.heads.attentive import Attentive
from latentcast.nn.heads import AttentiveHead
from latentcast.signals.recording import INVALID
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, none
from latentcast.verification.observe.compared import differences, refusal
from latentcast.verification.observe.pictures import is_image
from latentcast.verification.observe.probe import can_be_probed, labelled_store
from latentcast.verification.observe.twin import Twin

NEEDS = can_be_probed


def _is_recording(twin: Twin) -> bool:
    return can_be_probed(twin) and not is_image(twin)


@claim("probe.floor-kernels", "The floor of recordings is the maximum of each random kernel and "
       "the share of time it is positive; its weights sum to 0 over each lead that it reads.",
       source="Dempster, Petitjean & Webb 2020 (ROCKET)", about=_is_recording)  # fmt: skip
def kernels(twin: Twin) -> Evidence:
    """Sample by sample in float64, of the kernels as they were drawn."""
    store = labelled_store(twin)
    floor, samples = (
        RandomConvolutions.from_store(store, kernels=8, seed=twin.seed),
        store.take([3]),
    )
    token = floor.token_layers(samples)[0][0][0, 0].double().numpy()
    signal, measured = _standardised(store, samples[0])
    peaks, shares, sums, blind = list[float](), list[float](), 0.0, 0
    for group in floor._groups:
        for weights, bias in zip(
            group.weights.double().numpy(), group.biases.tolist(), strict=True
        ):
            sums = max(sums, float(np.abs(weights.sum(1)).max()))
            blind += not weights.any()
            reach = group.dilation * (weights.shape[1] - 1) // 2
            wide = np.pad(signal, ((0, 0), (reach, reach)))
            out = np.array([
                (weights * wide[:, t : t + 2 * reach + 1 : group.dilation]).sum() + bias
                for t in np.flatnonzero(measured)
            ])  # fmt: skip
            peaks.append(float(out.max()))
            shares.append(float((out > 0).mean()))
    gaps = np.abs(token - np.array(peaks + shares))
    return all_of(
        at_most("largest difference", float(gaps.max()), 2.0 / len(signal[0])),
        at_most("largest sum over a lead", sums, 1e-5),
        equal("kernels that read nothing", blind, 0),
        features=len(token),
    )


def _standardised(store: Store, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(leads, T)`` by the statistics of the training split, and where some lead was measured."""
    valid, s = counts.T != INVALID, store.manifest.statistics
    mean, std = (
        np.array([empty if value is None else value for value in values])[:, None]
        for values, empty in ((s.mean, 0.0), (s.std, math.inf))
    )
    return np.where(valid, (counts.T * store.scale - mean) / std, 0.0), valid.any(0)


@claim("probe.kernels-drawn", "A random kernel has 7, 9 or 11 taps, a dilation of a power of two "
       "up to the recording, a number of leads that is even in its logarithm, and weights of a "
       "normal distribution; what was never recorded is read as nothing.",
       source="Dempster, Petitjean & Webb 2020 (ROCKET)")  # fmt: skip
def drawn(twin: Twin) -> Evidence:
    """Drawn once more, a kernel at a time, of one lead and of twelve; and read where leads, or all
    of them, were not recorded."""
    wrong, kernels = list[str](), 60
    for leads, length in ((1, 11), (12, 333), (3, 64)):
        generator = np.random.default_rng(leads)
        mean, std = np.linspace(-1, 1, leads), np.linspace(0.5, 2, leads)
        std[0] = 0.0 if leads == 3 else std[0]
        floor = RandomConvolutions(
            leads=tuple(map(str, range(leads))), sampling_rate=100.0, scale=0.01, length=length,
            mean=mean, std=std, kernels=kernels, seed=twin.seed + 3,
        )  # fmt: skip
        expected = _kernels(leads, length, kernels, twin.seed + 3)
        found = [
            (len(weights[0]), group.dilation, bias, weights)
            for group in floor._groups
            for weights, bias in zip(
                group.weights.double().numpy(), group.biases.tolist(), strict=True
            )
        ]
        wrong += differences(found, expected, 2e-6, f"{leads} leads")
        counts = generator.integers(-300, 300, (4, length, leads)).astype(np.int16)
        counts[1, :5], counts[2], counts[3, 2:9, 0] = INVALID, INVALID, INVALID
        (token,), valid = floor.token_layers(counts)
        wrong += differences(valid[:, 0], [True, True, False, True], at=f"{leads}: recorded")
        signal = (counts.astype(np.float64) * 0.01 - mean) / np.maximum(std, 1e-6)
        signal = np.where(counts == INVALID, 0.0, signal)
        for row in range(4):
            measured = (counts[row] != INVALID).any(1)
            own = _read(signal[row].T, measured, expected)
            # The share of time counts samples, of which one may lie at 0 in float32.
            wrong += differences(token[row, 0, :kernels], own[:kernels], 2e-4, f"{leads}: maxima")
            gaps = np.abs(token[row, 0, kernels:].double().numpy() - own[kernels:])
            wrong += [f"{leads}: share off by {gap:.3f}" for gap in gaps
                      if gap > 0.5 / max(1, measured.sum())]  # fmt: skip
        same = repr(("random convolutions", (floor.leads, 100.0, 0.01, length), kernels,
                     twin.seed + 3, floor._mean.tolist(), floor._std.tolist()))  # fmt: skip
        wrong += differences(floor.fingerprint, same, at=f"{leads}: fingerprint")
    few: Any = {"leads": ("I",), "sampling_rate": 1.0, "scale": 1.0, "mean": [0.0], "std": [1.0]}
    answer = refusal(lambda: RandomConvolutions(length=10, **few))
    wrong += differences(answer.partition(";")[0], "random convolutions: 10 samples are fewer than "
                         "11 taps")  # fmt: skip
    return all_of(none("differs", wrong), kernels=3 * kernels)


def _kernels(leads: int, length: int, kernels: int, seed: int) -> list[tuple[Any, ...]]:
    """Taps, dilation, bias and weights of each, by taps and dilation."""
    stream, width, found = randomness.key(seed, "random convolutions"), 4 + 23 * leads, []
    u = [list(map(float, randomness.uniform(stream, np.arange(k * width, (k + 1) * width))))
         for k in range(kernels)]  # fmt: skip
    # All radii come before all angles, kernel by kernel and lead by lead.
    numbers = [x for row in u for x in row[4 + leads :]]
    half = len(numbers) // 2
    for k, row in enumerate(u):
        taps = (7, 9, 11)[int(row[0] * 3)]
        octaves = 0
        while 2 ** (octaves + 1) * (taps - 1) <= length - 1:
            octaves += 1
        size = min(leads, max(1, math.floor((leads + 1) ** row[3])))
        weights = np.zeros((leads, taps))
        for lead in np.argsort(row[4 : 4 + leads])[:size].tolist():
            begin = 11 * (k * leads + lead)
            pairs = zip(numbers[begin : begin + taps], numbers[half + begin :], strict=False)
            normal = [math.sqrt(-2 * math.log(1 - a)) * math.cos(2 * math.pi * b) for a, b in pairs]
            weights[lead] = np.array(normal) - sum(normal) / taps
        found.append((taps, 2 ** int(row[1] * (octaves + 1)), 2 * row[2] - 1, weights))
    return sorted(found, key=lambda one: one[:2])


def _read(signal: np.ndarray, measured: np.ndarray, kernels: list[Any]) -> np.ndarray:
    """The maximum of each kernel and the share of time it is positive; 0 where nothing was
    recorded."""
    if not measured.any():
        return np.zeros(2 * len(kernels))
    peaks, shares = list[float](), list[float]()
    for taps, dilation, bias, weights in kernels:
        reach = dilation * (taps - 1) // 2
        wide = np.pad(signal, ((0, 0), (reach, reach)))
        parts = [wide[:, n * dilation : n * dilation + signal.shape[1]] for n in range(taps)]
        out = np.einsum("lt,tls->s", weights, np.stack(parts))[measured] + bias
        peaks.append(float(out.max()))
        shares.append(float((out > 0).mean()))
    return np.array(peaks + shares)


@claim("probe.floor-pixels", "The floor of images is their values from 0 to 1, halved by averaging "
       "until there are at most 256.", source="our protocol, evaluation/baselines.py",
       about=is_image)  # fmt: skip
def pixels(twin: Twin) -> Evidence:
    """Of images of three sizes, block by block; of long ones each side is halved."""
    gaps, generator = list[float](), np.random.default_rng(twin.seed)
    long = {(1, 300, 1): (1, 150), (7, 90, 1): (4, 45), (16, 16, 1): (16, 16), (17, 16, 1): (9, 8),
            (1, 1, 300): (1, 1)}  # fmt: skip
    wrong = [f"{size} is read as {Pixels(*size).size}" for size, own in long.items()
             if Pixels(*size).size != own or Pixels(*size).pooling != f"{own[0]} × {own[1]}"
             or Pixels(*size).fingerprint != f"pixels {own}"]  # fmt: skip
    for side, blocks in ((4, 1), (16, 2), (32, 4)):
        image = generator.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        token = Pixels(side, side, 3).token_layers(image)[0][0].double().flatten()
        places = product(range(3), range(0, side, blocks), range(0, side, blocks))
        means = [image[0, y : y + blocks, x : x + blocks, c].mean() / 255 for c, y, x in places]
        same = token.shape == (len(means),)
        _, valid = Pixels(side, side, 3).token_layers(np.repeat(image, 5, 0))
        wrong += differences(valid, np.ones((5, 1), bool), at="valid")
        gaps.append(float((token - torch.tensor(means)).abs().max()) if same else math.inf)
    return all_of(at_most("largest difference", max(gaps), 1e-6), none("other sizes", wrong))


@claim("probe.calibration", "The calibration error is the mean distance of probability and share "
       "of positives over 15 bins; a label is called from the probability with the best F1.",
       source="Naeini, Cooper & Hauskrecht 2015")  # fmt: skip
def calibration(twin: Twin) -> Evidence:
    """Bin by bin, and of every probability as a threshold."""
    generator = np.random.default_rng(twin.seed)
    p = generator.random((200, 2)).round(2) * 0.999
    y = generator.random((200, 2)) < p**2
    errors, best = list[float](), list[float]()
    for own, true in zip(p.T.tolist(), y.T.tolist(), strict=True):
        bins = [[(a, b) for a, b in zip(own, true, strict=True) if int(a * 15) == n]
                for n in range(15)]  # fmt: skip
        errors.append(sum(abs(sum(a - b for a, b in one)) for one in bins) / len(own))
        best.append(max(_f1(own, true, threshold) for threshold in own))
    found = [_f1(p[:, n].tolist(), y[:, n].tolist(), float(t))
             for n, t in enumerate(thresholds(p, y))]  # fmt: skip
    gaps = np.abs(expected_calibration_error(p, y) - errors)
    return all_of(
        at_most("error, largest difference", float(gaps.max()), 1e-12),
        at_most(
            "F1 short of the best", max(a - b for a, b in zip(best, found, strict=True)), 1e-12
        ),
        error=errors[0],
    )


@claim("probe.attentive-classes", "An attentive head gives a probability to every class, 0 to one "
       "that no training record has.", source="our protocol, evaluation/heads")  # fmt: skip
def attentive_classes(twin: Twin) -> Evidence:
    """Of three classes it was trained on and five that there are."""
    head = Attentive(AttentiveHead(6, 3), torch.zeros(6), torch.ones(6), "multi-class", 0.0, 1.0, 1)
    tokens: Any = None  # whose outputs are these
    with mock.patch.object(Attentive, "outputs", lambda self, _: np.tile([2.0, 0.0, 1.0], (4, 1))):
        shares = head.class_shares(tokens, 5)
    return all_of(
        equal("shape", str(shares.shape), str((4, 5))),
        at_most("sum, difference from 1", float(np.abs(shares.sum(1) - 1).max()), 1e-12),
        equal("probability of the others", float(shares[:, 3:].sum()), 0.0),
    )


def _f1(probabilities: list[float], true: list[bool], threshold: float) -> float:
    pairs = [(p >= threshold, t) for p, t in zip(probabilities, true, strict=True)]
    hits = sum(called and t for called, t in pairs)
    return 2 * hits / max(1, sum(called for called, _ in pairs) + sum(t for _, t in pairs))
