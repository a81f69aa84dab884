"""examples/slurm/pretrain.sbatch: what it does when time is up, with Slurm's commands played."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import soak
from conftest import REPOSITORY
from latentcast.config import Config
from latentcast.monitors.journal import read_metrics

SCRIPT = REPOSITORY / "examples" / "slurm" / "pretrain.sbatch"

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'localhost\\nother\\n'; else echo "scontrol $*" >> "$LOG"; fi
"""
TRAINING = """#!/bin/bash
echo "python $*" >> "$LOG"
trap 'sleep 0.3; echo saved >> "$LOG"; exit 1' TERM
trap 'echo died >> "$LOG"; exit 2' USR1
echo started >> "$LOG"
if [ -n "$ENDS" ]; then exit "$ENDS"; fi
while :; do sleep 0.05; done
"""


class Job(NamedTuple):
    """A script that runs."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def submitted(folder: Path, python: str, *arguments: object, **environment: str) -> Job:
    """The script with these commands in the place of Slurm's and of python."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": python}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    told = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(folder / "log"),
        "SLURM_JOB_ID": str(random.SystemRandom().randrange(10**6)),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "1",
        "ENDS": "",
        **environment,
    }
    process = subprocess.Popen(
        ["bash", str(SCRIPT), *map(str, arguments)], env={**os.environ, **told}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    return Job(process, folder / "log")


def until(condition: Callable[[], object], job: Job, seconds: float = 200) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert job.process.poll() is None, job.process.communicate()[0]
        assert time.monotonic() < ends, "it did not come to pass"
        time.sleep(0.02)


def test_the_script_is_good_bash_and_gives_its_arguments_to_train(tmp_path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    job = submitted(tmp_path, TRAINING, "nepa-ecg-small", "--out", "a run", ENDS="0",
                    SLURM_JOB_ID="20007", SLURM_GPUS_ON_NODE="4")  # fmt: skip
    job.process.communicate(timeout=60)
    assert job.process.returncode == 0
    assert job.lines[0] == (
        "python -m torch.distributed.run --nnodes 1 --nproc-per-node 4 --rdzv-backend c10d "
        "--rdzv-endpoint localhost:20007 --rdzv-id 20007-0 "
        "-m latentcast train nepa-ecg-small --out a run"
    )
    assert job.lines[1:] == ["started"]  # nothing is queued again


def test_when_the_time_is_up_it_saves_and_is_queued_again(tmp_path: Path) -> None:
    job = submitted(tmp_path, TRAINING, SLURM_JOB_ID="17")
    until(lambda: "started" in job.lines, job)
    job.process.send_signal(signal.SIGUSR1)
    said, _ = job.process.communicate(timeout=60)
    assert job.lines[1:] == ["started", "saved", "scontrol requeue 17"]
    assert job.process.returncode == 0 and "queued again" in said


def test_a_cancelled_job_saves_and_stays_cancelled(tmp_path: Path) -> None:
    job = submitted(tmp_path, TRAINING)
    until(lambda: "started" in job.lines, job)
    job.process.send_signal(signal.SIGTERM)
    job.process.communicate(timeout=60)
    assert job.lines[1:] == ["started", "saved"] and job.process.returncode == 1


def test_a_training_that_fails_is_not_tried_again_and_again(tmp_path: Path) -> None:
    job = submitted(tmp_path, TRAINING, ENDS="2")
    job.process.communicate(timeout=60)
    assert job.lines[1:] == ["started"] and job.process.returncode == 2


@pytest.mark.slow
def test_two_ranks_stopped_by_slurm_go_on_when_queued_again(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    """The script with the real torchrun and the real training."""
    run, file = tmp_path / "run", tmp_path / "config.yaml"
    changes = {"train.steps": 400, "train.checkpoint_every": 400, "train.log_every": 5}
    file.write_text(small_config.updated(changes).to_yaml())
    python = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    arguments = soak.command(small_store, run, file)[4:]
    job = submitted(tmp_path, python, *arguments, SLURM_GPUS_ON_NODE="2")
    until(lambda: len(read_metrics(run)) > 3, job)
    job.process.send_signal(signal.SIGUSR1)
    said, _ = job.process.communicate(timeout=200)
    assert 0 < soak.newest(run) < 400
    assert said.count(f"stopped at step {soak.newest(run)}; the same command goes on") == 1
    assert job.process.returncode == 0 and job.lines[0].startswith("scontrol requeue")
    again = submitted(tmp_path, python, *arguments, SLURM_GPUS_ON_NODE="2")
    said, _ = again.process.communicate(timeout=400)
    assert again.process.returncode == 0, said
    assert "400 steps done" in said and len(again.lines) == 1
    assert [row["step"] for row in read_metrics(run)] == [1, *range(5, 401, 5)]
