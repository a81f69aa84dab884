"""A run killed at random moments ends with the same bits as one left alone."""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import soak
from latentcast.config import Config
from latentcast.engine import checkpoint
from latentcast.engine.checkpoint import State
from latentcast.engine.optimizer import build_optimizer
from latentcast.errors import LatentcastError
from latentcast.monitors import journal
from latentcast.objectives.build import build
from latentcast.workflows.train import train


def written(config: Config, folder: Path, steps: int, precision: str = "fp32") -> Path:
    changes = {"train.steps": steps, "train.checkpoint_every": soak.EVERY, "train.log_every": 3,
               "train.precision": precision}  # fmt: skip
    file = folder / "config.yaml"
    file.write_text(config.updated(changes).to_yaml())
    return file


@pytest.mark.parametrize(
    ("kills", "precision", "which"),
    [
        (2, "fp32", "small_config"),
        pytest.param(10, "fp32", "small_config", marks=pytest.mark.slow),
        pytest.param(5, "bf16", "small_config", marks=pytest.mark.slow),
        pytest.param(2, "bf16", "small_views", marks=pytest.mark.slow),
        pytest.param(10, "bf16", "small_hierarchy", marks=pytest.mark.slow),
        pytest.param(5, "fp16", "small_hierarchy", marks=pytest.mark.slow),
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
    steps = soak.steps_for(kills)
    config = written(request.getfixturevalue(which), tmp_path, steps, precision)
    pace = soak.left_alone(small_store, tmp_path / "alone", config)
    done = soak.killed(small_store, tmp_path / "killed", config, kills, kills, pace)
    assert sum(done.hits.values()) == kills
    assert done.resumed[-1] > 0  # otherwise nothing was resumed and nothing tested
    assert soak.newest(tmp_path / "killed") == steps
    assert soak.differing(tmp_path / "alone", tmp_path / "killed") == []


def test_runs_that_differ_are_told_apart(
    small_store: Path, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What compares a killed run with the other must see a difference where there is one."""
    monkeypatch.setattr(journal, "matmul_peak", lambda *_: 1e9)
    config = small_config.updated({"train.steps": 4})
    for name, seed in (("a", 0), ("same", 0), ("other", 1)):
        train(config.updated({"train.seed": seed}), small_store, tmp_path / name)
    assert soak.differing(tmp_path / "a", tmp_path / "same") == []
    found = soak.differing(tmp_path / "a", tmp_path / "other")
    tensors = checkpoint.read_tensors(checkpoint.latest(tmp_path / "a" / "checkpoints"), "model")
    assert {name for name in tensors if "weight" in name} <= set(found)
    assert [name for name in found if name.startswith("row")] == [
        f"row of step {step}" for step in range(1, 5)
    ]


@pytest.mark.slow
def test_sigterm_saves_the_step_in_hand_and_says_so(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", written(small_config, tmp_path, 3000)
    process = subprocess.Popen(
        soak.command(small_store, run, config), stdout=subprocess.PIPE, text=True,
        env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):  # a row of the log: the first line speaks of steps as well
            break
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert soak.newest(run) < 3000 and f"stopped at step {soak.newest(run)}" in said


# Inside a save -------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing that comes after it changes a file any more."""


OPERATIONS = ((builtins, "open"), (io, "open"), (os, "open"), (os, "mkdir"), (os, "rename"),
              (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "fsync"))  # fmt: skip


@contextmanager
def killed_before(operation: int) -> Iterator[list[str]]:
    """The process ends before it touches the file system for the n-th time; what it did so far."""
    done: list[str] = []

    def watched(name: str, original: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            if len(done) >= operation:
                raise Killed(name)
            done.append(name)
            return original(*given, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in OPERATIONS:
            patch.setattr(owner, name, watched(name, getattr(owner, name)))
        yield done


@pytest.mark.parametrize("before", [0, 2])
def test_a_save_killed_before_any_of_its_operations_leaves_a_good_checkpoint(
    small_config: Config, tmp_path: Path, before: int
) -> None:
    """From the first folder to the removal of the checkpoint that is no longer kept."""
    config = small_config.updated({"train.keep_checkpoints": 2, "encoder.depth": 1})
    model = build(config)
    optimizer = build_optimizer(model, config.optimizer)
    for p in model.trainable().values():
        p.grad = p.detach().clone()
    optimizer.step()

    def save(folder: Path, step: int) -> None:
        checkpoint.save(folder, State(step), model, optimizer, config)

    former = tmp_path / "former"
    former.mkdir()
    for step in range(1, before + 1):
        save(former, step)
    shutil.copytree(former, tmp_path / "whole")
    with killed_before(10**9) as operations:
        save(tmp_path / "whole", before + 1)
    assert {"open", "mkdir", "rename", "fsync"} <= set(operations)
    found = set()
    for moment in range(len(operations)):
        folder = tmp_path / str(moment)
        shutil.copytree(former, folder)
        # torch makes an error of whatever happens while it writes; no file changes after it.
        with killed_before(moment), pytest.raises((Killed, LatentcastError)):
            save(folder, before + 1)
        kept = checkpoint.list_steps(folder)
        for finished in kept:
            checkpoint.read_record(finished)  # its checksums are right
        state = checkpoint.resume(folder, model, optimizer, config)
        assert state.step == max(map(soak.step_of, kept), default=0)
        assert not list(folder.glob(".draft-*"))
        found.add((state.step, len(kept)))
    # None of it, all of it, and, when there is one too many, that before it was removed.
    assert found == ({(0, 0), (1, 1)} if before == 0 else {(2, 2), (3, 3), (3, 2)})


def test_a_former_save_is_not_believed_before_its_files_are_whole(
    small_config: Config, tmp_path: Path
) -> None:
    """A machine that loses its power keeps the name of a folder and loses what is in it."""
    model = build(small_config)
    optimizer = build_optimizer(model, small_config.optimizer)
    for step in (1, 2):
        saved = checkpoint.save(tmp_path, State(step), model, optimizer, small_config)
    for file in saved.rglob("*.safetensors"):
        os.truncate(file, 0)
    with pytest.raises(LatentcastError, match="is damaged .*to resume from step-00000001"):
        checkpoint.resume(tmp_path, model, optimizer, small_config)
