"""What stands beside a score: the floor under it, and how far its probabilities can be believed."""

from __future__ import annotations

import math
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch

from latentcast.data.store import Store
from latentcast.evaluation.baselines import Pixels, RandomConvolutions
from latentcast.evaluation.calibration import expected_calibration_error, thresholds
from latentcast.evaluation.heads.attentive import Attentive
from latentcast.nn.heads import AttentiveHead
from latentcast.signals.recording import INVALID
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal
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


@claim("probe.floor-pixels", "The floor of images is their values from 0 to 1, halved by averaging "
       "until there are at most 256.", source="our protocol, evaluation/baselines.py",
       about=is_image)  # fmt: skip
def pixels(twin: Twin) -> Evidence:
    """Of images of three sizes, block by block."""
    gaps, generator = list[float](), np.random.default_rng(twin.seed)
    for side, blocks in ((4, 1), (16, 2), (32, 4)):
        image = generator.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        token = Pixels(side, side, 3).token_layers(image)[0][0].double().flatten()
        places = product(range(3), range(0, side, blocks), range(0, side, blocks))
        means = [image[0, y : y + blocks, x : x + blocks, c].mean() / 255 for c, y, x in places]
        same = token.shape == (len(means),)
        gaps.append(float((token - torch.tensor(means)).abs().max()) if same else math.inf)
    return all_of(at_most("largest difference", max(gaps), 1e-6))


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
