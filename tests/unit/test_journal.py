"""The row and the line of a step, for objectives of one view and of several levels."""

from __future__ import annotations

from dataclasses import replace
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
from latentcast.monitors import rows
from latentcast.monitors.journal import PATIENCE, Journal, read_metrics
from latentcast.objectives.base import Output, Part, View, ViewRole


def view(role: ViewRole, rank: int, part: Part, level: int = 0, seed: int = 0) -> View:
    """Tokens of about this effective rank."""
    tokens = torch.randn(32, 40, 16, generator=torch.Generator().manual_seed(seed))
    return View(role, tokens * (torch.arange(16) < rank), part, level)


def journalled(
    run: Path,
    config: Config,
    output: Output,
    capsys: pytest.CaptureFixture[str],
    step: int = 1,
) -> tuple[dict[str, Any], str]:
    module = nn.Linear(2, 2)
    with Journal(run, config, step_flops=1) as journal:
        journal.on_train_start(State(), Context.of(config))
        journal.on_step_end(
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
    views = [view("target", 9, "encoder"), view("output", 5, "predictor")]
    scalars = {"copy_last_loss": torch.tensor(-0.2)}
    output = Output(torch.tensor(-0.5), torch.tensor(9.0), scalars, views)
    row, printed = journalled(tmp_path, small_config, output, capsys)
    assert "loss -0.5000 (copy -0.200) | rank 5.0 |" in printed
    assert row["level0_target_rank"] == pytest.approx(9, abs=0.1) and row["gradient_norm"] == 0.25
    statistics = ("std", "dead", "lidar", "variance", "between")
    assert {f"level0_output_{statistic}" for statistic in statistics} < set(row)
    assert row["alarms"] == ["level0_output-dead-dimensions"]
    assert "alarm level0_output-dead" in printed


def test_jepa_shows_the_rank_of_each_level_and_names_the_part_of_an_alarm(
    tmp_path: Path, small_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    views: list[View] = []
    for level, rank in enumerate((14, 11, 1)):
        part: Part = "merge" if level else "encoder"
        views += [
            view("context", 14, part, level),
            view("target", rank, part, level),
            view("prediction", 12, "predictor", level, seed=1),
        ]
    scalars = {"level0_loss": torch.tensor(0.25, dtype=torch.float64)}
    output = Output(torch.tensor(0.5), torch.tensor(9.0), scalars, views)
    row, printed = journalled(tmp_path, small_config, output, capsys)
    assert "loss 0.5000 | rank 14.0/11.0/1.0 |" in printed and "copy" not in printed
    assert row["level0_loss"] == 0.25
    assert set(row["alarms"]) == {"level2_target-rank-collapse", "level2_target-dead-dimensions"}
    assert (
        "level2_target-rank-collapse: effective rank of the level2_target is 1.0 (merge)" in printed
    )


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
    constant = view("prediction", 14, "predictor")
    constant = replace(constant, tokens=constant.tokens * 1e-3)
    views = [view("target", 14, "encoder"), constant]
    output = Output(torch.tensor(0.5), torch.tensor(9.0), {}, views)
    row, _ = journalled(tmp_path, small_config, output, capsys, step)
    assert row["alarms"] == expected


@pytest.mark.parametrize("line", [b'{"step": 2, "los', b"\xff", b'{"loss": 1}', b'{"step": "2"}'])
def test_a_run_with_a_line_that_is_no_row_is_resumed_from_those_before(
    line: bytes, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    assert read_metrics(tmp_path) == [{"step": 1}]


def test_rows_from_before_views_had_levels_are_read_under_the_names_of_today(
    tmp_path: Path,
) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": -0.5, "target_rank": 9.0, "output_rank": 5.0, "output_std": null}\n'
    )
    (row,) = read_metrics(tmp_path)
    assert row == {"step": 1, "loss": -0.5, "level0_target_rank": 9.0, "level0_output_rank": 5.0,
                   "level0_output_std": None}  # fmt: skip
    assert rows.ranks(row) == (5.0,)
