"""A run killed at random moments ends with the same bits as one left alone."""

from __future__ import annotations

import os
import random
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

STEPS = 120


def command(store: Path, run: Path, config: Path) -> list[str]:
    return [sys.executable, "-m", "latentcast", "train", "--config", str(config),
            "--data", str(store), "--out", str(run)]  # fmt: skip


@pytest.fixture
def config(small_config: Config, tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(
        small_config.updated(
            {"train.steps": STEPS, "train.checkpoint_every": 7, "train.log_every": 3}
        ).to_yaml()
    )
    return file


def killed_until_done(store: Path, run: Path, config: Path, kills: int, seed: int) -> int:
    """Start the command, kill it after a random time, and again; then let it finish."""
    moments, done = random.Random(seed), 0
    while done < kills:
        process = subprocess.Popen(
            command(store, run, config), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        # Wait until it trains, so that the kill falls into training and not into the imports.
        log, size = run / "metrics.jsonl", -1
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            now = log.stat().st_size if log.exists() else -1
            if size >= 0 and now > size:
                break
            size = now if size < 0 else size
            time.sleep(0.01)
        time.sleep(moments.random() * 0.4)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
    finished = subprocess.run(command(store, run, config), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return done


def assert_same_end(one: Path, other: Path) -> None:
    ends = [checkpoint.latest(run / "checkpoints") for run in (one, other)]
    assert ends[0].name == ends[1].name == f"step-{STEPS:08d}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        a, b = (checkpoint.read_tensors(end, name) for end in ends)
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []
    logs = [
        [{k: v for k, v in row.items() if k not in TIMINGS} for row in read_metrics(run)]
        for run in (one, other)
    ]
    assert [row["step"] for row in logs[0]] == [1, *range(3, STEPS + 1, 3)]
    # Steps logged right after a resume are the same rows: the log is a function of the step too.
    assert logs[0] == logs[1]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_run_ends_with_the_same_bits(
    small_store: Path, config: Path, tmp_path: Path, kills: int
) -> None:
    whole = subprocess.run(
        command(small_store, tmp_path / "whole", config), capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    done = killed_until_done(small_store, tmp_path / "killed", config, kills, seed=kills)
    assert done >= kills // 2
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


def test_sigterm_saves_the_step_in_hand_and_says_so(
    small_store: Path, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
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
    assert step < STEPS and f"stopped at step {step}" in said
