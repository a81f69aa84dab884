"""Training that starts from weights: which are loaded, what is printed of them, and when."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentcast.artifacts.export import export
from latentcast.artifacts.weights import read_weights, start_from
from latentcast.config import Config
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import State
from latentcast.errors import LatentcastError
from latentcast.objectives.build import build
from latentcast.objectives.views import TwoViews
from latentcast.workflows.train import train

STILL = {"optimizer.lr": 0.0, "optimizer.weight_decay": 0.0, "ema": {"base": 1.0}, "train.steps": 4}
"""A training that leaves the weights at which it starts as they are."""


class Signals(Callback):
    """A signal reaches the process in a step."""

    def __init__(self, number: signal.Signals, step: int = 2) -> None:
        self.number, self.step = number, step

    def on_step_end(self, state: State, *_: object) -> None:
        if state.step == self.step:
            signal.raise_signal(self.number)


class Dies(Callback):
    """The process ends before the first checkpoint."""

    def on_step_end(self, *_: object) -> None:
        raise RuntimeError("killed")


@pytest.fixture(scope="module", autouse=True)
def no_measurement_of_the_machine() -> Iterator[None]:
    """Which costs more than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentcast.monitors.journal.matmul_peak", lambda *_: 1e9)
        yield


@pytest.fixture(scope="module")
def source(
    small_store: Path, small_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run whose teacher is not its student."""
    folder = tmp_path_factory.mktemp("source") / "run"
    train(
        small_config.updated({"train.steps": 5, "ema.base": 0.5}), small_store, folder, quiet=True
    )
    return folder


def weights(run: Path) -> dict[str, Tensor]:
    return read_weights(run).tensors


def drawn(config: Config) -> dict[str, Tensor]:
    return build(config).state_dict()


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_a_run_starts_from_all_weights_of_another_and_says_so(
    source: Path, small_store: Path, small_config: Config, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config, run = small_config.updated(STILL | {"train.seed": 3}), tmp_path / "run"
    result = train(config, small_store, run, init=source)
    assert differing(weights(run), weights(source)) == []
    assert f"start from {source}, step 5: 66 of 66 tensors loaded (student.cls" in (
        capsys.readouterr().out.replace("\n", "")
    )
    assert result.config.train.init == str(source) and (result.run, result.step) == (run, 4)
    init = json.loads((run / "environment.json").read_text())["init"]
    assert init["source"] == str(source) and init["step"] == 5
    folder = source / "checkpoints"
    assert init["sha256"] == {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "step-00000005" / "model").iterdir()
    }


def test_an_exported_file_starts_a_run_as_its_run_does(
    source: Path, small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    export(source, tmp_path / "file.safetensors")
    config = small_config.updated(STILL | {"train.init": str(tmp_path / "file.safetensors")})
    train(config, small_store, tmp_path / "run", quiet=True)
    assert differing(weights(tmp_path / "run"), weights(source)) == []
    init = json.loads((tmp_path / "run" / "environment.json").read_text())["init"]
    digest = hashlib.sha256((tmp_path / "file.safetensors").read_bytes()).hexdigest()
    assert init["sha256"] == {"file.safetensors": digest}


@pytest.mark.parametrize("before", [True, False])
def test_a_run_with_two_views_and_one_without_start_from_each_other(
    source: Path, small_config: Config, before: bool
) -> None:
    small_config = small_config.updated({"train.micro_batches": 1})
    views = small_config.updated({"objective.views": {}})
    start, end = (views, small_config) if before else (small_config, views)
    objective = build(start)
    objective.initialise(5)
    from_run = replace(read_weights(source), config=start, tensors=objective.state_dict())
    into = build(end)
    into.initialise(6)
    assert "66 of" in start_from(into, from_run)
    theirs, ours = (x.base if isinstance(x, TwoViews) else x for x in (objective, into))
    assert differing(ours.state_dict(), theirs.state_dict()) == []


def test_what_does_not_fit_is_left_at_initialisation_and_named(
    source: Path, small_store: Path, small_config: Config, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = small_config.updated(STILL | {"encoder.depth": 3, "encoder.mlp_width": 40})
    train(config, small_store, tmp_path, init=source)
    now, start = weights(tmp_path), drawn(config)
    initial = {
        name for name in now if "blocks.2" in name or ("mlp" in name and "down.b" not in name)
    }
    assert set(differing(now, start)) <= now.keys() - initial
    loaded = {name: now[name] for name in now.keys() - initial}
    assert differing(loaded, weights(source)) == []
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"{len(loaded)} of {len(now)} tensors loaded" in printed
    assert f"{len(initial)} left at initialisation (student.blocks.0.mlp.up.weight" in printed
    assert f"{66 - len(loaded)} of the source not used" in printed


def test_a_teacher_without_weights_of_its_own_starts_as_its_student(
    source: Path, small_store: Path, small_config: Config, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    alone = small_config.updated({"ema": None, "train.steps": 4})
    train(alone, small_store, tmp_path / "alone", init=source, quiet=True)
    assert capsys.readouterr().out == ""
    train(small_config.updated(STILL), small_store, tmp_path / "run", init=tmp_path / "alone")
    now, began = weights(tmp_path / "run"), weights(tmp_path / "alone")
    assert all(torch.equal(now[name], began[name]) for name in began)
    assert all(torch.equal(now[name.replace("student", "teacher")], began[name]) for name in began)
    assert "33 of 66 tensors loaded" in (printed := capsys.readouterr().out.replace("\n", ""))
    assert "33 of the teacher copied from the student (teacher.cls" in printed


def test_weights_of_which_nothing_fits_are_refused_before_the_run_is_made(
    source: Path, small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    config = small_config.updated({"encoder.width": 16, "encoder.mlp_width": 32})
    with pytest.raises(LatentcastError, match="none of its 66 tensors agrees in name and shape"):
        train(config, small_store, tmp_path / "run", init=source)
    with pytest.raises(LatentcastError, match="nowhere: does not exist, and nothing is downl"):
        train(config, small_store, tmp_path / "run", init=tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_does_not_load_again(
    source: Path, small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    init, short = tmp_path / "init", small_config.updated({"train.steps": 8})
    shutil.copytree(source, init)
    train(short, small_store, tmp_path / "uncut", init=init, quiet=True)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3; the same call goes on"):
        train(short, small_store, tmp_path / "cut", init=init, callbacks=[Signals(signal.SIGINT)])
    shutil.rmtree(init)
    assert train(short, small_store, tmp_path / "cut", init=init, quiet=True).step == 8
    assert differing(weights(tmp_path / "cut"), weights(tmp_path / "uncut")) == []
    with pytest.raises(LatentcastError, match="train.init is None here, .*init there"):
        train(short, small_store, tmp_path / "cut")


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_same_weights_or_not_at_all(
    source: Path, small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    init, run = tmp_path / "init", tmp_path / "run"
    shutil.copytree(source, init)
    short = small_config.updated({"train.steps": 5})
    with pytest.raises(RuntimeError, match="killed"):
        train(short, small_store, run, init=init, callbacks=[Dies()], quiet=True)
    with pytest.raises(RuntimeError, match="killed"):  # of the same weights
        train(short, small_store, run, init=init, callbacks=[Dies()], quiet=True)
    shutil.rmtree(init)
    train(short.updated({"train.seed": 1}), small_store, init, quiet=True)
    with pytest.raises(LatentcastError, match="began from step 5 .* which has other weights now"):
        train(short, small_store, run, init=init, quiet=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_script_goes_on_with_half_a_training(
    small_store: Path, small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as ending:
        train(small_config, small_store, tmp_path, callbacks=[Signals(number)])
    printed = capsys.readouterr().out
    assert ending.value.code == 128 + number  # what the interpreter ends with
    assert f"{tmp_path}: stopped at step 3; the same command" in str(ending.value)
    assert str(ending.value) in printed
    assert "step      2/12" in printed and "\x1b" not in printed  # no terminal, no escape codes
