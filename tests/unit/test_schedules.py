"""Schedules are functions of the step; their values are those of the published loops."""

from __future__ import annotations

import math

import pytest
import torch

from latentcast.engine.schedules import Cosine, EmaSchedule, Schedules, WarmupCosine
from latentcast.recipes import recipe


def test_first_update_has_the_first_rate_of_the_warmup_not_the_peak() -> None:
    """jepa.md D5: the schedule written after the step trains first at the peak, then at zero."""
    lr = WarmupCosine(1.0, 0.0, warmup=4, steps=10)
    assert [lr(n) for n in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_rate_ends_at_its_end_and_stays() -> None:
    lr = WarmupCosine(1.0, 0.1, warmup=2, steps=10)
    assert lr(9) == pytest.approx(0.1)
    assert lr(10) == lr(1000) == pytest.approx(0.1)
    assert all(lr(n) >= lr(n + 1) for n in range(1, 12))


def test_cosine_is_half_way_in_the_middle() -> None:
    lr = WarmupCosine(1.0, 0.0, warmup=0, steps=100)
    assert lr(49) == pytest.approx(0.5)
    assert lr(24) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize(("warmup", "steps"), [(10, 10), (0, 10), (1, 1), (10, 5)])
def test_any_warmup_gives_finite_rates(warmup: int, steps: int) -> None:
    """The public H-JEPA divides by zero when the warm-up is as long as the run."""
    lr = WarmupCosine(1.0, 0.0, warmup, steps)
    assert all(0 <= lr(n) <= 1 for n in range(20))


def test_weight_decay_reaches_its_end() -> None:
    decay = Cosine(0.04, 0.4, 100)
    assert decay(99) == pytest.approx(0.4) and decay(500) == pytest.approx(0.4)
    assert 0.04 <= decay(0) < 0.0402


def test_momentum_is_linear_not_cosine() -> None:
    momentum = EmaSchedule(0.996, 1.0, epochs=20, steps_per_epoch=5)
    assert momentum(0) == 0.996
    assert [momentum(n) for n in (25, 50, 100, 1000)] == pytest.approx([0.997, 0.998, 1.0, 1.0])


def test_momentum_waits_for_its_warmup() -> None:
    momentum = EmaSchedule(0.9, 1.0, epochs=10, steps_per_epoch=10, warmup_epochs=2)
    assert {momentum(n) for n in range(21)} == {0.9}
    assert momentum(60) == pytest.approx(0.95)
    assert EmaSchedule(0.9, 1.0, 10, 1, warmup_epochs=10)(10) == 0.9  # never divides by zero


def test_schedules_are_written_before_the_step_and_spare_the_undecayed() -> None:
    config = recipe("nepa-ecg-tiny").updated({"optimizer.lr": 1.0, "optimizer.warmup_steps": 10})
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW(
        [{"params": [p], "decayed": d} for p, d in zip(parameters, (True, False), strict=True)]
    )
    Schedules.of(config).apply(optimizer, 0)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.1]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [config.optimizer.weight_decay, 0]
