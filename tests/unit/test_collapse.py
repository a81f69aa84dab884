"""Collapse statistics on cases whose answer is known, and the alarms they raise."""

from __future__ import annotations

import pytest
import torch

from latentcast.monitors.collapse import Statistics, alarms, effective_rank, statistics


def gaussian(rows: int = 2000, width: int = 16) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_isotropic_features_have_full_rank() -> None:
    assert effective_rank(gaussian()) > 15.5


def test_rank_one_and_constant_features_have_rank_one() -> None:
    assert effective_rank(gaussian()[:, :1] * torch.ones(1, 16)) == pytest.approx(1, abs=0.1)
    assert effective_rank(torch.full((100, 16), 3.0)) == 1.0


def test_rank_equals_the_definition_by_singular_values() -> None:
    rows = gaussian(300) * torch.linspace(0.1, 3, 16)
    values = torch.linalg.svdvals(rows - rows.mean(0))
    shares = values / values.sum()
    assert effective_rank(rows) == pytest.approx(
        float((-(shares * shares.log()).sum()).exp()), rel=1e-3
    )


def test_features_equal_for_all_inputs_do_not_look_alive() -> None:
    """jepa.md D22: flattening tokens and dimensions without centring shows std 1.0 here."""
    constant = gaussian(1).expand(500, 16)
    seen = statistics(constant)
    assert seen.std == 0 and seen.rank == 1 and seen.mean_norm == pytest.approx(1)
    assert seen.dead == 1


def test_rank_sees_through_a_large_mean() -> None:
    assert effective_rank(gaussian() + 100) > 15.5


def test_invalid_rows_do_not_count() -> None:
    view, valid = gaussian(100).view(10, 10, 16).clone(), torch.ones(10, 10, dtype=torch.bool)
    expected = statistics(view[:, :5])
    view[:, 5:], valid[:, 5:] = 1e6, False
    assert statistics(view, valid) == expected


HEALTHY = Statistics(rank=20, mean_norm=0.1, std=1, dead=0)


def test_healthy_run_raises_nothing() -> None:
    assert alarms({"target": HEALTHY, "output": HEALTHY}, loss=-0.7, copy_last_loss=-0.3) == []


def test_a_perfect_loss_by_a_constant_direction_is_an_alarm() -> None:
    """NEPA defect 19: their detector warns at loss 0; collapse of −cos is −1."""
    collapsed = statistics(gaussian(1).expand(500, 16))
    names = {a.name for a in alarms({"target": collapsed}, loss=-1.0, copy_last_loss=-1.0)}
    assert {"target-rank-collapse", "target-constant-direction"} <= names


def test_a_flat_loss_of_zero_is_not_an_alarm() -> None:
    assert alarms({"target": HEALTHY}, loss=0.0, copy_last_loss=0.0) == []


def test_copying_better_than_predicting_is_an_alarm_with_advice() -> None:
    (alarm,) = alarms({"target": HEALTHY}, loss=-0.6, copy_last_loss=-0.8)
    assert alarm.name == "copying-is-better" and "longer encoder.patch" in str(alarm)


def test_nothing_valid_to_look_at_is_an_alarm_and_not_silence() -> None:
    view, valid = gaussian(100), torch.zeros(100, dtype=torch.bool)
    assert [a.name for a in alarms({"target": statistics(view, valid)}, 0.0, 0.0)] == [
        "target-without-rows"
    ]


def test_dead_dimensions_are_counted() -> None:
    rows = gaussian()
    rows[:, :12] = 0.5
    seen = statistics(rows)
    assert seen.dead == 0.75
    assert [a.name for a in alarms({"output": seen}, -0.5, None)] == ["output-dead-dimensions"]
