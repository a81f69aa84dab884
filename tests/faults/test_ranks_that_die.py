"""A job of several ranks of which one dies or is stopped: an error or a checkpoint, no hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import soak
from latentcast.config import Config
from latentcast.engine import checkpoint
from latentcast.engine.ranks import joined_ranks
from latentcast.errors import LatentcastError
from latentcast.monitors.journal import read_metrics

if not dist.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

STEPS, BOUND = 3000, 120


class Job:
    """``torchrun`` with two ranks, once it has trained a little."""

    def __init__(self, store: Path, config: Config, folder: Path) -> None:
        self.store, self.run, self.file = store, folder / "run", folder / "config.yaml"
        changes = {"train.steps": STEPS, "train.checkpoint_every": 10, "train.log_every": 5}
        self.file.write_text(config.updated(changes).to_yaml())
        train = soak.command(store, self.run, self.file)[1:]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             "--nproc-per-node", "2", *train],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "COLUMNS": "300"},
        )  # fmt: skip
        ends = time.monotonic() + 300
        while soak.newest(self.run) < 10:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < ends
            time.sleep(0.02)
        self.ranks = self._ranks()

    def _ranks(self) -> list[int]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                told = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == self.process.pid:
                found.update({int(v[5:]): int(folder.name) for v in told if v[:5] == b"RANK="})
        return [found[rank] for rank in (0, 1)]

    def ended(self) -> str:
        """What it printed; it ends in time, and nothing of it stays."""
        said, _ = self.process.communicate(timeout=BOUND)
        assert not any(Path(f"/proc/{pid}").exists() for pid in self.ranks)
        return said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_ends_the_job_with_an_error(
    small_store: Path, small_config: Config, tmp_path: Path, dies: int
) -> None:
    job = Job(small_store, small_config, tmp_path)
    os.kill(job.ranks[dies], signal.SIGKILL)
    said = job.ended()
    assert job.process.returncode == 1
    assert f"latentcast: rank {1 - dies} of 2: another rank is gone or did not answer" in said
    assert "the same command goes on from the last checkpoint" in said
    assert "SIGKILL" in said  # torchrun names the one that died
    assert_one_process_goes_on(job)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("who", ["the job", "one rank"])
def test_a_job_that_is_stopped_saves_one_good_checkpoint(
    small_store: Path, small_config: Config, tmp_path: Path, who: str
) -> None:
    job = Job(small_store, small_config, tmp_path)
    os.kill(job.process.pid if who == "the job" else job.ranks[1], signal.SIGTERM)
    said = job.ended()
    assert job.process.returncode == 1  # torchrun's own, whatever its ranks return
    step = soak.newest(job.run)
    assert said.count(f"stopped at step {step}; the same command goes on from there") == 1
    assert_one_process_goes_on(job)


def assert_one_process_goes_on(job: Job) -> None:
    step = soak.newest(job.run)
    last = checkpoint.latest(job.run / "checkpoints")
    assert checkpoint.read_record(last)["step"] == step >= 10
    alone = subprocess.Popen(
        soak.command(job.store, job.run, job.file), stdout=subprocess.PIPE, text=True,
        env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    ends = time.monotonic() + BOUND
    while soak.newest(job.run) <= step and alone.poll() is None:
        assert time.monotonic() < ends
        time.sleep(0.02)
    alone.terminate()
    said, _ = alone.communicate(timeout=BOUND)
    assert alone.returncode == 143
    assert f"resuming at step {step} of {STEPS}" in said
    assert not list((job.run / "checkpoints").glob(".draft-*"))
    rows = [row["step"] for row in read_metrics(job.run)]
    assert rows == [1, *range(5, soak.newest(job.run) + 1, 5)]


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer"), True),
        (dist.DistNetworkError("the server socket has failed"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_only_what_comes_of_the_other_ranks_is_said_to_be_their_fault(
    problem: RuntimeError, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise problem

    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", fails)
    with pytest.raises(LatentcastError if told else RuntimeError) as caught, joined_ranks("cpu"):
        pass
    assert str(caught.value).startswith("rank 1 of 2: another rank is gone") == told
