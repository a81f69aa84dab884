"""What a score counts: pairs, classes, resamples and neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from latentcast.evaluation import metrics
from latentcast.evaluation.heads import knn
from latentcast.nn import pooling
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.observe.data import is_ecg, is_image
from latentcast.verification.observe.network import within
from latentcast.verification.observe.probe import (
    mean_of_defined,
    naive_auroc,
)
from latentcast.verification.observe.twin import Subject

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/protocol.py"
FLOAT = 2.0**-23


def _pooled(subject: Subject) -> Evidence:
    """Tokens that are not valid are NaN: whoever touches one shows."""
    generator = torch.Generator().manual_seed(subject.seed)
    tokens = torch.randn(5, 9, 4, generator=generator)
    valid = torch.rand(5, 9, generator=generator) < 0.6
    valid[:, 4], valid[0] = True, True
    spoiled = torch.where(valid[..., None], tokens, torch.nan)
    worst: dict[str, tuple[float, float]] = {}
    for how in ("mean", "std", "last"):
        given = pooling.pool(spoiled, valid, how)
        gap = 0.0
        for row in range(5):
            held = tokens[row][valid[row]].double()
            mean = held.sum(0) / len(held)
            wanted = {"mean": mean, "last": held[-1],
                      "std": (((held - mean) ** 2).sum(0) / len(held)).sqrt()}[how]  # fmt: skip
            difference = float((given[row].double() - wanted).abs().max())
            gap = max(gap, math.inf if math.isnan(difference) else difference)
        worst[how] = (gap, 16 * FLOAT)
    return within(worst)


def _auroc(subject: Subject) -> Evidence:
    """Scores with many ties, a class without a positive and one without a negative."""
    rows = np.arange(40)
    scores = np.stack([(rows * step) % 7 for step in (1, 2, 3, 5, 4)], 1).astype(np.float64)
    targets = np.stack([rows % 3 == 0, rows % 5 < 2, (rows * rows) % 11 < 3,
                        rows < 0, rows >= 0], 1)  # fmt: skip
    given = metrics.auroc(targets, scores)
    wanted = [naive_auroc(targets[:, c], scores[:, c]) for c in range(5)]
    apart = max(abs(a - b) for a, b in zip(given[:3].tolist(), wanted[:3], strict=True))
    undefined = int(np.isnan(given).sum())
    macro = abs(float(metrics.macro(given)) - mean_of_defined(wanted))
    told: dict[str, Number] = {
        "largest difference from all pairs": float(apart),
        "of the mean over classes that have pairs": macro, "bound": 1e-12,
        "classes without a pair": 2, "of them undefined": undefined,
    }  # fmt: skip
    return Evidence(apart <= 1e-12 and macro <= 1e-12 and undefined == 2, told)


def _example() -> tuple[Array, Array, Array]:
    """Targets (30, 2) and two scores that know something of them."""
    rows = np.arange(30)
    targets = np.stack([rows % 3 == 0, rows % 2 == 0], 1)
    noise = np.sin(3.0 * rows[:, None] + np.arange(2))
    return targets, targets + 1.2 * noise, targets + 1.3 * np.roll(noise, 1, 0)


def _paired(subject: Subject) -> Evidence:
    """A score against itself differs by nothing in any resample; two, as counted one by one."""
    if not is_ecg(subject):
        truth = np.arange(20) % 3
        guesses = [np.where(np.arange(20) % n > 0, truth, (truth + 1) % 3) for n in (4, 2)]
        counts = metrics.draw([""] * 20, 50, 0)
        first, again, second = (
            metrics.score("multi-class", truth, guess, "abc", counts)[1]
            for guess in (guesses[0], guesses[0], guesses[1])
        )
        same = metrics.difference(first, again)
        spread = float(np.ptp(second.redrawn))
        return within({"a reading against itself": (same.high - same.low, 0.0)},
                      {"spread over resamples": (spread, 1e-3)})  # fmt: skip
    targets, scores, others = _example()
    owners = [f"p{n // 2}" for n in range(30)]
    counts = metrics.draw(owners, 40, 0)
    one, again, other = (
        metrics.score("multi-label", targets, given, "ab", counts)[1]
        for given in (scores, scores, others)
    )
    itself, told = metrics.difference(one, again), metrics.difference(one, other)
    gaps = []
    for times in counts:
        picks = np.repeat(np.arange(30), times)
        means = [
            mean_of_defined([naive_auroc(targets[picks, c], s[picks, c]) for c in range(2)])
            for s in (scores, others)
        ]
        gaps.append(means[0] - means[1])
    low, high = np.quantile(gaps, [0.025, 0.975])
    apart = max(abs(told.low - low), abs(told.high - high))
    return within(
        {"a score against itself, width": (itself.high - itself.low, 0.0),
         "interval from one that was counted": (float(apart), 1e-12)},
        low=told.low, high=told.high,
    )  # fmt: skip


def _patients(subject: Subject) -> Evidence:
    """Records of one patient come and go together, and as many patients are drawn as there are."""
    owners = ["a", "b", "a", "", "c", "b", "a", ""]
    drawn = metrics.draw(owners, 200, 0)
    together = bool((drawn[:, 0] == drawn[:, 2]).all() and (drawn[:, 0] == drawn[:, 6]).all()
                    and (drawn[:, 1] == drawn[:, 5]).all())  # fmt: skip
    alone = bool((drawn[:, 3] != drawn[:, 7]).any())
    patients = drawn[:, [0, 1, 3, 4, 7]].sum(1)
    told: dict[str, Number] = {
        "records of a patient together": together, "unnamed ones apart": alone,
        "patients drawn, of 5": f"{patients.min()} to {patients.max()}",
        "shares left out": float((drawn[:, 0] == 0).mean()), "should be": 0.8**5,
    }  # fmt: skip
    near = abs(float((drawn[:, 0] == 0).mean()) - 0.8**5) < 0.15
    return Evidence(together and alone and bool((patients == 5).all()) and near, told)


def _knn(subject: Subject) -> Evidence:
    """Vectors of very different lengths, one query at a time in float64."""
    generator = np.random.default_rng(subject.seed)
    size = np.exp(generator.standard_normal((60, 1)))
    bank = (size * (generator.standard_normal((60, 6)) + 1.0)).astype(np.float32)
    queries = (3 * generator.standard_normal((15, 6)) + 1.0).astype(np.float32)
    labels = generator.integers(0, 3, 60)
    rows, similarities = knn.neighbours(bank, queries, 5)
    predicted = knn.predict(bank, labels, queries, k=5)
    worst, order, votes = 0.0, 0, 0
    wide = bank.astype(np.float64)
    for n, query in enumerate(queries.astype(np.float64)):
        cosine = (wide @ query) / np.sqrt((wide**2).sum(1) * (query**2).sum())
        nearest = np.argsort(-cosine)[:5]
        order += int((np.sort(rows[n]) != np.sort(nearest)).any())
        worst = max(worst, float(np.abs(np.sort(similarities[n])[::-1] - cosine[nearest]).max()))
        ballot = np.zeros(3)
        for row in nearest:
            ballot[labels[row]] += math.exp(cosine[row] / 0.07)
        votes += int(predicted[n] != ballot.argmax())
    told: dict[str, Number] = {
        "largest difference from the cosine": worst, "bound": 16 * FLOAT,
        "queries with other neighbours": order, "with another class": votes,
    }  # fmt: skip
    return Evidence(worst <= 16 * FLOAT and not order and not votes, told)


CLAIMS: tuple[Claim, ...] = (
    Claim("probe.valid-tokens", "Features are pooled over valid tokens only.", OURS, _pooled),
    Claim("probe.auroc", "AUROC is the share of pairs in order, ties half; the macro average is "
          "over classes that have pairs.", "Mann & Whitney 1947; NEPA-ECG, defect 7: 0.5 made up",
          _auroc, is_ecg),
    Claim("probe.paired", "Differences are taken in the same resamples.", OURS, _paired),
    Claim("probe.patients", "The bootstrap draws patients with all their records.",
          "Davison & Hinkley 1997, section 3.8", _patients, is_ecg),
    Claim("probe.cosine", "kNN goes by the cosine, and votes by exp(cosine / 0.07).",
          "Wu et al. 2018; specification, D21", _knn, is_image),
)  # fmt: skip
