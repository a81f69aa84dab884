"""A run folder made, resumed and kept to one training at a time; and the store it was made from."""

from __future__ import annotations

import fcntl
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentcast import config as configuration
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.files import write_text


def open_run(run: Path, config: Config, store: Store, init: dict[str, Any] | None = None) -> None:
    """Make the run folder with its configuration and environment, or check that it is ours.

    Args:
        init: which weights the run starts from, when it does so now; they are written down.

    Raises:
        LatentcastError: the folder is of another configuration, store or initial weights, or
            cannot be written; the store is damaged.
    """
    file, record = run / "config.yaml", run / "environment.json"
    if file.exists():
        if differing := configuration.differences(config, configuration.load(file)):
            raise LatentcastError(
                f"{file}: belongs to another run ("
                + "; ".join(differing)
                + "); choose another --out, or repeat the run's own settings to resume it"
            )
        _note_resume(record, store, init)
        return
    store.verify()  # once a run, before its first step: a damaged shard must not be learned from
    try:
        run.mkdir(parents=True, exist_ok=True)
        start = environment(store) | ({} if init is None else {"init": init})
        write_text(record, json.dumps(start, indent=1))
        write_text(file, config.to_yaml())  # last: its presence says that the folder is a run
    except OSError as problem:
        raise LatentcastError(
            f"{run}: cannot be written ({problem}); choose another --out"
        ) from None


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keep a second training out: its start would remove what this one is just saving.

    The lock ends with the process, however that ends; the file stays, so that all lock the same.
    """
    path = run / ".lock"
    try:
        file = path.open("a")
    except OSError as problem:
        raise LatentcastError(
            f"{run}: cannot be written ({problem}); make it writable and give the same command"
        ) from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise LatentcastError(
                f"{run}: another training is writing into it; wait until it ends or choose another "
                f"--out (if none is alive on any machine, remove {path})"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def data_of(run: Path) -> Store | None:
    """The store a run was trained on, for the leak check; None when it is no longer there.

    A folder of that name with other data is not the store.
    """
    file = run / "environment.json"
    try:
        data = json.loads(file.read_text())["data"]
        path, checksums = Path(data["store"]), data["sha256"]
    except (FileNotFoundError, KeyError):
        return None
    except (OSError, ValueError, TypeError) as problem:
        raise LatentcastError(
            f"{file}: cannot be read ({problem}); restore it from a copy, or put {{}} there to go "
            "on without the store that the run was trained on"
        ) from None
    if not (path / "manifest.json").is_file():
        return None
    store = Store.open(path)
    return store if store.checksums == checksums else None


def _note_resume(file: Path, store: Store, init: dict[str, Any] | None) -> None:
    """Refuse another store; write down another machine or version, since bits depend on it."""
    now = environment(store)
    try:
        start = json.loads(file.read_text())
        same = start["data"]["sha256"] == now["data"]["sha256"]
        same_init = init is None or start["init"]["sha256"] == init["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise LatentcastError(
            f"{file}: cannot be read ({problem}), and says which data the run was trained on; "
            "restore it or choose another --out"
        ) from None
    if not same:
        raise LatentcastError(
            f"{file}: the run was trained on {start['data']['store']}, {store.path} holds other "
            "data; resume with the run's own store or choose another --out"
        )
    if not same_init:
        raise LatentcastError(
            f"{file}: the run began from step {start['init']['step']} of "
            f"{start['init']['source']}, which has other weights now; choose another --out"
        )
    changed = {k: v for k, v in now.items() if k not in ("data", "command") and start.get(k) != v}
    if changed and changed not in start.setdefault("resumed_under", []):
        start["resumed_under"].append(changed)
        try:
            write_text(file, json.dumps(start, indent=1))
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
