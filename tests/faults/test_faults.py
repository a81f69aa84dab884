"""What breaks around a training: named, and survived or stopped with what to do.

Each test gives the command a user gives, breaks something at a known step, reads what the command
says, mends it, gives the same command again, and ends in the bits of a run that nothing happened
to.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import soak
from conftest import WFDB, Answer, Command, latentcast
from latentcast.batch import Inputs
from latentcast.config import Config, load
from latentcast.data import fit
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.ingest import ingest
from latentcast.data.loader import Loader
from latentcast.data.store import Store
from latentcast.data.writer import ShardWriter
from latentcast.engine import checkpoint, context, loop
from latentcast.engine.callbacks import Callback
from latentcast.errors import LatentcastError
from latentcast.monitors.journal import Journal, read_metrics
from latentcast.source import Source
from latentcast.workflows.train import train

STEPS, EVERY = 14, 5


class Trainer:
    """Gives ``latentcast train`` in this process, with something that happens at a step."""

    def __init__(self, store: Path, config: Path, run: Path, command: Command) -> None:
        self.store, self.config, self.run, self.command = store, config, run, command

    def __call__(self, *changes: str) -> Answer:
        return self.command(*soak.command(self.store, self.run, self.config, *changes)[3:])

    def broken(self, step: int, act: Callable[[], object], *changes: str) -> Answer:
        """``act`` happens when the row of a step is written, before any checkpoint of it."""
        original = Journal.on_step_end

        def then(self: Journal, state: checkpoint.State, *rest: Any) -> None:
            original(self, state, *rest)
            if state.step == step:
                act()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "on_step_end", then)
            return self(*changes)

    @property
    def saved(self) -> int:
        return soak.newest(self.run)


@pytest.fixture(scope="module")
def config(small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    changes = {"train.steps": STEPS, "train.checkpoint_every": EVERY, "train.log_every": 1,
               "encoder.depth": 1, "encoder.width": 16, "encoder.mlp_width": 16}  # fmt: skip
    file.write_text(small_config.updated(changes).to_yaml())
    return file


@pytest.fixture
def trainer(small_store: Path, config: Path, tmp_path: Path, command: Command) -> Trainer:
    return Trainer(small_store, config, tmp_path / "run", command)


@pytest.fixture(scope="module")
def undisturbed(small_store: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, to which nothing happened."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert latentcast(*soak.command(small_store, run, config)[3:]) == 0
    return run


def assert_goes_on(trainer: Trainer, undisturbed: Path) -> None:
    answer = trainer()
    assert answer.status == 0, answer.err
    assert f"{STEPS} steps done" in answer.out
    assert soak.differing(trainer.run, undisturbed) == []


# Disks ---------------------------------------------------------------------------------------


class Limit:
    """No file may grow beyond so many bytes: writes fail as they do on a full disk."""

    def __init__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def to(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))

    def lift(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture
def disk() -> Iterator[Limit]:
    limit = Limit()
    yield limit
    limit.lift()


def test_a_disk_that_is_full_when_a_checkpoint_is_written(
    trainer: Trainer, disk: Limit, undisturbed: Path
) -> None:
    answer = trainer.broken(2 * EVERY, lambda: disk.to(40_000))
    disk.lift()
    assert answer.status == 2
    assert "step-00000010: cannot be written" in answer.err
    assert "free space and give the same command" in answer.err
    assert answer.err.count("\n") == 1
    assert trainer.saved == EVERY  # as good as before
    assert_goes_on(trainer, undisturbed)


def test_a_disk_that_is_full_in_the_middle_of_a_row_of_the_log(
    trainer: Trainer, disk: Limit, undisturbed: Path
) -> None:
    log = trainer.run / "metrics.jsonl"
    answer = trainer.broken(7, lambda: disk.to(log.stat().st_size + 100))
    disk.lift()
    assert answer.status == 2
    assert f"{log}: cannot be written" in answer.err and "free space" in answer.err
    assert len(read_metrics(trainer.run)) == 7  # and a beginning of the eighth
    assert_goes_on(trainer, undisturbed)


@pytest.mark.parametrize("size", [0, 700])
def test_a_disk_that_is_full_before_the_first_step(
    trainer: Trainer, disk: Limit, undisturbed: Path, size: int
) -> None:
    disk.to(size)
    answer = trainer()
    disk.lift()
    assert answer.status == 2
    assert f"{trainer.run}: cannot be written" in answer.err and answer.err.count("\n") == 1
    assert_goes_on(trainer, undisturbed)


def test_a_disk_that_is_still_full_when_the_run_is_resumed(
    trainer: Trainer, disk: Limit, undisturbed: Path
) -> None:
    trainer.broken(7, interrupt)
    # On another machine, so that this is to be noted; but there is no room for the note.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 99)
        disk.to(0)
        answer = trainer()
    disk.lift()
    assert answer.status == 2
    assert "environment.json: cannot be written" in answer.err and "free space" in answer.err
    assert_goes_on(trainer, undisturbed)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Takes the right to write into a folder, from root too where the file system can."""
    root, closed = os.geteuid() == 0, list[Path]()

    def close(folder: Path) -> None:
        closed.append(folder)
        if not root:
            folder.chmod(0o500)
        elif subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode:
            pytest.skip("root may write anywhere here")

    yield close
    for folder in closed:
        if root:
            subprocess.run(["chattr", "-i", str(folder)], capture_output=True)
        else:
            folder.chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody may write to")
