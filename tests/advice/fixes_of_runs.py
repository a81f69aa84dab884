"""What errors of run folders and checkpoints say to type."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from terminal import (
    ECG,
    Terminal,
    another_process,
    fixes,
    full_disk,
    read_only,
    train,
    training,
    write_images,
)  # fmt: skip

from latentcast import config as configuration
from latentcast.monitors.journal import Journal
from latentcast.recipes import recipe
from latentcast.runs.folder import write_config, write_environment
from latentcast.runs.new import alone_in
from latentcast.workflows.train import train as train_here


@fixes("runs/new.py", "); choose another --out, or repeat")
def _(t: Terminal) -> None:
    t.works(train(t, ECG, t.at.bare))
    other = training(t, ECG, t.at.bare, "--set optimizer.lr=0.1")
    flag = t.refused(f"{other} --out {t.new('run')}").typed("another (--out), or repeat the run's")
    t.works(train(t, ECG, t.at.bare))
    t.works(f"{other} {flag} {t.new('other')}")


def elsewhere(file: str, start: str) -> Callable[[Callable[[Terminal, Path], str]], None]:
    """Register what makes a run folder unfit for a training, and that another --out is not."""

    def register(spoil: Callable[[Terminal, Path], str]) -> None:
        @fixes(file, start)
        def _(t: Terminal) -> None:
            command = spoil(t, t.new("run"))
            flag = t.refused(f"{command} --out {t.new('run')}").typed("another (--out)")
            t.works(f"{command} {flag} {t.new('other')}")

    return register


@elsewhere("runs/new.py", "{}: cannot be written ({}); choose")
def _(t: Terminal, run: Path) -> str:
    run.write_text("a file")
    return training(t, ECG, t.at.bare)


@elsewhere("workflows/train.py", "{}: is a store")
def _(t: Terminal, run: Path) -> str:
    shutil.copytree(t.at.bare, run)
    return training(t, ECG, t.at.probed)


@elsewhere("runs/new.py", "{}: cannot be read ({}), and says")
def _(t: Terminal, run: Path) -> str:
    t.works(train(t, ECG, t.at.bare))
    (run / "environment.json").write_text("{}")
    return training(t, ECG, t.at.bare)


@elsewhere("runs/new.py", "{}: the run was trained on")
def _(t: Terminal, run: Path) -> str:
    t.works(train(t, "nepa-image-tiny", t.at.coloured))
    t.works(f"ingest {write_images(t.new('i'), [32] * 14)} --out {t.new('more')}")
    return training(t, "nepa-image-tiny", t.new("more"))


@elsewhere("runs/new.py", "{}: the run began from")
def _(t: Terminal, run: Path) -> str:
    t.works(train(t, ECG, t.at.bare, out="first"))
    command = training(t, ECG, t.at.bare, f"--init {t.new('first')}")
    t.works(f"{command} --out {run}")
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(t.new("first"))
    t.works(train(t, ECG, t.at.bare, "--set train.seed=5", out="first"))
    return command


@elsewhere("monitors/journal.py", "{}: cannot be written ({}); free space or choose")
def _(t: Terminal, run: Path) -> str:
    (run / "metrics.jsonl").mkdir(parents=True)
    return training(t, ECG, t.at.bare)


@elsewhere("engine/checkpoint.py", "); ")
def _(t: Terminal, run: Path) -> str:
    t.works(train(t, ECG, t.at.bare))
    changed = configuration.load(run / "config.yaml").updated({"optimizer.lr": 0.1})
    write_config(run / "config.yaml", changed)
    return training(t, ECG, t.at.bare, "--set optimizer.lr=0.1")


@fixes("runs/new.py", "{}: another training")
def _(t: Terminal) -> None:
    t.works(train(t, ECG, t.at.bare))
    with another_process(lambda: alone_in(t.new("run"))):
        flag = t.refused(train(t, ECG, t.at.bare)).typed("another (--out)")
        t.works(f"{training(t, ECG, t.at.bare)} {flag} {t.new('other')}")


@fixes("runs/new.py", "{}: the run was trained on")
def _(t: Terminal) -> None:
    t.works(train(t, "nepa-image-tiny", t.at.coloured))
    t.works(f"ingest {write_images(t.new('i'), [32] * 14)} --out {t.new('more')}")
    error = t.refused(train(t, "nepa-image-tiny", t.new("more")))
    t.works(train(t, "nepa-image-tiny", Path(error.typed(r"was trained on (\S+),"))))


@fixes("runs/folder.py", "{}: was changed since")
def _(t: Terminal) -> None:
    file = t.run / "config.yaml"
    whole = file.read_text()
    file.write_text(whole.replace("lr: ", "lr: 1"))
    error = t.refused(f"train {t.run}")
    edited = Path(shutil.copy(file, t.new("edited.yaml")))
    t.works(f"train {error.typed('--config')} {edited} --data {t.at.probed} --out {t.new('other')}")
    assert error.typed("undo the change")
    file.write_text(whole)
    t.works(f"train {t.run}")


@fixes("engine/checkpoint.py", "{}: holds no checkpoint")
def _(t: Terminal) -> None:
    t.works(train(t, ECG, t.at.bare))
    shutil.rmtree(t.new("run") / "checkpoints")
    export = f"export {t.new('run')} --out {t.new('a.safetensors')}"
    assert t.refused(export).typed("train the run first")
    t.works(train(t, ECG, t.at.bare))
    t.works(export)


@fixes("engine/checkpoint.py", "delete {} to {}")
def _(t: Terminal) -> None:
    t.works(train(t, ECG, t.at.bare))
    (t.new("run") / "checkpoints" / "step-00000002" / "state.json").write_text("{")
    shutil.rmtree(t.refused(train(t, ECG, t.at.bare)).typed("delete (.+) to start over"))
    t.works(train(t, ECG, t.at.bare))


Disk = Callable[[Terminal, Path], AbstractContextManager[object]]


def again(file: str, start: str) -> Callable[[Disk], Disk]:
    """Register a disk on which a training fails, and that the same command works without it."""

    def register(disk: Disk) -> Disk:
        @fixes(file, start)
        def _(t: Terminal) -> None:
            with disk(t, t.new("run")):
                assert t.refused(train(t, ECG, t.at.bare)).typed("the same command")
            t.works(train(t, ECG, t.at.bare))

        return disk

    return register


@again("engine/checkpoint.py", "{}: cannot be written ({}); free")
def _(t: Terminal, run: Path) -> AbstractContextManager[object]:
    return full_disk(40_000)


@again("monitors/journal.py", "{}: cannot be written ({}); free space and")
def _(t: Terminal, run: Path) -> AbstractContextManager[object]:
    return read_only("latentcast.monitors.journal._plain")


@again("engine/checkpoint.py", "{}: cannot be written ({}); make")
def _(t: Terminal, run: Path) -> AbstractContextManager[object]:
    (run / "checkpoints" / ".draft-x").mkdir(parents=True)
    return read_only("latentcast.engine.checkpoint.shutil.rmtree")


@again("runs/new.py", "{}: cannot be written ({}); make")
def _(t: Terminal, run: Path) -> AbstractContextManager[object]:
    (run / ".lock").mkdir(parents=True)
    return closing(SimpleNamespace(close=(run / ".lock").rmdir))


@again("runs/new.py", "{}: cannot be written ({}); free")
def _(t: Terminal, run: Path) -> AbstractContextManager[object]:
    t.works(train(t, ECG, t.at.bare))
    record = json.loads((run / "environment.json").read_text())
    write_environment(run / "environment.json", record | {"torch": "0.1"})
    return read_only("latentcast.runs.new.write_environment")


@fixes("cli/training.py", "{}: stopped at step {}")
@fixes("workflows/train.py", "{}; the same command")
def _(t: Terminal) -> None:
    """A signal arrives while the first row is written."""
    command = train(t, ECG, t.at.bare, "--set train.steps=9 train.log_every=1")
    number = signal.SIGINT if t.messages[0].file == "cli/training.py" else signal.SIGTERM
    with patch.object(Journal, "_write", ended_by(number)):
        assert t.refused(command).typed("the same command")
    assert "resuming at step" in t.works(command)


@fixes("workflows/train.py", "{}; the same call goes")
def _(t: Terminal) -> None:
    config = configuration.resolve(recipe(ECG), t.at.small, ["train.steps=9"])

    def call() -> object:
        return train_here(config, t.at.bare, t.new("run"))

    with patch.object(Journal, "_write", ended_by(signal.SIGINT)):
        assert t.refused(call).typed("the same call")
    assert "resuming at step" in t.works(call)


def ended_by(number: signal.Signals) -> Callable[[Journal, dict[str, object]], None]:
    """What writes a row, and raises a signal with the first."""
    write, pending = Journal._write, [number]

    def wrote(journal: Journal, row: dict[str, object]) -> None:
        write(journal, row)
        if pending:
            signal.raise_signal(pending.pop())

    return wrote


@fixes("artifacts/weights.py", "{}: none of its")
def _(t: Terminal) -> None:
    error = t.refused(train(t, ECG, t.at.bare, f"--init {t.at.image_run}"))
    assert error.typed("start from a run of the same kind")
    t.works(train(t, ECG, t.at.bare, f"--init {t.at.run}"))
