"""A run killed at random moments ends with the same bits as one left alone."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from latentcast.config import Config
from latentcast.engine import checkpoint
from latentcast.monitors.journal import TIMINGS, read_metrics


def command(store: Path, run: Path, config: Path) -> list[str]:
    return [sys.executable, "-m", "latentcast", "train", "--config", str(config),
            "--data", str(store), "--out", str(run)]  # fmt: skip


def written(config: Config, folder: Path, steps: int, precision: str = "fp32") -> Path:
    changes = {"train.steps": steps, "train.checkpoint_every": 7, "train.log_every": 3,
               "train.precision": precision}  # fmt: skip
    file = folder / "config.yaml"
    file.write_text(config.updated(changes).to_yaml())
    return file


def killed_until_done(store: Path, run: Path, config: Path, kills: int, seed: int) -> int:
    """Start the command, kill it after a random time, and again; then let it finish.

    Returns:
        the step that the last, undisturbed process resumed from.
    """
    moments = random.Random(seed)
    for number in range(kills):
        process = subprocess.Popen(
            command(store, run, config), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        before = checkpoint.list_steps(run / "checkpoints")[-1:]
        wait_until_it_trains(process, run / "metrics.jsonl")
        if number:  # but the first: until it has got further, however slow it is
            wait_until_it_saves(process, run / "checkpoints", before)
        time.sleep(moments.random() * 0.4)
        assert process.poll() is None, "it finished before the kill: give it more steps"
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = subprocess.run(command(store, run, config), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    told = re.search(r"resuming at step (\d+)", finished.stdout)
    return int(told[1]) if told else 0


def wait_until_it_trains(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the log grows, so that a kill falls into training and not into the imports."""
    size = log.stat().st_size if log.exists() else 0
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        now = log.stat().st_size if log.exists() else 0
        if now > size:
            return
        size = min(size, now)  # a resume first cuts the rows beyond its checkpoint
        time.sleep(0.01)


def wait_until_it_saves(
    process: subprocess.Popen[bytes], checkpoints: Path, before: list[Path]
) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoint.list_steps(checkpoints)[-1:] != before:
            return
        time.sleep(0.01)


def assert_same_end(one: Path, other: Path, steps: int) -> None:
    ends = [checkpoint.latest(run / "checkpoints") for run in (one, other)]
    assert ends[0].name == ends[1].name == f"step-{steps:08d}"
    for name in ("model", "optimizer"):
        a, b = (checkpoint.read_tensors(end, name) for end in ends)
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []
    logs = [
        [{k: v for k, v in row.items() if k not in TIMINGS} for row in read_metrics(run)]
        for run in (one, other)
    ]
    assert [row["step"] for row in logs[0]] == [1, *range(3, steps + 1, 3)]
    # Steps logged right after a resume are the same rows: the log is a function of the step too.
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("kills", "precision", "which"),
    [
        (2, "fp32", "small_config"),
        pytest.param(10, "fp32", "small_config", marks=pytest.mark.slow),
        pytest.param(10, "bf16", "small_config", marks=pytest.mark.slow),
        pytest.param(5, "bf16", "small_hierarchy", marks=pytest.mark.slow),
    ],
)
def test_killed_run_ends_with_the_same_bits(
    small_store: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kills: int,
    precision: str,
    which: str,
) -> None:
    steps = 210 + 180 * kills
    config = written(request.getfixturevalue(which), tmp_path, steps, precision)
    whole = subprocess.run(
        command(small_store, tmp_path / "whole", config), capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    resumed = killed_until_done(small_store, tmp_path / "killed", config, kills, seed=kills)
    assert resumed > 0  # otherwise nothing was resumed and nothing tested
    assert_same_end(tmp_path / "whole", tmp_path / "killed", steps)


def test_sigterm_saves_the_step_in_hand_and_says_so(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", written(small_config, tmp_path, 3000)
    process = subprocess.Popen(
        command(small_store, run, config), stdout=subprocess.PIPE, text=True,
        env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "step" in line:
            break
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    (saved,) = checkpoint.list_steps(run / "checkpoints")[-1:]
    step = int(saved.name.removeprefix("step-"))
    assert step < 3000 and f"stopped at step {step}" in said
