"""The average of the weights: the formula, the buffers, the order."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from latentcast.engine.ema import Ema


def pair() -> tuple[nn.Module, nn.Module]:
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    return student, copy.deepcopy(student)


def test_update_is_the_formula() -> None:
    student, teacher = pair()
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    Ema([(student, teacher)]).update(0.9)
    for old, new, theirs in zip(before, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * theirs)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_extreme_momenta_copy_and_keep(momentum: float) -> None:
    student, teacher = pair()
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1)
    Ema([(student, teacher)]).update(momentum)
    expected = list(student.parameters()) if momentum == 0 else before
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), expected, strict=True))


def test_buffers_are_copied_and_not_averaged() -> None:
    student, teacher = pair()
    student(torch.randn(8, 3, dtype=torch.float64))  # moves the running statistics
    Ema([(student, teacher)]).update(0.9)
    for ours, theirs in zip(student.buffers(), teacher.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_distance_is_relative_to_the_student() -> None:
    student, teacher = pair()
    ema = Ema([(student, teacher)])
    assert ema.distance() == 0
    with torch.no_grad():
        for p in teacher.parameters():
            p.zero_()
    assert ema.distance() == pytest.approx(1.0)


def test_without_a_teacher_there_is_nothing_to_do() -> None:
    Ema([]).update(0.5)
    assert Ema([]).distance() == 0