def test_a_run_folder_that_cannot_be_made(trainer: Trainer) -> None:
    trainer.run = Path("/proc/latentcast")
    answer = trainer()
    assert answer.status == 2
    assert "/proc/latentcast: cannot be written" in answer.err
    assert "choose another --out" in answer.err


@pytest.mark.parametrize("which", ["run", "checkpoints"])
def test_a_folder_that_becomes_read_only_while_training(
    trainer: Trainer, undisturbed: Path, read_only: Callable[[Path], None], which: str,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    folder = trainer.run if which == "run" else trainer.run / "checkpoints"

    def close() -> None:
        (trainer.run / "checkpoints" / ".draft-step-00000010").mkdir()  # as a killed save leaves it
        read_only(folder)
        interrupt()

    trainer.broken(7, close)
    answer = trainer()
    assert answer.status == 2 and "cannot be written" in answer.err
    assert str(folder) in answer.err and answer.err.count("\n") == 1
    if os.geteuid() == 0:
        subprocess.run(["chattr", "-i", str(folder)], check=True)
    else:
        folder.chmod(0o700)
    assert_goes_on(trainer, undisturbed)


@pytest.mark.parametrize("name", ["environment.json", "metrics.jsonl", "checkpoints"])
def test_a_part_of_the_run_folder_that_is_something_else(
    trainer: Trainer, undisturbed: Path, name: str
) -> None:
    trainer.broken(2, interrupt)
    part = trainer.run / name
    if part.is_file():
        part.unlink()
    if name == "checkpoints":
        part.write_text("in the way")
    elif name == "metrics.jsonl":
        part.mkdir()
    answer = trainer()
    if name == "environment.json":  # without it nobody can tell whether the data is the same
        assert answer.status == 2 and f"{part}: " in answer.err
        assert "choose another --out" in answer.err
        return
    assert answer.status == 2 and str(part) in answer.err
    part.rmdir() if part.is_dir() else part.unlink()
    assert_goes_on(trainer, undisturbed)


HOLDS = """
import sys, time
from filelock import lock_descriptor
file = open(sys.argv[1], "a")
lock_descriptor(file.fileno())
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_training_in_the_same_folder_is_refused_and_harms_nothing(
    trainer: Trainer, undisturbed: Path
) -> None:
    """It removed what the first was saving, and the first ended."""
    trainer.broken(7, interrupt)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(trainer.run / ".lock")], stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    saving = trainer.run / "checkpoints" / ".draft-step-00000010"
    saving.mkdir()
    before = (trainer.run / "metrics.jsonl").read_bytes()
    answer = trainer()
    assert answer.status == 2
    assert f"{trainer.run}: another training is writing into it; wait" in answer.err
    assert saving.exists() and (trainer.run / "metrics.jsonl").read_bytes() == before
    other.kill()
    other.communicate()
    assert_goes_on(trainer, undisturbed)  # the lock was that of the process, not of the file


# Data ----------------------------------------------------------------------------------------


def test_a_reader_process_that_is_killed(trainer: Trainer, undisturbed: Path) -> None:
    def kill() -> None:
        (reader,) = (p for p in multiprocessing.active_children() if "reader" in p.name)
        os.kill(reader.pid or 0, signal.SIGKILL)

    answer = trainer.broken(7, kill, "machine.workers=1")
    assert answer.status == 2
    assert "was ended by SIGKILL; memory may have run out" in answer.err
    assert trainer.saved == EVERY
    assert_goes_on(trainer, undisturbed)


@pytest.mark.parametrize("fault", ["vanishes", "is cut short"])
def test_a_shard_that_is_lost_while_training(
    trainer: Trainer, undisturbed: Path, tmp_path: Path, fault: str,
    between_reads: threading.Lock,
) -> None:  # fmt: skip
    whole, trainer.store = trainer.store, tmp_path / "store"
    shutil.copytree(whole, trainer.store)
    shard = trainer.store / "shard-00000.npy"

    def lose() -> None:
        with between_reads:
            if fault == "vanishes":
                shard.unlink()
            else:
                os.truncate(shard, 4096)

    answer = trainer.broken(6, lose)  # by then three batches more have been read
    assert answer.status == 2 and f"{shard}: " in answer.err and "restore it" in answer.err
    assert trainer.saved == EVERY
    again = trainer()
    assert again.status == 2 and shard.name in again.err  # before any step
    shutil.copyfile(whole / shard.name, shard)
    assert_goes_on(trainer, undisturbed)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """NaN in one sample of the batches of these attempts."""

    def of(attempts: set[int]) -> None:
        call = EcgPreprocess.__call__

        def poisoned(self: EcgPreprocess, counts: torch.Tensor, draw: Any = None) -> Inputs:
            inputs = call(self, counts, draw)
            if draw is not None and draw.step in attempts:
                inputs.values[0, :, :] = torch.nan
            return inputs

        monkeypatch.setattr(EcgPreprocess, "__call__", poisoned)

    return of


def test_nan_batches_are_skipped_counted_and_said(
    trainer: Trainer, poison: Callable[[set[int]], None], tmp_path: Path
) -> None:
    poison({3, 4, 8})
    answer = trainer()
    assert answer.status == 0
    for words in ("step 3: skipped (1 so far), the gradient norm is nan; look for outliers",
                  "step 3: skipped (2 so far)", "step 6: skipped (3 so far)"):  # fmt: skip
        assert words in answer.out
    rows = read_metrics(trainer.run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["skipped"] for row in rows] == [0] * 3 + [2] * 3 + [3] * 8
    # Killed between two of them: the count, and with it the data, goes on where it was.
    killed = Trainer(trainer.store, trainer.config, tmp_path / "killed", trainer.command)
    killed.broken(7, interrupt)
    assert killed().status == 0
    assert soak.differing(killed.run, trainer.run) == []


def test_ten_nan_batches_in_a_row_stop_with_advice(
    trainer: Trainer, poison: Callable[[set[int]], None]
) -> None:
    poison(set(range(6, 50)))
    for _ in range(2):  # also when the command is given again
        answer = trainer()
        assert answer.status == 2
        assert "step 6: the gradient norm is nan; look for outliers in the data" in answer.err
        assert "lower optimizer.lr, 10 times in a row" in answer.err
    assert trainer.saved == EVERY


def test_a_loss_that_jumps_is_an_alarm_and_the_run_goes_on(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulate = loop.accumulate

    def jumps(*given: Any) -> Any:
        output = accumulate(*given)
        return replace(output, loss=output.loss + 50 * (given[4].step == 12))

    monkeypatch.setattr(loop, "accumulate", jumps)
    answer = trainer()
    assert answer.status == 0
    assert answer.out.count("alarm loss-spike: the loss is 4") == 1
    assert "lower optimizer.lr" in answer.out
    rows = read_metrics(trainer.run)
    assert [row["step"] for row in rows if "loss-spike" in row["alarms"]] == [13]


# Signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
def test_a_signal_saves_the_step_in_hand_and_leaves(
    trainer: Trainer, undisturbed: Path, name: str
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    answer = trainer.broken(7, lambda: signal.raise_signal(number))
    assert answer.status == 143  # not 0: a scheduler must not take it for the end
    assert trainer.saved == 8
    assert "stopped at step 8; the same command goes on from there" in answer.out
    assert signal.getsignal(number) == before
    assert_goes_on(trainer, undisturbed)


@pytest.mark.parametrize("again", [False, True])
def test_a_second_ctrl_c_leaves_at_once(
    trainer: Trainer, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """But not the echo of the first: torchrun passes on what has reached the whole group."""
    monkeypatch.setattr(context, "ECHO", 0.05)

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.6 * again)
        signal.raise_signal(signal.SIGINT)

    answer = trainer.broken(7, twice)
    assert answer.status == (130 if again else 143)
    assert trainer.saved == (EVERY if again else 8)
    assert_goes_on(trainer, undisturbed)


@pytest.mark.parametrize("done", [0, 7])
def test_a_signal_in_a_step_of_minutes_waits_for_its_end(
    trainer: Trainer, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """The step is dropped, and the last complete one is saved."""
    monkeypatch.setattr(context, "ECHO", 0.05)
    monkeypatch.setattr(context, "PATIENCE", 0.1)

    def slow() -> None:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(1000):
            time.sleep(0.01)

    class Preprocess(EcgPreprocess):
        pieces = -2  # the first two are the forecast's

        def __call__(self, samples: torch.Tensor, draw: Any = None) -> Inputs:
            Preprocess.pieces += draw is not None
            if Preprocess.pieces == 2 * done + 1:
                slow()
            return super().__call__(samples, draw)

    monkeypatch.setattr(fit, "EcgPreprocess", Preprocess)
    start = time.monotonic()
    assert trainer().status == 143 and time.monotonic() - start < 8
    assert trainer.saved == done
    monkeypatch.undo()
    assert_goes_on(trainer, undisturbed)


def test_a_signal_inside_a_save_lets_it_end(
    trainer: Trainer, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = checkpoint._finish

    def signalled(draft: Path, target: Path, *rest: Any) -> None:
        if target.name == "step-00000010":
            signal.raise_signal(signal.SIGTERM)
        finish(draft, target, *rest)

    monkeypatch.setattr(checkpoint, "_finish", signalled)
    assert trainer().status == 143
    assert trainer.saved == 11
    assert_goes_on(trainer, undisturbed)


# Threads and processes -----------------------------------------------------------------------


def stops(name: str) -> Callable[[], object]:
    if name == "error":
        return lambda: exec("raise OSError('a callback fails')")
    return lambda: signal.raise_signal(signal.Signals[name]) if name != "success" else None


@pytest.mark.parametrize("ending", ["success", "error", "SIGINT", "SIGTERM"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_leaves_a_thread_or_a_process_behind(
    small_store: Path, config: Path, tmp_path: Path, ending: str, workers: int
) -> None:
    """A reading thread that is inside of torch when the interpreter ends aborts the process."""

    class Ends(Callback):
        def on_step_end(self, state: checkpoint.State, *rest: Any) -> None:
            if state.step == 7:
                stops(ending)()

    before = threading.enumerate()
    problem = None  # kept: its traceback refers to the stream
    try:
        train(load(config), small_store, tmp_path / "run", callbacks=[Ends()],
              set=[f"machine.workers={workers}"], quiet=True)  # fmt: skip
    except (OSError, KeyboardInterrupt, SystemExit) as error:
        problem = error
    assert (problem is None) == (ending == "success")
    assert threading.enumerate() == before and not multiprocessing.active_children()


def test_a_stream_or_an_ingest_given_up_leaves_a_thread_or_a_process_behind(
    small_store: Path, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.enumerate()
    store = Store.open(small_store)
    stream = Loader(store, store.rows("train"), small_config).stream(0)
    next(stream)
    stream.close()
    assert threading.enumerate() == before

    def full(*given: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ShardWriter, "add", full)
    monkeypatch.setattr(Source, "batch", 1)
    with pytest.raises(LatentcastError, match="no space") as problem:
        ingest(WFDB, tmp_path / "store", fs=100, workers=2, quiet=True)
    assert problem.tb is not None
    assert threading.enumerate() == before and not multiprocessing.active_children()


# Configuration -------------------------------------------------------------------------------


def test_a_run_of_another_configuration_is_refused_with_the_fields(
    trainer: Trainer, undisturbed: Path
) -> None:
    trainer.broken(7, interrupt)
    changes = ("optimizer.lr=0.5", "train.seed=3")
    answer = trainer(*changes)
    assert answer.status == 2
    for words in ("optimizer.lr is 0.5 here, 0.001 there", "train.seed is 3 here, 0 there",
                  "choose another --out"):  # fmt: skip
        assert words in answer.err
    # The checkpoint knows it too, should somebody have taken the other file away.
    kept = (trainer.run / "config.yaml").rename(trainer.run / "kept.yaml")
    answer = trainer(*changes)
    assert answer.status == 2
    assert "step-00000005: was written by another configuration" in answer.err
    assert "optimizer.lr is 0.5 here, 0.001 there" in answer.err
    kept.rename(trainer.run / "config.yaml")
    assert_goes_on(trainer, undisturbed)
