"""The row and the line of a step, for objectives of one view and of several levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from latentcast.config import Config
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.schedules import Schedules
from latentcast.monitors.journal import PATIENCE, Journal, read_metrics
from latentcast.objectives.base import Output, Part, View


def view(rank: int, part: Part, seed: int = 0) -> View:
    """Tokens of about this effective rank."""
    tokens = torch.randn(32, 40, 16, generator=torch.Generator().manual_seed(seed))
    return View(tokens * (torch.arange(16) < rank), part)


def journalled(
    run: Path,
    config: Config,
    output: Output,
    capsys: pytest.CaptureFixture[str],
    step: int = 1,
) -> tuple[dict[str, Any], str]:
    module = nn.Linear(2, 2)
    with Journal(run, config, step_flops=1) as journal:
        journal.start(State(), Context.of(config))
        journal.updated(
            State(step=step),
            output,
            torch.tensor(0.25),
            Schedules.of(config),
            Ema([(module, module)]),
        )
    return read_metrics(run)[-1], capsys.readouterr().out


def test_nepa_shows_the_rank_of_its_output_and_what_copying_scores(
    tmp_path: Path, small_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    views = {"target": view(9, "encoder"), "output": view(5, "predictor")}
    scalars = {"copy_last_loss": torch.tensor(-0.2)}
    output = Output(torch.tensor(-0.5), torch.tensor(9.0), scalars, views)
    row, said = journalled(tmp_path, small_config, output, capsys)
    assert "loss -0.5000 (copy -0.200) | rank 5.0 |" in said
    assert row["target_rank"] == pytest.approx(9, abs=0.1) and row["gradient_norm"] == 0.25
    assert {f"output_{kind}" for kind in ("std", "dead", "lidar", "variance", "between")} < set(row)
    assert row["alarms"] == ["output-dead-dimensions"] and "alarm output-dead" in said


def test_jepa_shows_the_rank_of_each_level_and_names_the_part_of_an_alarm(
    tmp_path: Path, small_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    views = {}
    for level, rank in enumerate((14, 11, 1)):
        made: Part = "merge" if level else "encoder"
        views[f"level{level}_context"] = view(14, made)
        views[f"level{level}_target"] = view(rank, made)
        views[f"level{level}_prediction"] = view(12, "predictor", seed=1)
    scalars = {"level0_loss": torch.tensor(0.25, dtype=torch.float64)}
    output = Output(torch.tensor(0.5), torch.tensor(9.0), scalars, views)
    row, said = journalled(tmp_path, small_config, output, capsys)
    assert "loss 0.5000 | rank 14/11/1 |" in said and "copy" not in said
    assert row["level0_loss"] == 0.25
    assert set(row["alarms"]) == {"level2_target-rank-collapse", "level2_target-dead-dimensions"}
    assert "level2_target-rank-collapse: effective rank of the level2_target is 1.0 (merge)" in said


@pytest.mark.parametrize(
    ("step", "expected"), [(1, []), (PATIENCE, []), (PATIENCE + 1, ["level0_prediction-constant"])]
)
def test_a_predictor_may_begin_with_a_constant_but_not_stay_with_it(
    step: int,
    expected: list[str],
    tmp_path: Path,
    small_config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every I-JEPA run of the demo's size does so for its first few hundred steps."""
    constant = View(view(14, "predictor").tokens * 1e-3, "predictor")
    views = {"level0_target": view(14, "encoder"), "level0_prediction": constant}
    output = Output(torch.tensor(0.5), torch.tensor(9.0), {}, views)
    row, _ = journalled(tmp_path, small_config, output, capsys, step)
    assert row["alarms"] == expected
