"""Probes of a part: each names its fault and leaves the repaired twin alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.errors import LatentcastError
from latentcast.verification.foreign import (
    Verified,
    verify_initial,
    verify_labels,
    verify_leads,
    verify_masks,
    verify_nepa,
    verify_normalisation,
    verify_readout,
    verify_regularizer,
    verify_schedule,
)

# Masks: a block as context, a block as target, on 8 × 8


def masks(fault: str = "") -> Verified:
    def sampler(draw: int) -> tuple[Tensor, list[Tensor]]:
        rng = np.random.default_rng(draw)
        high, wide = rng.integers(2, 5), rng.integers(2, 5)
        if fault == "shape by size":
            wide = 3  # the larger, the taller
        top, left = rng.integers(0, 9 - high), rng.integers(0, 9 - wide)
        target = np.zeros((8, 8), bool)
        target[top : top + high, left : left + wide] = True
        region = np.zeros((8, 8), bool)
        a, b = (0, 0) if fault == "region" else rng.integers(0, 3, 2)
        region[a : a + 6, b : b + 6] = True
        context = (region & ~target).ravel().nonzero()[0]
        if fault == "cut from the front":
            context = context[:16]
        hidden = target.ravel().nonzero()[0]
        if fault == "padded":
            hidden = np.concatenate([hidden, hidden[:1]])
        return torch.from_numpy(context), [torch.from_numpy(hidden)]

    return verify_masks(sampler, 64, draws=300, size=(8, 8))


# A causal predictor of signals, and what reads it out


class Causal(nn.Module):
    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault, self.patch = fault, nn.Conv1d(1, 8, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        z = self.patch(values).transpose(1, 2)
        places = torch.arange(z.shape[1]).to(z)[:, None]
        if self.fault == "positions are shares":
            places = places / z.shape[1] * 10
        x = torch.cat([self.cls.expand(len(z), -1, -1), z + places.sin()], 1)
        return z, F.scaled_dot_product_attention(x, x, x, is_causal=True)[:, 1:]

    def read(self, values: Tensor, valid: Tensor | None = None) -> Tensor:
        z, h = self(values)
        if self.fault == "causal CLS":
            return self.cls[:, 0].expand(len(z), -1)
        if valid is None or self.fault == "padding is read":
            return h.mean(1)
        patches = valid.view(-1, 4).any(1)
        return h[:, patches].mean(1)


def read_out(fault: str = "") -> Verified:
    net, valid = Causal(fault), torch.arange(80) < 60
    return verify_readout(lambda v: net.read(v, valid), torch.randn(2, 1, 80), 10, valid)


# Schedules, weights, terms, data


def schedule(fault: str = "") -> Verified:
    total = 150 if fault == "ends early" else 200

    def rate(n: int) -> float:
        if n < 10:
            return n / (0 if fault == "no warm-up" and n == 3 else 10)
        share = (n - 10) / (total - 10)
        return 0.5 + 0.5 * math.cos(math.pi * (share if fault == "goes on" else min(1.0, share)))

    def declared(n: int) -> float:
        return n / 10 if n < 10 else 0.5 + 0.5 * math.cos(math.pi * (n - 10) / 190)

    return verify_schedule(rate, declared, 200)


def initial(fault: str = "") -> Verified:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64))
    for layer in (net[0], net[2]):
        nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(layer.bias)
    if fault == "one layer left out":
        net[2].reset_parameters()
    if fault == "scale drawn":
        nn.init.normal_(net[1].weight)
    declared = {r"1\.weight": (1.0, 0.0), "bias": (0.0, 0.0), "weight": (0.0, 0.02)}
    return verify_initial(net, declared)


def regularizer(fault: str = "") -> Verified:
    def penalty(x: Tensor) -> Tensor:
        x = x - x.mean(0)
        eps = 0.0 if fault == "root of nothing" else 1e-4
        if fault == "standardised":
            x = x / (x.std(0) + 1e-6)
        variance = F.relu(1 - (x.var(0) + eps).sqrt()).mean()
        covariance = x.T @ x / (len(x) - 1)
        off = covariance - covariance.diag().diag()
        return variance + (0 if fault == "no covariance" else 1) * off.square().sum() / x.shape[1]

    return verify_regularizer(penalty)


def normalisation(fault: str = "") -> Verified:
    rows = np.random.default_rng(0).normal([[1.0], [5.0]], [[1.0], [3.0]], (200, 2, 50))
    rows[:100, 1] += 1
    rows[3, 0, 7] = np.nan
    used = rows[:100] if fault == "of the first rows" else rows
    mean = used.mean((0, 2)) if fault == "with NaN" else np.nanmean(used, (0, 2))
    return verify_normalisation(rows, mean, np.nanstd(used, (0, 2)))


def labels(fault: str = "") -> Verified:
    statements = [{"NORM": 100.0, "SR": 0.0}, {"AFIB": 0.0}, {"NORM": 80.0}]
    classes = ["NORM", "SR", "SVTACH" if fault == "no such code" else "AFIB"]
    lost = fault == "likelihood 0"
    targets = [[float(c in s and (s[c] > 0 or not lost)) for c in classes] for s in statements]
    return verify_labels(statements, targets, classes)


def leads(fault: str = "") -> Verified:
    first, second = np.random.default_rng(0).normal(size=(2, 3, 100))
    rows = [first, second, second - first, -(first + second) / 2, first - second / 2,
            second - first / 2, first**2]  # fmt: skip
    if fault == "aVL and aVF swapped":
        rows[4], rows[5] = rows[5], rows[4]
    return verify_leads(np.stack(rows, 1), ["I", "II", "III", "AVR", "AVL", "AVF", "V1"])


def predictor(fault: str = "") -> Verified:
    return verify_nepa(Causal(fault), torch.randn(2, 1, 80), shorter=True)


PROBES: dict[Callable[[str], Verified], dict[str, str]] = {
    masks: {"region": "masks.context-drawn", "cut from the front": "masks.mirrored",
            "shape by size": "masks.scale-aspect", "padded": "masks.whole"},
    predictor: {"positions are shares": "nepa.time-scale"},
    read_out: {"causal CLS": "readout.every-patch", "padding is read": "readout.padding"},
    schedule: {"ends early": "schedule.declared", "no warm-up": "schedule.finite",
               "goes on": "schedule.stays"},
    initial: {"one layer left out": "initial.drawn", "scale drawn": "initial.constant"},
    regularizer: {"standardised": "regularizer.scale", "no covariance": "regularizer.copies",
                  "root of nothing": "regularizer.gradient"},
    normalisation: {"of the first rows": "data.statistics", "with NaN": "data.statistics-finite"},
    labels: {"likelihood 0": "data.labels-kept", "no such code": "data.classes"},
    leads: {"aVL and aVF swapped": "data.leads"},
}  # fmt: skip


@pytest.mark.parametrize(("probe", "fault", "line"), [
    (probe, fault, line) for probe, faults in PROBES.items() for fault, line in faults.items()
])  # fmt: skip
def test_fault_of_a_part_is_named(probe: Callable[[str], Verified], fault: str, line: str) -> None:
    torch.manual_seed(0)
    found = probe(fault)
    assert line in found.broken, str(found)


@pytest.mark.parametrize("probe", PROBES)
def test_a_right_part_is_left_alone(probe: Callable[[str], Verified]) -> None:
    torch.manual_seed(0)
    found = probe("")
    assert found.holds, str(found)


def test_parts_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(LatentcastError, match="give rows and columns of the same grid"):
        verify_masks(lambda draw: (torch.arange(2), []), 64, size=(8, 9))
    with pytest.raises(LatentcastError, match=r"names are weight, bias"):
        verify_initial(nn.Linear(2, 2), {"scale": (1.0, 0.0)})
    with pytest.raises(LatentcastError, match="a number for each channel"):
        verify_normalisation(np.zeros((2, 3, 4)), np.zeros(2), np.ones(3))
    with pytest.raises(LatentcastError, match=r"targets are \(1, 1\)"):
        verify_labels([{"A"}], [[1.0]], ["A", "B"])
    with pytest.raises(LatentcastError, match="I and II among them"):
        verify_leads(np.zeros((1, 1, 5)), ["V1"])
