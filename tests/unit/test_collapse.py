"""Collapse statistics on cases whose answer is known, and the alarms they raise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import pytest
import torch

from latentcast.monitors.collapse import (
    RIDGE,
    ROWS,
    Alarm,
    Statistics,
    alarms,
    effective_rank,
    statistics,
    watched,
)
from latentcast.objectives.base import Part, View, ViewRole


def gaussian(rows: int = 2000, width: int = 16) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def view(name: str, tokens: torch.Tensor | None = None) -> View:
    """The view that alarms call ``name``, as ``level0_target``."""
    level = int(name[len("level")])
    role: ViewRole = name.partition("_")[2]  # type: ignore[assignment]
    made_by_predictor = role in ("prediction", "output")
    part: Part = "predictor" if made_by_predictor else "merge" if level else "encoder"
    return View(role, torch.empty(0) if tokens is None else tokens, part, level)


def raised(
    found: dict[str, Statistics], loss: float = 0.0, copy_last_loss: float | None = None
) -> list[Alarm]:
    """The alarms of statistics by the name of their view."""
    return alarms([view(name) for name in found], [*found.values()], loss, copy_last_loss)


def names(found: Iterable[Alarm]) -> list[str]:
    return [alarm.name for alarm in found]


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


def test_constant_features_do_not_look_alive() -> None:
    """jepa.md D22: flattening tokens and dimensions without centring shows std 1.0 here."""
    found = statistics(gaussian(1).expand(500, 16))
    assert found.std == 0 and found.rank == 1 and found.mean_norm == pytest.approx(1)
    assert found.dead == 1 and found.variance == 0 and math.isnan(found.between)


def test_features_equal_for_all_samples_are_found_though_their_deviation_is_one() -> None:
    """jepa.md D22: what differs by position only says nothing about the input."""
    places = gaussian(50)
    found = statistics(places.expand(40, 50, 16))
    assert found.std == pytest.approx(1, abs=0.1) and found.rank > 13 and found.mean_norm < 0.2
    assert found.between < 1e-6
    assert names(raised({"level0_target": found}, -0.5)) == ["level0_target-same-for-all-samples"]
    ragged = torch.ones(40, 50, dtype=torch.bool)  # padding must not look like content
    ragged[:20, 25:] = False
    assert statistics(places.expand(40, 50, 16), ragged).between < 1e-5
    alive = statistics(gaussian(40 * 50).view(40, 50, 16) + 3 * places)
    assert 0.05 < alive.between < 0.15


def test_rank_sees_through_a_large_mean() -> None:
    assert effective_rank(gaussian() + 100) > 15.5


@pytest.mark.parametrize("filling", [1e6, torch.nan])
def test_invalid_rows_do_not_count(filling: float) -> None:
    tokens, valid = gaussian(200).view(20, 10, 16).clone(), torch.ones(20, 10, dtype=torch.bool)
    expected = statistics(tokens[:, :5])
    tokens[:, 5:], valid[:, 5:] = filling, False
    assert vars(statistics(tokens, valid)) == pytest.approx(vars(expected), rel=1e-5)


def naive(tokens: torch.Tensor, valid: torch.Tensor) -> dict[str, float]:
    """The definitions in float64, one token at a time."""
    rows = torch.stack([t for t, v in zip(tokens.flatten(0, 1), valid.flatten(), strict=True) if v])
    mean = rows.mean(0)
    within, between = torch.zeros(2, len(mean), len(mean), dtype=rows.dtype)
    for sample, flags in zip(tokens, valid, strict=True):
        members = sample[flags]
        if not len(members):
            continue
        centre = members.mean(0)
        between += len(members) * torch.outer(centre - mean, centre - mean) / len(rows)
        for member in members:
            within += torch.outer(member - centre, member - centre) / len(rows)
    total = (rows - mean).square().sum()
    positional = sum(
        int(valid[:, n].sum()) * (tokens[valid[:, n], n].mean(0) - mean).square().sum()
        for n in range(tokens.shape[1])
        if valid[:, n].any()
    )

    def effective(values: torch.Tensor) -> float:
        shares = values[values > 1e-12 * values.max()] / values.sum()
        return float((-(shares * shares.log()).sum()).exp())

    values, vectors = torch.linalg.eigh(within + RIDGE * torch.eye(len(mean), dtype=rows.dtype))
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    return {
        "rank": effective(torch.linalg.svdvals(rows - mean)),
        "mean_norm": float((rows / rows.norm(dim=1, keepdim=True)).mean(0).norm()),
        "std": float(rows.std(0).mean()),
        "lidar": effective(torch.linalg.eigvalsh(root @ between @ root)),
        "variance": float(rows.var(0).mean()),
        "between": float(1 - positional / total),
    }


@pytest.mark.parametrize("samples", [6, 30])
def test_statistics_equal_their_definitions(samples: int) -> None:
    tokens = (gaussian(samples * 12) * torch.linspace(0.2, 2, 16)).view(samples, 12, 16).double()
    tokens = tokens + gaussian(samples * 16)[::16, None] + 0.5 * gaussian(12) + 1
    valid = torch.rand(samples, 12, generator=torch.Generator().manual_seed(1)) < 0.7
    valid[1] = False  # a sample of padding
    found = vars(statistics(tokens, valid))
    for name, expected in naive(tokens, valid).items():
        assert found[name] == pytest.approx(expected, rel=1e-4), name


def test_lidar_counts_what_tells_samples_apart_and_not_what_varies_within() -> None:
    noise = gaussian(200 * 30).view(200, 30, 16)
    signal = torch.zeros(200, 1, 16)
    signal[..., :3] = 5 * gaussian(200)[:, None, :3]  # samples differ in three directions
    found = statistics(noise + signal)
    assert found.rank > 10 and 3 <= found.lidar < 4.5
    assert statistics(noise.expand(200, 30, 16)).lidar > 14  # chance means, in all directions


def test_a_large_view_is_thinned_by_samples_and_places() -> None:
    places = gaussian(300)
    same = statistics(places.expand(200, 300, 16))
    assert same.between < 1e-6 and same.rank > 10
    assert 200 * 300 > 10 * ROWS
    tokens = gaussian(64 * 256).view(64, 256, 16) + gaussian(64)[:, None]
    thinned, half = statistics(tokens), statistics(tokens[:, :64])
    assert vars(thinned) == pytest.approx(vars(half), rel=0.1, abs=0.02)


def test_one_sample_or_one_token_gives_numbers_only_where_they_mean_something() -> None:
    alone = statistics(gaussian(50)[None])
    assert math.isnan(alone.between) and math.isfinite(alone.rank)
    pooled = statistics(gaussian(50)[:, None])
    assert math.isnan(pooled.lidar) and pooled.between == pytest.approx(1)
    assert raised({"level0_target": alone}) == []


def test_all_views_and_scalars_come_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [gaussian(60).view(6, 10, 16), 2 * gaussian(40).view(4, 10, 16)]
    views = [View("target", x, "encoder", level) for level, x in enumerate(tokens)]
    transfers = []
    for reads in ("tolist", "item", "__float__", "__bool__", "numpy"):
        original = getattr(torch.Tensor, reads)
        monkeypatch.setattr(
            torch.Tensor, reads, lambda x, o=original, r=reads: (transfers.append(r), o(x))[1]
        )
    found, scalars = watched(views, {"loss": torch.tensor(0.1), "c": torch.tensor(2)})
    assert transfers == ["tolist"]
    assert found == [statistics(x) for x in tokens]
    assert scalars == {"loss": float(torch.tensor(0.1)), "c": 2.0}


HEALTHY = Statistics(rank=20, mean_norm=0.1, std=1, dead=0, lidar=9, variance=1, between=0.5)


def test_healthy_run_raises_nothing() -> None:
    healthy = {"level0_target": HEALTHY, "level0_output": HEALTHY}
    assert raised(healthy, -0.7, copy_last_loss=-0.3) == []


def test_a_perfect_loss_by_a_constant_direction_is_an_alarm() -> None:
    """NEPA defect 19: their detector warns at loss 0; collapse of −cos is −1."""
    collapsed = statistics(gaussian(1).expand(500, 16))
    found = raised({"level0_target": collapsed}, loss=-1.0, copy_last_loss=-1.0)
    problems = {"level0_target-rank-collapse", "level0_target-constant-direction"}
    assert problems <= set(names(found))
    assert "objective.patch_embedding=fixed" in str(found[0])


def test_a_flat_loss_of_zero_is_not_an_alarm() -> None:
    assert raised({"level0_target": HEALTHY}, loss=0.0, copy_last_loss=0.0) == []


def test_copying_better_than_predicting_is_an_alarm_with_advice() -> None:
    (alarm,) = raised({"level0_target": HEALTHY}, loss=-0.6, copy_last_loss=-0.8)
    assert alarm.name == "copying-is-better" and "longer encoder.patch" in str(alarm)


def test_nothing_valid_to_look_at_is_an_alarm_and_not_silence() -> None:
    tokens, valid = gaussian(100), torch.zeros(100, dtype=torch.bool)
    found = statistics(tokens, valid)
    assert all(math.isnan(value) for value in vars(found).values())
    (alarm,) = raised({"level0_target": found, "level0_output": found}, 0.0, 0.0)
    assert alarm.name == "level0_target-without-rows" and "latentcast inspect" in str(alarm)


def test_features_that_are_not_finite_are_an_alarm_and_no_crash() -> None:
    tokens = gaussian(100).clone()
    tokens[3, 2] = torch.inf
    (alarm,) = raised({"level0_target": statistics(tokens)}, 0.0, 0.0)
    assert alarm.name == "level0_target-without-rows" and "finite" in str(alarm)


def test_dead_dimensions_are_counted() -> None:
    rows = gaussian()
    rows[:, :12] = 0.5
    found = statistics(rows)
    assert found.dead == 0.75
    assert names(raised({"level0_output": found}, -0.5)) == ["level0_output-dead-dimensions"]


# --- which part -----------------------------------------------------------------------------------

VIEWS = [
    f"level{level}_{role}" for level in range(3) for role in ("context", "target", "prediction")
]


def hierarchy(broken: set[str]) -> list[Alarm]:
    """Alarms of three levels on random features, of which the broken views are constant."""
    views = []
    for number, name in enumerate(VIEWS):
        tokens = gaussian(40 * 25 + number)[number:].view(40, 25, 16)
        views.append(view(name, tokens[:1, :1].expand(40, 25, 16) if name in broken else tokens))
    found, _ = watched(views, {})
    return alarms(views, found, 0.0, None)


def downstream(level: int, role: str) -> set[str]:
    return {f"level{n}_{role}" for n in range(level, 3)}


def test_three_healthy_levels_raise_nothing() -> None:
    assert hierarchy(set()) == []


def test_an_untrained_coarse_level_is_not_called_collapsed() -> None:
    """As measured on a third level at initialisation: pooled until position prevails."""
    found = Statistics(
        13, mean_norm=0.96, std=0.47, dead=0, lidar=8.6, variance=0.28, between=0.003
    )
    prediction = dataclasses.replace(found, variance=0.02 * found.variance)
    assert raised({"level2_target": found, "level2_prediction": prediction}) == []


def test_a_collapsed_encoder_is_named_and_not_what_follows_from_it() -> None:
    found = hierarchy(set(VIEWS))
    assert names(found) == [
        "level0_context-rank-collapse", "level0_context-constant-direction",
        "level0_context-dead-dimensions", "level0_target-rank-collapse",
        "level0_target-constant-direction", "level0_target-dead-dimensions",
    ]  # fmt: skip
    assert {alarm.part for alarm in found} == {"encoder"}
    assert "effective rank of the level0_context is 1.0 (encoder); " in str(found[0])
    assert "ema.base" in str(found[0])


def test_a_level_that_collapses_over_a_live_one_is_the_fault_of_its_merge() -> None:
    broken = downstream(1, "target") | downstream(1, "prediction")
    found = hierarchy(broken)
    assert {name.rpartition("_")[0] for name in names(found)} == {"level1"}
    assert names(found)[0] == "level1_target-rank-collapse"
    assert {alarm.part for alarm in found} == {"merge"} and "(merge); " in str(found[0])
    assert "objective.coarser" in str(found[0])


def test_constant_predictions_of_live_targets_are_the_fault_of_the_predictor() -> None:
    (alarm,) = hierarchy({"level1_prediction"})
    assert alarm.name == "level1_prediction-constant" and alarm.part == "predictor"
    assert "objective.predictor.depth" in str(alarm)


def test_predictions_that_only_shrink_are_caught_though_rank_and_direction_are_fine() -> None:
    found = {"level0_target": HEALTHY, "level0_prediction": statistics(0.01 * gaussian())}
    assert found["level0_prediction"].rank > 15 and found["level0_prediction"].mean_norm < 0.1
    assert names(raised(found)) == ["level0_prediction-constant"]


def test_a_collapsed_target_is_an_alarm_whichever_part_made_it() -> None:
    collapsed = statistics(gaussian(1).expand(500, 16))
    for part in ("encoder", "merge", "predictor"):
        target = View("target", torch.empty(0), part)  # type: ignore[arg-type]
        assert "level0_target-rank-collapse" in names(alarms([target], [collapsed], 0.0, None))
