"""A run folder made, resumed and kept to one training at a time; and the store it was made from."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentcast import config as configuration
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.engine.checkpoint import list_steps, step_of
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.locks import Locked, locked
from latentcast.nn.cpu_attention import MULTIPLIES_BF16
from latentcast.runs.folder import (
    LOCK,
    PARTS,
    check_config,
    is_run,
    read_environment,
    run_of,
    write_config,
    write_environment,
)

_LOGS = (".log", ".out", ".err")


def open_run(run: Path, config: Config, store: Store, init: dict[str, Any] | None = None) -> None:
    """Make the run folder with its configuration and environment, or check that it is ours.

    A new run and one that goes on compare the whole store with its checksums: a damaged shard must
    not be learned from. That takes about a second for a gigabyte and processor core, up to eight
    cores, or what the disk takes to read it once.

    Args:
        init: which weights the run starts from, when it does so now; they are written down.

    Raises:
        LatentcastError: the folder is of another configuration, store or initial weights, holds
            something else, or cannot be written; the store is damaged.
    """
    _refuse_other_folder(run)
    file, record = run / "config.yaml", run / "environment.json"
    if file.exists():
        check_config(file)
        theirs = configuration.load(file)
        if config.train.steps > theirs.train.steps:
            more = {"train.steps": config.train.steps, "train.stretches": config.train.stretches}
            theirs = theirs.updated(more)
        _refuse_other_data(record, store)  # its statistics are in the configuration as well
        if not config.train.stretches:  # nobody types them
            theirs = theirs.updated({"train.stretches": ()})
        if differing := configuration.differences(config, theirs):
            raise LatentcastError(
                f"{file}: belongs to another run ("
                + "; ".join(differing)
                + "); choose another --out, or repeat the run's own settings to resume it"
            )
        _note_resume(record, store, init)
    if config.machine.stage is None:  # a staged copy is compared where it is made or found
        store.verify()
    if file.exists():
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
        start = environment(store) | ({} if init is None else {"init": init})
        write_environment(record, start)
        write_config(file, config)  # last: its presence says that the folder is a run
    except OSError as problem:
        raise LatentcastError(
            f"{run}: cannot be written ({problem}); choose another --out"
        ) from None


def _refuse_other_folder(run: Path) -> None:
    """Raises LatentcastError: the folder holds files and no run, such as recordings."""
    if not run.is_dir() or is_run(run):
        return
    # The output of a batch system may be directed there before the run begins.
    files = [file.name for file in run.iterdir() if file.suffix not in _LOGS]
    others = [name for name in files if name not in PARTS and not name.startswith(".")]
    if others:
        raise LatentcastError(
            f"{run}: is not empty and holds no run (but {min(others)}); choose an empty or new "
            "--out"
        )


def trained_on(run: Path, config: Config) -> tuple[Config, str]:
    """The configuration with which a run goes on, and what becomes of its schedules if it does so
    to more steps than it had."""
    file = run / "config.yaml"
    if not file.exists():
        return config, ""
    theirs = configuration.load(file)
    done, steps = steps_done(run), config.train.steps
    differing = {line.split()[0] for line in configuration.differences(config, theirs)}
    if differing <= {"train.steps", "train.stretches"}:
        _refuse_fewer(run, steps, done)
    if steps == theirs.train.steps and not config.train.stretches:
        return config.updated({"train.stretches": theirs.train.stretches}), ""
    if steps <= theirs.train.steps:
        return config, ""
    longer = theirs.trained_on(done, steps)
    before, after = Schedules.of(theirs).lr, Schedules.of(longer).lr
    return config.updated({"train.stretches": longer.train.stretches}), (
        f"{run}: trains on from step {done}, now to {steps} and not to {theirs.train.steps}; from "
        f"here learning rate, weight decay and EMA momentum follow their schedules over {steps} "
        f"steps (learning rate {before(done - 1):.3g} in step {done}, {after(done):.3g} in the "
        "next)"
    )


def keep_steps(run: Path, flags: Sequence[str]) -> None:
    """Raises LatentcastError: ``key=value`` flags ask for fewer steps than the run has done."""
    for flag in flags:
        key, _, value = flag.partition("=")
        if key == "train.steps" and value.isdecimal():
            _refuse_fewer(run, int(value), steps_done(run))


def _refuse_fewer(run: Path, steps: int, done: int) -> None:
    if steps < done:
        raise LatentcastError(
            f"{run}: has done {done} step{'s' * (done != 1)}, train.steps is {steps}; set it to "
            f"more than {done} to train on (of latentcast finetune: more --epochs)"
        )


def note_changes(run: Path, config: Config) -> None:
    """Write down what a resumed run does otherwise from here on: more steps, other intervals.

    Raises:
        LatentcastError: the folder cannot be written.
    """
    file, record = run / "config.yaml", run / "environment.json"
    theirs = configuration.load(file)
    old, new = (c.train.model_dump(mode="json", exclude={"stretches"}) for c in (theirs, config))
    changes = {f"train.{key}": [old[key], new[key]] for key in new if old[key] != new[key]}
    if not changes:
        return
    change = {"step": steps_done(run), **changes}
    try:
        start = read_environment(record)
        start["changed"] = [*start.get("changed", []), change]
        write_environment(record, start)
        write_config(file, theirs.model_copy(update={"train": config.train}))
    except OSError as problem:
        raise LatentcastError(
            f"{run}: cannot be written ({problem}); free space or make the folder writable, and "
            "give the same command"
        ) from None


def steps_done(run: Path) -> int:
    """Steps of the newest checkpoint."""
    steps = list_steps(run / "checkpoints")
    return step_of(steps[-1]) if steps else 0


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keep a second training out: its start would remove what this one is just saving.

    The lock ends with the process, however that ends; the file stays, so that all lock the same.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(run / LOCK))
        except Locked:
            raise LatentcastError(
                f"{run}: another training is writing into it; wait until it ends or choose another "
                f"--out (if none is alive on any machine, remove {run / LOCK})"
            ) from None
        except OSError as problem:
            raise LatentcastError(
                f"{run}: cannot be written ({problem}); make it writable and give the same command"
            ) from None
        yield


def data_of(run: Path) -> Store | None:
    """The store a run was trained on, for the leak check; None when it is no longer there.

    A folder of that name with other data is not the store.

    Args:
        run: its folder, or one of its checkpoints; of an exported file nothing is known.
    """
    file = run_of(run) / "environment.json"
    if not file.exists():
        return None
    try:
        record = read_environment(file)
        path, digests = Path(record["data"]["store"]), record["data"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise LatentcastError(
            f"{file}: cannot be used ({problem!r}); restore it from a copy, or remove it: then it "
            "is not known what the run was trained on"
        ) from None
    if not (path / "manifest.json").is_file():
        return None
    store = Store.open(path)
    return store if store.checksums == digests else None


def _refuse_other_data(file: Path, store: Store) -> None:
    try:
        data = read_environment(file)["data"]
        place, same = data["store"], data["sha256"] == store.checksums
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise LatentcastError(
            f"{file}: cannot be read ({problem}), and says which data the run was trained on; "
            "restore it or choose another --out"
        ) from None
    if not same:
        raise LatentcastError(
            f"{file}: the run was trained on {place}, {store.path} holds other data; resume with "
            "the run's own store or choose another --out"
        )


def _note_resume(file: Path, store: Store, init: dict[str, Any] | None) -> None:
    """Refuse other first weights; write down another machine or version: bits depend on it."""
    now = environment(store)
    try:
        start = read_environment(file)
        same_init = init is None or start["init"]["sha256"] == init["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise LatentcastError(
            f"{file}: cannot be read ({problem}), and says which data the run was trained on; "
            "restore it or choose another --out"
        ) from None
    if not same_init:
        raise LatentcastError(
            f"{file}: the run began from step {start['init']['step']} of "
            f"{start['init']['source']}, which has other weights now; choose another --out"
        )
    changed = {k: v for k, v in now.items() if k not in ("data", "command") and start.get(k) != v}
    if changed and changed not in start.setdefault("resumed_under", []):
        start["resumed_under"].append(changed)
        try:
            write_environment(file, start)
        except OSError as problem:
            raise LatentcastError(
                f"{file}: cannot be written ({problem}); free space or make the folder writable, "
                "and give the same command"
            ) from None


def environment(store: Store) -> dict[str, Any]:
    """What a reader needs to trust or repeat a run: versions, git state, machine, data."""
    data = {"store": str(store.path.resolve()), "records": len(store), "sha256": store.checksums}
    return surroundings() | {"data": data}


def surroundings() -> dict[str, Any]:
    """Versions, git state, machine and command."""
    return {
        "latentcast": metadata.version("latentcast"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu_multiplies_bf16": MULTIPLIES_BF16,  # on which the path of attention depends
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "git": _git(),
        "command": _command(),
    }


def _command() -> str:
    """The command line; of a program that calls the library, its name."""
    program = Path(sys.argv[0]).name
    if program in ("latentcast", "__main__.py"):
        return " ".join(["latentcast", *sys.argv[1:]])
    return f"Python ({program or 'interactive'})"


def _git() -> str | None:
    """The commit of the code, with ``-dirty`` when it was changed; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
